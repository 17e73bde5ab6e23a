"""Captions of the synthetic data: what is true of a scene and tells it from others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np

from cmr_bench.datamodules.synthetic.scenes import (
    COLOURS,
    RELATIONS,
    SETTINGS,
    SHAPES,
    SIZES,
    Relation,
    Scenes,
    Thing,
    pick,
)

GENERIC = ("thing", "shape", "object")
PLACES: dict[tuple[int | None, int | None], tuple[str, ...]] = {
    (0, None): ("at the top",),
    (2, None): ("at the bottom",),
    (None, 0): ("on the left", "at the left edge"),
    (None, 2): ("on the right", "at the right edge"),
    (0, 0): ("in the top left corner",),
    (0, 2): ("in the top right corner",),
    (2, 0): ("in the bottom left corner",),
    (2, 2): ("in the bottom right corner",),
    (1, 1): ("in the middle", "in the centre"),
}
FRAMES = ("{things}", "there is {things}", "a picture of {things}", "you can see {things}")
SETTING_FRAMES = ("{things} {setting}", "there is {things} {setting}", "{setting} there is {things}")


class Meaning(NamedTuple):
    """What a caption claims: these things exist, all different, the first related to the second, in this setting."""

    things: tuple[Thing, ...]
    relation: Relation | None = None
    setting: int | None = None


def holds(meaning: Meaning, things: Sequence[Thing], setting: int) -> bool:
    """Return whether a caption is true of a picture with these things in this setting."""
    if meaning.setting not in (None, setting):
        return False
    return any(
        all(_fits(said, seen) for said, seen in zip(meaning.things, chosen, strict=True))
        and (meaning.relation is None or _related(meaning.relation, chosen[0], chosen[1]))
        for chosen in permutations(things, len(meaning.things))
    )


def _fits(said: Thing, seen: Thing) -> bool:
    return all(word is None or word == fact for word, fact in zip(said, seen, strict=True))


def _related(relation: Relation, first: Thing, second: Thing) -> bool:
    a, b = (first.column, second.column) if relation == "left of" else (first.row, second.row)
    assert a is not None
    assert b is not None
    return a < b


def chances(rng: np.random.Generator) -> Iterator[float]:
    """Yield numbers in 0..1 for ever; far cheaper than asking the generator for one at a time."""
    while True:
        yield from rng.random(4096).tolist()


def choose_meaning(things: Sequence[Thing], setting: int, chance: Iterator[float]) -> Meaning:
    """Choose what a caption says of a picture: part of its things, part of what is true of each."""
    order = sorted(things, key=lambda _: next(chance))
    said = order[: pick((1, 2, 2, 2, 3, 3, 3), chance)]
    where = setting if len(said) == 1 or next(chance) < 0.5 else None
    if len(said) == 2 and next(chance) < 0.4:
        for relation in sorted(RELATIONS, key=lambda _: next(chance)):
            for first, second in (said, said[::-1]):
                if _related(relation, first, second):
                    return Meaning((_describe(first, chance, 0), _describe(second, chance, 0)), relation, where)
    return Meaning(tuple(_describe(thing, chance, 0.5 / len(said)) for thing in said), None, where)


def _describe(thing: Thing, chance: Iterator[float], place: float) -> Thing:
    """Keep part of what is true of a thing; its place with probability ``place``."""
    keep = pick(("both",) * 18 + ("colour", "shape"), chance)
    row: int | None = None
    column: int | None = None
    if next(chance) < place:
        fitting = [at for at in PLACES if at[0] in (None, thing.row) and at[1] in (None, thing.column)]
        row, column = pick(fitting, chance) if fitting else (None, None)
    return Thing(
        thing.shape if keep != "colour" else None,
        thing.colour if keep != "shape" else None,
        thing.size if next(chance) < 0.25 else None,
        row,
        column,
    )


def say(meaning: Meaning, chance: Iterator[float]) -> str:
    """Put a meaning into words."""
    spoken = [_noun_phrase(thing, chance) for thing in meaning.things]
    if meaning.relation is not None:
        forms = RELATIONS[meaning.relation]
        converse = next(chance) < 0.5
        first, second = reversed(spoken) if converse else spoken
        text = f"{first} {pick(forms[converse], chance)} {second}"
    else:
        text = " and ".join([", ".join(spoken[:-1]), spoken[-1]]) if len(spoken) > 1 else spoken[0]
    if meaning.setting is None:
        return pick(FRAMES, chance).format(things=text)
    return pick(SETTING_FRAMES, chance).format(things=text, setting=pick(SETTINGS[meaning.setting], chance))


def _noun_phrase(thing: Thing, chance: Iterator[float]) -> str:
    words = [
        pick(table[value], chance)
        for table, value in ((SIZES, thing.size), (COLOURS, thing.colour), (SHAPES, thing.shape))
        if value is not None
    ]
    if thing.shape is None:
        words.append(pick(GENERIC, chance))
    if thing.row is not None or thing.column is not None:
        words.append(pick(PLACES[thing.row, thing.column], chance))
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def write_captions(
    scenes: Scenes, fewest: int, most: int, rng: np.random.Generator
) -> tuple[list[str], list[Meaning], list[int]]:
    """Write ``fewest`` to ``most`` different captions per image.

    Returns:
        The texts, what they claim and the row of the image that each belongs to.
    """
    chance = chances(rng)
    texts: list[str] = []
    meanings: list[Meaning] = []
    owners: list[int] = []
    for row, setting in enumerate(scenes.setting.tolist()):
        things = scenes.things(row)
        own: dict[str, Meaning] = {}
        wanted = fewest + int(next(chance) * (most - fewest + 1))
        while len(own) < wanted:
            meaning = choose_meaning(things, setting, chance)
            own.setdefault(say(meaning, chance), meaning)
        texts += own
        meanings += own.values()
        owners += [row] * len(own)
    return texts, meanings, owners
