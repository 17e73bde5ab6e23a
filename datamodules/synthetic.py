"""Pictures of coloured shapes with captions, drawn on the spot: the data set that needs no files."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from itertools import permutations
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from cmr_bench.datamodules.base import (
    SPLITS,
    ArrayView,
    Origin,
    RetrievalDataModule,
    Rows,
    Split,
    View,
    ViewKind,
    ViewSpec,
)
from cmr_bench.errors import UsageError

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
Relation = Literal["left of", "above"]
# How a relation is said, and how its converse is, with the two things named in the other order.
RELATIONS: dict[Relation, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "left of": (("left of", "to the left of"), ("right of", "to the right of")),
    "above": (("above", "over"), ("below", "under")),
}
FRAMES = ("{things}", "there is {things}", "a picture of {things}", "you can see {things}")
SETTING_FRAMES = ("{things} {setting}", "there is {things} {setting}", "{setting} there is {things}")

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


class Meaning(NamedTuple):
    """What a caption claims: these things exist, all different, the first related to the second, in this setting."""

    things: tuple[Thing, ...]
    relation: Relation | None = None
    setting: int | None = None


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
        columns = zip(
            *(part[row].tolist() for part in (self.shape, self.colour, self.size, self.cell // 3, self.cell % 3)),
            strict=True,
        )
        return [Thing(*column) for column in columns if column[0] >= 0]

    def boxes(self) -> Floats:
        """Boxes around the objects as fractions x0, y0, x1, y1, (n, 4, 4); NaN where there is no object."""
        centre, radius = self.centre[..., ::-1], self.radius[..., None]
        corners = np.concatenate([centre - radius, centre + radius + 1], axis=-1) / SIDE
        return np.where(self.shape[..., None] >= 0, corners, np.nan).astype(np.float32)

    def attributes(self) -> npt.NDArray[np.int64]:
        """Tell which of ATTRIBUTES some object of the image has, (n, n_attributes)."""
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
        twins: Share of the scenes with two or more objects that bring their twin along.
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


def holds(meaning: Meaning, things: Sequence[Thing], setting: int) -> bool:
    """Tell whether a caption is true of a picture with these things in this setting."""
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


def _pick(options: Sequence[T], chance: Iterator[float]) -> T:
    return options[int(next(chance) * len(options))]


def choose_meaning(things: Sequence[Thing], setting: int, chance: Iterator[float]) -> Meaning:
    """Choose what a caption says of a picture: part of its things, part of what is true of each."""
    order = sorted(things, key=lambda _: next(chance))
    said = order[: _pick((1, 2, 2, 2, 3, 3, 3), chance)]
    where = setting if len(said) == 1 or next(chance) < 0.5 else None
    if len(said) == 2 and next(chance) < 0.4:
        for relation in sorted(RELATIONS, key=lambda _: next(chance)):
            for first, second in (said, said[::-1]):
                if _related(relation, first, second):
                    return Meaning((_describe(first, chance, 0), _describe(second, chance, 0)), relation, where)
    return Meaning(tuple(_describe(thing, chance, 0.5 / len(said)) for thing in said), None, where)


def _describe(thing: Thing, chance: Iterator[float], place: float) -> Thing:
    """Keep part of what is true of a thing; its place with probability ``place``."""
    keep = _pick(("both",) * 18 + ("colour", "shape"), chance)
    row: int | None = None
    column: int | None = None
    if next(chance) < place:
        fitting = [at for at in PLACES if at[0] in (None, thing.row) and at[1] in (None, thing.column)]
        row, column = _pick(fitting, chance) if fitting else (None, None)
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
        text = f"{first} {_pick(forms[converse], chance)} {second}"
    else:
        text = " and ".join([", ".join(spoken[:-1]), spoken[-1]]) if len(spoken) > 1 else spoken[0]
    if meaning.setting is None:
        return _pick(FRAMES, chance).format(things=text)
    return _pick(SETTING_FRAMES, chance).format(things=text, setting=_pick(SETTINGS[meaning.setting], chance))


def _noun_phrase(thing: Thing, chance: Iterator[float]) -> str:
    words = [
        _pick(table[value], chance)
        for table, value in ((SIZES, thing.size), (COLOURS, thing.colour), (SHAPES, thing.shape))
        if value is not None
    ]
    if thing.shape is None:
        words.append(_pick(GENERIC, chance))
    if thing.row is not None or thing.column is not None:
        words.append(_pick(PLACES[thing.row, thing.column], chance))
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def write_captions(
    scenes: Scenes, fewest: int, most: int, rng: np.random.Generator
) -> tuple[list[str], list[Meaning], list[int]]:
    """Write ``fewest`` to ``most`` different captions an image.

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


