"""Scenes of the synthetic data: objects, places and what may be said of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

OBJECT_RGB = np.array(
    [
        (205, 45, 40),
        (50, 160, 65),
        (50, 85, 205),
        (230, 210, 60),
        (135, 60, 165),
        (235, 135, 45),
        (235, 235, 235),
        (240, 150, 190),
    ]
)
GROUND_RGB = np.array(
    [
        (90, 140, 70),
        (70, 120, 160),
        (200, 175, 125),
        (210, 215, 220),
        (35, 40, 70),
        (115, 115, 115),
        (150, 95, 75),
        (150, 130, 105),
    ]
)
RADII = ((6, 7), (9, 10))  # of small and large objects, pixels, both ends included
JITTER = 20  # largest change of a colour's red, green and blue from picture to picture


T = TypeVar("T")
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SIDE = 64
CELL = 21  # a third of the side: every object keeps to a cell of its own, so none covers another
MAX_OBJECTS = 4

# The words of each table row are synonyms; the first one names the row.
SHAPES = (
    ("circle", "disc", "ball"),
    ("square", "box", "block"),
    ("triangle", "pyramid", "wedge"),
    ("diamond", "rhombus", "lozenge"),
    ("cross", "plus"),
    ("ring", "hoop", "loop"),
    ("bar", "plank", "stripe"),
    ("crescent", "moon"),
)
COLOURS = (
    ("red", "scarlet"),
    ("green", "emerald"),
    ("blue", "azure"),
    ("yellow", "golden"),
    ("purple", "violet"),
    ("orange", "amber"),
    ("white", "ivory"),
    ("pink", "rosy"),
)
SIZES = (("small", "little", "tiny"), ("large", "big", "huge"))
SETTINGS = (
    ("in a meadow", "on the grass", "in a field"),
    ("on a lake", "on the water", "at sea"),
    ("on a beach", "on the sand"),
    ("in the snow", "on the ice"),
    ("at night", "in the dark", "under the stars"),
    ("on a road", "in the street"),
    ("on a wall", "before the bricks"),
    ("on a floor", "on the tiles", "indoors"),
)
SETTING_NAMES = ("meadow", "lake", "beach", "snow", "night", "road", "wall", "floor")
Relation = Literal["left of", "above"]
# How a relation is said, and how its converse is, with the two things named in the other order.
RELATIONS: dict[Relation, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "left of": (("left of", "to the left of"), ("right of", "to the right of")),
    "above": (("above", "over"), ("below", "under")),
}
COUNTS = (1, 2, 2, 2, 3, 3, 3, 4, 4, 4)  # drawn from uniformly

ATTRIBUTES = (
    *(words[0] for words in SHAPES),
    *(words[0] for words in COLOURS),
    *(words[0] for words in SIZES),
    *(f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right")),
)


class Thing(NamedTuple):
    """An object, or what a caption says of one: None where it is silent.

    Attributes:
        shape: Row of SHAPES.
        colour: Row of COLOURS.
        size: Row of SIZES.
        row: 0 top, 1 middle, 2 bottom.
        column: 0 left, 1 middle, 2 right.
    """

    shape: int | None = None
    colour: int | None = None
    size: int | None = None
    row: int | None = None
    column: int | None = None


Key = tuple[int, frozenset[Thing]]  # the setting and the coloured shapes in it


@dataclass(frozen=True)
class Scenes:
    """Contents of n pictures; objects beyond an image's number have shape -1.

    Attributes:
        setting: Row of SETTINGS, which is the category, (n,).
        shape: Row of SHAPES, (n, 4).
        colour: Row of COLOURS, (n, 4); no colour and no shape appears twice in an image.
        size: Row of SIZES, (n, 4).
        cell: Place in the 3x3 grid, row by row, (n, 4).
        centre: y and x of the objects in pixels, (n, 4, 2).
        radius: Half the extent of the objects in pixels, (n, 4).
        rgb: Colour as drawn, (n, 4, 3).
        ground: Colour of the background as drawn, (n, 3).
        offset: Where the background is cut from its texture, y and x, (n, 2).
        twin: Row of the image with the colours of the first two objects exchanged, -1 where there is none, (n,).
    """

    setting: Ints
    shape: Ints
    colour: Ints
    size: Ints
    cell: Ints
    centre: Ints
    radius: Ints
    rgb: Ints
    ground: Ints
    offset: Ints
    twin: Ints

    def __len__(self) -> int:
        return len(self.setting)

    def take(self, rows: Sequence[int]) -> Scenes:
        """Return these rows; ``twin`` is kept as it is."""
        return Scenes(**{field.name: getattr(self, field.name)[list(rows)] for field in fields(self)})

    def things(self, row: int) -> list[Thing]:
        """List the objects of one image."""
        cell = self.cell[row]
        parts = (self.shape[row], self.colour[row], self.size[row], cell // 3, cell % 3)
        columns = zip(*(part.tolist() for part in parts), strict=True)
        return [Thing(*column) for column in columns if column[0] >= 0]

    def boxes(self) -> Floats:
        """Boxes around the objects as fractions x0, y0, x1, y1, (n, 4, 4); NaN where there is no object."""
        centre, radius = self.centre[..., ::-1], self.radius[..., None]
        corners = np.concatenate([centre - radius, centre + radius + 1], axis=-1) / SIDE
        return np.where(self.shape[..., None] >= 0, corners, np.nan).astype(np.float32)

    def attributes(self) -> npt.NDArray[np.int64]:
        """Return which of ATTRIBUTES some object of the image has, (n, n_attributes)."""
        found = np.zeros((len(self), len(ATTRIBUTES)), dtype=np.int64)
        start = 0
        for part, width in ((self.shape, len(SHAPES)), (self.colour, len(COLOURS)), (self.size, 2), (self.cell, 9)):
            image, slot = np.nonzero(self.shape >= 0)
            found[image, start + part[image, slot]] = 1
            start += width
        return found


def draw_scenes(n: int, rng: np.random.Generator) -> Scenes:
    """Draw the contents of n pictures; each setting has shapes and colours that it shows more often."""
    setting = rng.integers(len(SETTINGS), size=n)
    count = np.array(COUNTS)[rng.integers(len(COUNTS), size=n)]

    def distinct(n_kinds: int, bonus: npt.NDArray[np.float64] | float) -> Ints:
        """Pick MAX_OBJECTS different kinds an image, those with a bonus more often."""
        keys = rng.random((n, n_kinds)) - bonus
        return np.argsort(keys, axis=1, kind="stable")[:, :MAX_OBJECTS]

    shape = distinct(len(SHAPES), _typical(len(SHAPES), 3)[setting])
    colour = distinct(len(COLOURS), _typical(len(COLOURS), 5)[setting])
    cell = distinct(9, 0.0)
    size = rng.integers(len(SIZES), size=(n, MAX_OBJECTS))
    size[:, 1] = size[:, 0]  # so that exchanging their colours keeps the area of each colour
    low, high = np.array(RADII).T
    radius = rng.integers(low[size], high[size] + 1)
    radius[:, 1] = radius[:, 0]
    slack = (CELL // 2 - radius)[..., None]
    centre = np.stack([cell // 3, cell % 3], axis=-1) * CELL + CELL // 2 + rng.integers(-slack, slack + 1, (n, 4, 2))
    absent = np.arange(MAX_OBJECTS) >= count[:, None]
    return Scenes(
        setting=setting,
        shape=np.where(absent, -1, shape),
        colour=colour,
        size=size,
        cell=cell,
        centre=centre,
        radius=radius,
        rgb=np.clip(OBJECT_RGB[colour] + rng.integers(-JITTER, JITTER + 1, (n, MAX_OBJECTS, 3)), 0, 255),
        ground=np.clip(GROUND_RGB[setting] + rng.integers(-JITTER, JITTER + 1, (n, 3)), 0, 255),
        offset=rng.integers(SIDE, size=(n, 2)),
        twin=np.full(n, -1),
    )


def _typical(n_kinds: int, step: int) -> npt.NDArray[np.float64]:
    """Bonus of each kind in each setting, (n_settings, n_kinds): three kinds of the setting's own."""
    settings = np.arange(len(SETTINGS))[:, None]
    bonus = np.zeros((len(SETTINGS), n_kinds))
    bonus[settings, (settings * step + np.arange(3)) % n_kinds] = 0.35
    return bonus


