"""A section laid out as text: heads, cells, marks and their legend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cmr_bench.leaderboard.columns import best, best_of, columns
from cmr_bench.leaderboard.naming import NEVER_BEST
from cmr_bench.leaderboard.rows import Row, Section
from cmr_bench.results.groups import parts_of
from cmr_bench.results.published import load_published

# Flag -> mark in a row and its meaning in the legend; a flag that is not here stands in the row in full.
MARKS = {
    "transductive": ("t", "transductive: scores were corrected using the whole test set"),
    "selected_on_test": ("!", "the checkpoint was selected on the test split, as in released code"),
    "shortened": ("shortened", "trained on fewer batches or epochs than the recipe; never the best"),
    "draws": ("d", "mean over seeded draws of the test split"),
    "ensemble": ("e", "ensemble of several models"),
    "uses_test_groups": ("g", "uses which captions of the test set belong together"),
    "unseen_classes": ("z", "zero-shot: no class of the test split was trained on"),
    "external": ("x", "evaluated from external files; the content of the test split is not verified"),
    "skipped": ("s", "some images were skipped because a file is missing"),
    "mid_rank_recalls": ("m", "R@K by an older rule for ties: a tied match counted by its mid-rank, not by its chance"),
    "published_ensemble": ("pe", "the published results are those of an ensemble"),
    "published_transductive": ("pt", "the published results were corrected using the whole test set"),
    "published_uses_test_groups": ("pg", "the published results use which captions of the test set belong together"),
}
_HEADS = {
    "r1": "R@1",
    "r5": "R@5",
    "r10": "R@10",
    "medr": "MedR",
    "meanr": "MeanR",
    "mr": "mR",
    "map": "mAP",
    "map_at_50_retrieved": "mAP@50 retrieved",
    "map_at_r": "mAP@R",
    "r_precision": "R-Precision",
    "ndcg_at_10": "nDCG@10",
    "minp": "mINP",
}
_ONE_DECIMAL = ("r1", "r5", "r10", "medr", "meanr", "mr", "rsum")
# Sides of a metric in a table of a suite, and what they are called where the terminal is narrow.
_PARTS = {"published": "paper", "measured": "here", "difference": "diff."}


def head(name: str) -> tuple[str, str]:
    """Return direction (i2t, t2i or empty) and heading of a metric, with its part of the split or its kind of match."""
    prefix, plain = parts_of(name)
    direction = next((way for way in ("i2t", "t2i") if plain.startswith(f"{way}_")), "")
    rest = plain.removeprefix(f"{direction}_") if direction else plain
    return direction, f"{prefix} {_HEADS.get(rest, rest)}".strip()


def number(name: str, value: float) -> str:
    """Write a value of a metric with the decimals that its unit deserves."""
    plain = parts_of(name)[1].removeprefix("i2t_").removeprefix("t2i_")
    return f"{value:.1f}" if plain in _ONE_DECIMAL else f"{value:.3f}"


def marks(row: Row) -> list[str]:
    """Return the marks of a row's flags."""
    return [MARKS[flag][0] if flag in MARKS else flag for flag in row.flags]