def shape_mask(shape: int, radius: int) -> npt.NDArray[np.bool_]:
    """Rasterise a shape in whole numbers, (CELL, CELL), centred: the same pixels on every machine."""
    y, x = np.indices((CELL, CELL)) - CELL // 2
    square = np.maximum(abs(x), abs(y)) <= radius
    disc = x * x + y * y <= radius * radius + radius // 2
    masks = (
        disc,
        np.maximum(abs(x), abs(y)) <= radius - radius // 6,
        square & (2 * abs(x) <= y + radius),
        abs(x) + abs(y) <= radius,
        square & (np.minimum(abs(x), abs(y)) <= radius // 3),
        disc & (4 * (x * x + y * y) > radius * radius),
        square & (abs(y) <= radius // 2),
        disc & ((2 * x - radius) ** 2 + 4 * y * y > 3 * radius * radius),
    )
    return masks[shape]


def textures() -> npt.NDArray[np.int16]:
    """Brightness patterns of the settings, (n_settings, 2 * SIDE, 2 * SIDE)."""
    y, x = np.indices((2 * SIDE, 2 * SIDE))
    grain = np.random.default_rng(7).integers(0, 256, (2 * SIDE, 2 * SIDE))
    coarse = grain[y // 2, x // 2]
    patterns = (
        grain[y // 8, x] // 5 - 25,  # blades
        abs((y + grain[0, x // 6] // 64) % 8 - 4) * 11 - 22,  # waves
        grain // 4 - 32,  # sand
        np.where(coarse > 235, -40, 5),  # lumps
        np.where(grain > 249, 170, 0),  # stars
        np.where((x % 32 < 4) & (y % 16 < 10), 60, coarse // 10 - 12),  # road marks
        np.where((y % 8 == 0) | ((x + y // 8 % 2 * 8) % 16 == 0), 45, -6),  # bricks
        np.where((y // 8 + x // 8) % 2 == 0, 18, -18),  # tiles
    )
    return np.stack(patterns).astype(np.int16)


def paint(scenes: Scenes, noise: int, rng: np.random.Generator) -> Bytes:
    """Draw the pictures, (n, SIDE, SIDE, 3), in integer arithmetic.

    Args:
        scenes: What to draw.
        noise: Largest change of a pixel's brightness by noise, 0..255.
        rng: Source of the noise.
    """
    n = len(scenes)
    patterns = textures()
    canvas = np.empty((n, SIDE, SIDE, 3), dtype=np.int16)
    for row, (setting, (top, left)) in enumerate(zip(scenes.setting.tolist(), scenes.offset.tolist(), strict=True)):
        canvas[row] = patterns[setting, top : top + SIDE, left : left + SIDE, None]
    canvas += scenes.ground.astype(np.int16)[:, None, None]
    masks = np.array([[shape_mask(shape, radius) for radius in range(CELL // 2 + 1)] for shape in range(len(SHAPES))])
    for slot in range(MAX_OBJECTS):
        image = np.flatnonzero(scenes.shape[:, slot] >= 0)
        shape, radius = scenes.shape[image, slot], scenes.radius[image, slot]
        inside = masks[shape, radius]
        item, y, x = np.nonzero(inside)
        rim = inside[item, y, x] & ~masks[shape, radius - 1][item, y, x]
        at = scenes.centre[image, slot][item] - CELL // 2 + np.stack([y, x], axis=1)
        rgb = scenes.rgb[image, slot][item]
        canvas[image[item], at[:, 0], at[:, 1]] = np.where(rim[:, None], rgb * 5 // 8, rgb)
    canvas += rng.integers(-noise, noise + 1, (n, SIDE, SIDE, 1), dtype=np.int16)
    return np.clip(canvas, 0, 255).astype(np.uint8)


GRID = 7
WINDOW, STEP = 6, 4  # of a region, in filter positions; 2 pixels lie between two positions
N_EDGE, N_COLOUR = 96, 32


def filter_bank() -> Floats:
    """Fixed random filters over 3x3 blocks of 2x2 pixels, (27, N_EDGE + N_COLOUR).

    The first look for a spatial pattern along a direction of colour, the last for a colour. Whole numbers, small
    enough for every sum to be exact in float32: features do not depend on the order in which a machine adds.
    """
    rng = np.random.default_rng(11)
    pattern = 9 * rng.integers(-2, 3, (N_EDGE, 9))
    pattern -= pattern.sum(axis=1, keepdims=True) // 9
    edges = pattern[:, :, None] * rng.integers(-2, 3, (N_EDGE, 3))[:, None]
    wanted = 9 * rng.integers(-2, 3, (N_COLOUR, 3))
    wanted *= np.where((wanted <= 0).all(axis=1, keepdims=True), -1, 1)  # no picture has less than no colour
    colours = np.zeros((N_COLOUR, 9, 3), dtype=np.int64)
    colours[:, 4] = wanted
    return np.concatenate([edges, colours]).reshape(-1, 27).T.astype(np.float32)


def region_features(pixels: Bytes) -> Floats:
    """Filter the pictures and pool the responses over a grid of overlapping windows, (n, GRID * GRID, n_filters).

    A feature is the root of the summed size of a filter's responses in the window, of the positive ones for colours.
    """
    bank = filter_bank()
    return np.concatenate([_pooled(pixels[start : start + 32], bank) for start in range(0, len(pixels), 32)])


def _pooled(pixels: Bytes, bank: Floats) -> Floats:
    n, half = len(pixels), SIDE // 2
    blocks = pixels.reshape(n, half, 2, half, 2, 3).sum(axis=(2, 4), dtype=np.float32)
    patches = np.lib.stride_tricks.sliding_window_view(blocks, (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    responses = patches.reshape(-1, 27) @ bank
    np.abs(responses[:, :N_EDGE], out=responses[:, :N_EDGE])
    np.maximum(responses[:, N_EDGE:], 0, out=responses[:, N_EDGE:])
    responses = responses.reshape(n, half - 2, half - 2, -1)
    last = (GRID - 1) * STEP + 1
    rows = reduce(np.add, (responses[:, at : at + last : STEP] for at in range(WINDOW)))
    cells: Floats = reduce(np.add, (rows[:, :, at : at + last : STEP] for at in range(WINDOW)))
    scaled: Floats = np.sqrt(cells.reshape(n, GRID * GRID, -1) / np.float32(2**16))
    return scaled


def vector_features(pictures: Bytes) -> Floats:
    """Pool the regions of a picture to mean and spread, (n, 2 * n_filters): what is there, not what goes together."""
    regions = region_features(pictures)
    return np.concatenate([regions.mean(axis=1), regions.std(axis=1)], axis=1)


def feature_scale(features: Floats) -> tuple[Floats, Floats]:
    """Return mean and deviation of each number over the training pictures, (n_filters,) or (2 * n_filters,)."""
    axes = tuple(range(features.ndim - 1))
    centre, spread = (f(axes, dtype=np.float64).astype(np.float32) for f in (features.mean, features.std))
    return centre, np.maximum(spread, np.float32(1e-6))


FEATURES: dict[str, Callable[[Bytes], Floats]] = {"regions": region_features, "vector": vector_features}


def grid_boxes() -> Floats:
    """Boxes of the regions as fractions x0, y0, x1, y1, (GRID * GRID, 4)."""
    corner = np.arange(GRID) * STEP * 2
    extent = 2 * (WINDOW + 2)
    y, x = (part.ravel() for part in np.meshgrid(corner, corner, indexing="ij"))
    return (np.stack([x, y, x + extent, y + extent], axis=1) / SIDE).astype(np.float32)


class PictureView(View):
    """Drawn pictures as RGB in 0..1, (3, size, size).

    Args:
        pictures: The pictures, (n, SIDE, SIDE, 3).
        size: Side of what is delivered, in pixels.
    """

    def __init__(self, pictures: Bytes, size: int) -> None:
        self.pictures, self.size = pictures, size
        self.spec = ViewSpec("pixels", (3, size, size), "synthetic")

    def __len__(self) -> int:
        return len(self.pictures)

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Return ``pixels``; never augmented, since a flipped picture would belie captions that say left or right."""
        pixels = torch.from_numpy(self.pictures[rows]).permute(0, 3, 1, 2).float() / 255
        if self.size != SIDE:
            pixels = functional.interpolate(pixels, size=(self.size, self.size), mode="bilinear", antialias=True)
        return {"pixels": pixels}

    def origin(self) -> Origin:
        """Return the side of the pixels delivered."""
        return Origin("drawn", {"view": "pixels", "size": self.size})


class DrawnView(ArrayView):
    """Features of drawn pictures, scaled by the training split.

    Args:
        features: The features as computed, (n, d) or (n, R, d).
        kind: vector or regions.
        centre: Mean of each number, (d,).
        spread: Deviation of each number, (d,).
    """

    def __init__(self, features: Floats, kind: str, centre: Floats, spread: Floats) -> None:
        boxes = grid_boxes() if kind == "regions" else None
        super().__init__((features - centre) / spread, f"synthetic:{kind}", boxes=boxes)
        self.scale = {"centre": centre, "spread": spread}

    def origin(self) -> Origin:
        """Return kind and scale of the features."""
        return Origin("drawn", {"view": self.spec.kind}, self.scale)


class Synthetic(RetrievalDataModule):
    """Drawn pictures of coloured shapes with captions; needs no files and is the same on every machine.

    The category of a picture is its setting (meadow, lake, beach, ...): seen in the background, named in most
    captions and hinted at by the shapes and colours that are typical of it. Half of the pictures with two or more
    objects come with a twin that differs only in which of two objects has which colour. By split, ``scenes`` holds the
    contents of the pictures with boxes and attributes, ``meanings`` what captions claim and ``pictures`` the pixels.

    Args:
        n_train: Training images.
        n_val: Validation images.
        n_test: Test images.
        min_captions: Fewest captions of an image.
        max_captions: Most captions of an image.
        twins: Share of the scenes that also appear with the colours of two objects exchanged, in the same split.
        noise: Largest change of a pixel by noise, of 255.
        content_seed: Seed of pictures and captions; a run's seed leaves them as they are.
        image_size: Side of the square pictures in pixels; they are drawn at 64 and resized to this.
        text_features: Text vectors for methods that read vectors: tfidf, doc2vec or hf:NAME_OR_FOLDER.
    """

    data_name: ClassVar[str] = "synthetic"
    selection: ClassVar[Literal["rsum", "map"]] = "rsum"

    def __init__(
        self,
        n_train: int = 1500,
        n_val: int = 250,
        n_test: int = 250,
        min_captions: int = 3,
        max_captions: int = 6,
        twins: float = 0.5,
        noise: int = 12,
        content_seed: int = 0,
        image_size: int = SIDE,
        text_features: str | None = "tfidf",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, text_features=text_features, **kwargs)
        if min(n_train, n_val, n_test) < 1:
            raise UsageError(
                f"every split needs an image; --data.n_train, n_val, n_test are {n_train}, {n_val}, {n_test}"
            )
        if not 1 <= min_captions <= max_captions <= 20:
            raise UsageError(
                f"--data.min_captions {min_captions}, max_captions {max_captions}: need 1 <= min <= max <= 20"
            )
        if not 0 <= twins <= 1:
            raise UsageError(f"--data.twins {twins} is a share between 0 and 1")
        if not 0 <= noise <= 255:
            raise UsageError(f"--data.noise {noise} is a brightness between 0 and 255")
        if content_seed < 0:
            raise UsageError(f"--data.content_seed {content_seed} must not be negative")
        self.sizes = dict(zip(SPLITS, (n_train, n_val, n_test), strict=True))
        self.min_captions, self.max_captions = min_captions, max_captions
        self.twins, self.noise, self.content_seed = twins, noise, content_seed
        self.scenes: dict[str, Scenes] = {}
        self.meanings: dict[str, list[Meaning]] = {}
        self.pictures: dict[str, Bytes] = {}
        self._features: dict[str, dict[str, Floats]] = {}
        self._scale: dict[str, tuple[Floats, Floats]] = {}

    def expected_counts(self) -> Mapping[str, tuple[int, ...]]:
        """Images of every split."""
        return {name: (size,) for name, size in self.sizes.items()}

    def read(self) -> Mapping[str, Split]:
        """Draw everything."""
        self._features = {}
        splits: dict[str, Split] = {}
        seen: set[Key] = set()
        # The test split comes first, so that it does not change with the number of training images.
        for stream, name in reversed(list(enumerate(SPLITS))):
            scene, words, noise = (np.random.default_rng([self.content_seed, stream, part]) for part in range(3))
            self.scenes[name] = draw_split(self.sizes[name], self.twins, seen, scene)
            splits[name] = self._draw(name, words, noise)
        return {name: splits[name] for name in SPLITS}

    def _draw(self, name: str, words: np.random.Generator, noise: np.random.Generator) -> Split:
        scenes = self.scenes[name]
        captions, self.meanings[name], owners = write_captions(scenes, self.min_captions, self.max_captions, words)
        self.pictures[name] = pictures = paint(scenes, self.noise, noise)
        return Split(
            name,
            # A checksum of the picture in its name lets the split's fingerprint answer for the pictures too.
            image_ids=[f"{name}-{row:05d}-{zlib.crc32(picture.tobytes()):08x}" for row, picture in enumerate(pictures)],
            image_of_text=np.array(owners),
            text_ids=[f"{name}-text-{row:05d}" for row in range(len(captions))],
            captions=captions,
            labels=scenes.setting,
            class_names=SETTING_NAMES,
        )

    def missing_images(self, kind: ViewKind, split: Split) -> npt.NDArray[np.bool_]:
        """Nothing is missing, unless features stored by the user are asked for."""
        if kind != "pixels" and self.image_features is not None:
            return super().missing_images(kind, split)
        return np.zeros(split.n_images, dtype=bool)

    def photo(self, split: Split, row: int, at_least: int = 0) -> Image.Image:
        """Return the picture as it was drawn."""
        return Image.fromarray(self.pictures[split.name][row])

    def image_view(self, kind: ViewKind, split: Split) -> View:
        """Return pixels, 7x7 regions of local features, or a vector pooled from them; scaled by the training split."""
        pictures = self.pictures[split.name]
        if kind == "pixels":
            return PictureView(pictures, self.image_size)
        if self.image_features is not None or kind not in ("regions", "vector"):
            return super().image_view(kind, split)
        if kind not in self._features:
            self._features[kind] = {name: FEATURES[kind](part) for name, part in self.pictures.items()}
            self._scale[kind] = feature_scale(self._features[kind]["train"])
        return DrawnView(self._features[kind][split.name], kind, *self._scale[kind])
