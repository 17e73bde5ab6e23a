"""A drawing of each family: what happens between the photograph, the text and the score."""

from __future__ import annotations

from html import escape

FAMILIES = {
    "pairwise": ("Pairwise learning", "one vector per item; the loss compares pairs or triplets", "", "cosine"),
    "adversarial": (
        "Adversarial learning",
        "no discriminator can tell the modalities apart",
        "discriminator",
        "cosine",
    ),
    "interaction": ("Interaction learning", "the score looks at both items at once", "", "attention"),
    "attributes": (
        "Attributes learning",
        "both sides become attributes or codes",
        "attributes",
        "comparison",
    ),
    "subspace": ("Subspace baselines", "a common space solved in closed form, or its deep variant", "", "cosine"),
}
_ARROW = (
    '<defs><marker id="a" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
    '<path d="M0 0L6 3L0 6z" fill="currentColor"/></marker></defs>'
)
_ENCODERS = {"subspace": ("projection", "projection"), "interaction": ("regions", "words")}


def family_svg(family: str) -> str:
    """Return the drawing of a family as SVG that follows the colours of the page."""
    title, _, middle, score = FAMILIES.get(family, (family, "", "", "score"))
    left, right = _ENCODERS.get(family, ("encoder", "encoder"))
    boxes = [
        (10, 10, "image"),
        (130, 10, left),
        (10, 90, "text"),
        (130, 90, right),
        (400, 50, score),
        (510, 50, "ranking"),
    ]
    lines = [((90, 30), (130, 30)), ((90, 110), (130, 110)), ((480, 70), (510, 70))]
    if middle:
        boxes.append((260, 50, middle))
        lines += [((210, 30), (260, 62)), ((210, 110), (260, 78)), ((360, 70), (400, 70))]
    else:
        lines += [((210, 30), (400, 62)), ((210, 110), (400, 78))]
    parts = [
        f'<path d="M{x0} {y0}L{x1} {y1}" stroke="currentColor" marker-end="url(#a)"/>' for (x0, y0), (x1, y1) in lines
    ]
    for x, y, text in boxes:
        width = 100 if text == middle else 80
        place = f'x="{x + width // 2}" y="{y + 25}" text-anchor="middle"'
        parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="40" rx="6" fill="none" stroke="currentColor"/>')
        parts.append(f'<text {place} fill="currentColor">{escape(text)}</text>')
    style = "max-width:36rem;font:14px sans-serif"
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 600 140" style="{style}">'
        f"{_ARROW}{''.join(parts)}</svg>"
    )