def legend(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return mark and meaning of every mark in use, in the order of :data:`MARKS`."""
    used = {flag for row in rows for flag in row.flags}
    return [MARKS[flag] for flag in MARKS if flag in used]


def clean(text: str) -> str:
    """Return text on one line, without control characters and halves of surrogate pairs."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())


@dataclass(frozen=True)
class _Column:
    """One column of figures: a metric, and in a table of a suite which side of it."""

    metric: str
    part: str = ""

    def lines(self, short: bool = False) -> list[str]:
        """The heading, from the general to the particular."""
        parts = (*head(self.metric), _PARTS.get(self.part, "") if short else self.part)
        # A record from elsewhere can name a metric by nothing; its column still needs a heading.
        return [text for text in parts if text] or ["?"]


@dataclass(frozen=True)
class _Cell:
    """A figure as it is written, and what stands behind or below it: its spread, or a verdict."""

    text: str = ""
    second: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class Board:
    """One section, ready to be written: what is shown of it and which values are best."""

    section: Section
    names: list[str]
    rows: list[Row]
    best: Mapping[str, float]
    best_published: Mapping[str, float]

    @property
    def compares(self) -> bool:
        """Whether published figures stand beside the measured ones, row by row."""
        return bool(self.section.paper)

    @property
    def has_best(self) -> bool:
        """Whether any figure is marked as the best of its column."""
        return bool(self.best or self.best_published)

    def columns(self, without: Sequence[str] = ()) -> list[_Column]:
        """The columns of figures, but for those of metrics ``without``."""
        parts = _PARTS if self.compares else ("",)
        return [_Column(name, part) for name in self.names if name not in without for part in parts]

    def marks_best(self, column: _Column) -> bool:
        """Whether a figure of this column is marked as the best."""
        if column.part == "difference":
            return False
        return column.metric in (self.best_published if column.part == "published" else self.best)

    def cell(self, row: Row, column: _Column) -> _Cell:
        """Return the figure of a row; blank where it lacks the metric."""
        name = column.metric
        if column.part == "difference":
            difference = row.difference(name)
            if difference is None:
                return _Cell()
            verdict = {True: "in", False: "out", None: "1 seed"}[row.inside(name)]
            return _Cell(("+" if difference >= 0 else "") + number(name, difference), verdict)
        published = column.part == "published"
        values, spreads = (row.published, row.published_spread) if published else (row.metrics, row.spread)
        if name not in values:
            return _Cell()
        top = self.best_published if published else self.best
        spread = f"±{number(name, spreads[name])}" if name in spreads else ""
        ranked = row.measured and not set(row.flags) & set(NEVER_BEST)
        is_best = (ranked or published) and name in top and values[name] == top[name]
        return _Cell(number(name, values[name]), spread, is_best)

    def notes(self) -> Iterator[str]:
        """What a reader must know, beside the legend of marks."""
        several = [row for row in self.rows if row.measured and row.spread]
        if several:
            drawn = any(row.draws for row in several)
            yield f"± is the standard deviation over seeds{' and draws of the test split' if drawn else ''}."
        if self.compares:
            yield (
                "Difference: measured - published; in or out: whether it is within two standard deviations of the "
                "measured seeds, combined with those of the publication if reported; 1 seed: no test."
            )
        left_out = sum(row.superseded for row in self.rows)
        if left_out:
            yield f"Not shown: {left_out} earlier result{'s' if left_out > 1 else ''} of a repeated seed."
        copies = sum(row.copies for row in self.rows)
        if copies:
            yield (
                f"Not shown: {copies} result{'s' if copies > 1 else ''} with every digit and the wall time of another "
                "seed: one result copied under several seeds."
            )
        for row in self.rows:
            if row.mixture:
                yield f"{row.label}: averaged over {'; '.join(row.mixture)}."
        for warning in self.section.warnings:
            yield f"{warning}."
        flagged = self.section.left_out
        if flagged:
            yield f"Not shown: {flagged} result{'s' if flagged > 1 else ''} with a flag, such as transductive."
        if self.section.remark and (self.compares or any(not row.measured for row in self.rows)):
            yield self.section.remark[0].upper() + self.section.remark[1:] + "."

    def best_note(self, mark: str) -> str:
        """Describe what the mark of the best figures means."""
        return f"{mark}best of the measured rows" + (", and of the published ones" if self.compares else "")

    def sources(self) -> dict[str, str]:
        """Keys of the publications in use and what they stand for."""
        used = [self.section.paper, *(row.source for row in self.rows)]
        known = load_published().sources if any(used) else {}
        return {key: known.get(key, key) for key in dict.fromkeys(used) if key}


def board_of(section: Section, wanted: Sequence[str] | None) -> Board:
    """Lay out a section; ``wanted`` are the metrics to show, None the section's own."""
    names = columns(section, wanted)
    rows = [row for row in section.rows if row.measured or any(name in row.metrics for name in names)]
    published = best_of([row.published for row in rows], names) if section.paper else {}
    return Board(section, names, rows, best(rows, names), published)