def exchanged(scenes: Scenes) -> Scenes:
    """Return the same pictures with the colours of the first two objects exchanged."""
    swap = [1, 0, *range(2, MAX_OBJECTS)]
    return replace(scenes, colour=scenes.colour[:, swap], rgb=scenes.rgb[:, swap])


def draw_split(n: int, twins: float, seen: set[Key], rng: np.random.Generator) -> Scenes:
    """Draw n pictures that show coloured shapes in a setting as no picture before them did.

    Args:
        n: Number of pictures.
        twins: Fraction of the scenes with two or more objects that bring their twin along.
        seen: What pictures so far show; grows.
        rng: Source of chance.

    Returns:
        Their contents.
    """
    chosen = draw_scenes(0, rng)
    while len(chosen) < n:
        base = draw_scenes(2 * n + 16, rng)
        both = _join(base, exchanged(base))
        wants_twin = (rng.random(len(base)) < twins) & (base.shape[:, 1] >= 0)
        rows: list[int] = []
        twin: list[int] = []
        for row in range(len(base)):
            at = len(chosen) + len(rows)
            group = [row, row + len(base)] if wants_twin[row] and at + 2 <= n else [row]
            keys = {_key(both, member) for member in group}
            if at == n or keys & seen:
                continue
            seen |= keys
            twin += [at + 1, at] if len(group) == 2 else [-1]
            rows += group
        chosen = _join(chosen, replace(both.take(rows), twin=np.array(twin, dtype=np.int64)))
    return chosen


def _join(first: Scenes, second: Scenes) -> Scenes:
    return Scenes(
        **{
            field.name: np.concatenate([getattr(first, field.name), getattr(second, field.name)])
            for field in fields(Scenes)
        }
    )


def _key(scenes: Scenes, row: int) -> Key:
    bindings = frozenset(Thing(thing.shape, thing.colour) for thing in scenes.things(row))
    return int(scenes.setting[row]), bindings


def pick(options: Sequence[T], chance: Iterator[float]) -> T:
    """Return the option that the next random number chooses."""
    return options[int(next(chance) * len(options))]
