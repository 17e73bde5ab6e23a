from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from cmr_bench.datamodules.split import SPLITS
from cmr_bench.datamodules.synthetic import drawing, filters, grammar
from cmr_bench.datamodules.synthetic.grammar import Meaning, holds
from cmr_bench.datamodules.synthetic.module import Synthetic
from cmr_bench.datamodules.synthetic.scenes import ATTRIBUTES, COLOURS, SETTINGS, SHAPES, SIDE, SIZES, Thing, draw_split
from cmr_bench.support.errors import UsageError

SMALL = {"n_train": 90, "n_val": 30, "n_test": 60}


@pytest.fixture(scope="module")
def drawn() -> Synthetic:
    data = Synthetic(**SMALL)
    data.splits = dict(data.read())
    return data


def content(data: Synthetic) -> str:
    splits = data.read()
    digest = hashlib.sha256()
    for name in SPLITS:
        digest.update(splits[name].fingerprint().encode())
        digest.update(data.pictures[name].tobytes())
    return digest.hexdigest()


def test_the_seed_alone_decides_the_content() -> None:
    golden = "f4dd85482f1942eabad7b69207ac0433be6388743781c9333a6be23515ca822b"
    assert content(Synthetic(**SMALL)) == golden
    assert content(Synthetic(**SMALL, seed=3)) == golden
    assert content(Synthetic(**SMALL, content_seed=1)) != golden


def test_features_are_exact_on_every_machine(drawn: Synthetic) -> None:
    pictures = drawn.pictures["val"][:4]
    features = filters.region_features(pictures)
    # The same sums in whole numbers, from the definition.
    bank = filters.filter_bank().astype(np.int64)
    blocks = pictures.reshape(4, 32, 2, 32, 2, 3).astype(np.int64).sum(axis=(2, 4))
    responses = np.zeros((4, 30, 30, bank.shape[1]), dtype=np.int64)
    for y in range(30):
        for x in range(30):
            responses[:, y, x] = blocks[:, y : y + 3, x : x + 3].reshape(4, -1) @ bank
    edges = np.arange(bank.shape[1]) < filters.N_EDGE
    rectified = np.where(edges, abs(responses), responses.clip(min=0))
    sums = [rectified[:, y : y + 6, x : x + 6].sum(axis=(1, 2)) for y in range(0, 28, 4) for x in range(0, 28, 4)]
    assert np.array_equal(features, np.sqrt(np.stack(sums, axis=1).astype(np.float32) / np.float32(2**16)))
    assert max(part.max() for part in sums) < 2**24


def test_the_test_split_does_not_change_with_the_number_of_training_images(drawn: Synthetic) -> None:
    other = Synthetic(n_train=20, n_val=30, n_test=60).read()
    assert other["test"].fingerprint() == drawn.splits["test"].fingerprint()


def test_boxes_are_the_bounds_of_what_is_drawn(drawn: Synthetic) -> None:
    scenes = drawn.scenes["val"]
    plain = drawing.paint(scenes, 0, np.random.default_rng(0)).astype(int)
    empty = replace(scenes, shape=np.full_like(scenes.shape, -1))
    changed = (plain != drawing.paint(empty, 0, np.random.default_rng(0))).any(axis=-1)
    for row, boxes in enumerate(scenes.boxes() * SIDE):
        covered = np.zeros((SIDE, SIDE), dtype=bool)
        for x0, y0, x1, y1 in boxes[~np.isnan(boxes[:, 0])].astype(int):
            assert 0 <= x0 < x1 <= SIDE
            assert 0 <= y0 < y1 <= SIDE
            assert not covered[y0:y1, x0:x1].any()
            assert changed[row, y0:y1, x0:x1].sum() >= 20
            covered[y0:y1, x0:x1] = True
        assert not changed[row][~covered].any()


def test_shapes_differ_and_fill_their_radius() -> None:
    for radius in range(5, 11):
        masks = [drawing.shape_mask(shape, radius) for shape in range(len(SHAPES))]
        for mask in masks:
            y, x = np.nonzero(mask)
            assert max(abs(y - 10).max(), abs(x - 10).max()) <= radius
            assert (abs(y - 10).max(), abs(x - 10).max()) != (0, 0)
        assert all((a ^ b).sum() >= 20 for a, b in combinations(masks, 2))


def test_captions_are_true(drawn: Synthetic) -> None:
    for name, split in drawn.splits.items():
        scenes, meanings = drawn.scenes[name], drawn.meanings[name]
        assert len(meanings) == split.n_texts
        for meaning, row in zip(meanings, split.image_of_text.tolist(), strict=True):
            assert holds(meaning, scenes.things(row), int(scenes.setting[row]))


def first_words(sentence: str) -> list[str]:
    """Colours and shapes in the order in which a sentence names them, synonyms replaced."""
    meant = {word: words[0] for words in (*SHAPES, *COLOURS) for word in words}
    return [meant[word] for word in sentence.replace(",", "").split() if word in meant]


def test_captions_say_what_they_mean(drawn: Synthetic) -> None:
    split = drawn.splits["test"]
    assert split.captions is not None
    for caption, meaning in zip(split.captions, drawn.meanings["test"], strict=True):
        said = [
            table[value][0]
            for thing in meaning.things
            for table, value in ((COLOURS, thing.colour), (SHAPES, thing.shape))
            if value is not None
        ]
        assert sorted(first_words(caption)) == sorted(said)
        settings = [row for row, phrases in enumerate(SETTINGS) if any(p in caption for p in phrases)]
        assert settings == ([] if meaning.setting is None else [meaning.setting])
        places = {phrase: at for at, phrases in grammar.PLACES.items() for phrase in phrases}
        at = {places[phrase] for phrase in places if phrase in caption}
        assert at == {(thing.row, thing.column) for thing in meaning.things} - {(None, None)}


def exchange(meaning: Meaning) -> Meaning:
    first, second, *rest = meaning.things
    swapped = (first._replace(colour=second.colour), second._replace(colour=first.colour))
    return meaning._replace(things=(*swapped, *rest))


def test_a_caption_with_colours_exchanged_is_another_caption_and_false(drawn: Synthetic) -> None:
    split, scenes = drawn.splits["test"], drawn.scenes["test"]
    tried = 0
    for meaning, row in zip(drawn.meanings["test"], split.image_of_text.tolist(), strict=True):
        if len(meaning.things) < 2 or None in {part for thing in meaning.things[:2] for part in thing[:2]}:
            continue
        tried += 1
        assert not holds(exchange(meaning), scenes.things(row), int(scenes.setting[row]))
        chances = [grammar.chances(np.random.default_rng(5)) for _ in range(2)]
        assert grammar.say(meaning, chances[0]) != grammar.say(exchange(meaning), chances[1])
    assert tried > 50


def test_twins_differ_in_the_binding_only(drawn: Synthetic) -> None:
    for name in SPLITS:
        scenes = drawn.scenes[name]
        pairs = [(row, other) for row, other in enumerate(scenes.twin.tolist()) if other >= 0]
        assert len(pairs) > len(scenes) / 4
        for row, other in pairs:
            assert scenes.twin[other] == row
            a, b = scenes.things(row), scenes.things(other)
            assert [thing._replace(colour=None) for thing in a] == [thing._replace(colour=None) for thing in b]
            assert sorted(thing.colour or 0 for thing in a) == sorted(thing.colour or 0 for thing in b)
            assert (a[0].colour, a[1].colour) == (b[1].colour, b[0].colour)
            assert a[0].size == a[1].size
            assert scenes.setting[row] == scenes.setting[other]
        images = np.array([row for row, _ in pairs])
        owners = drawn.splits[name].image_of_text
        told = [
            not holds(meaning, scenes.things(scenes.twin[row]), int(scenes.setting[row]))
            for meaning, row in zip(drawn.meanings[name], owners.tolist(), strict=True)
            if scenes.twin[row] >= 0
        ]
        assert np.mean(told) > 0.5
        assert set(images) <= set(owners.tolist())


def test_no_two_images_of_all_splits_are_alike(drawn: Synthetic) -> None:
    shown = [
        (int(scenes.setting[row]), frozenset(thing[:2] for thing in scenes.things(row)))
        for scenes in drawn.scenes.values()
        for row in range(len(scenes))
    ]
    assert len(shown) == len(set(shown)) == 180
    pictures = [picture.tobytes() for part in drawn.pictures.values() for picture in part]
    assert len(set(pictures)) == 180
    ids = [name for split in drawn.splits.values() for name in split.image_ids]
    assert len(set(ids)) == 180


def test_objects_of_an_image_differ_in_shape_colour_and_place(drawn: Synthetic) -> None:
    for row in range(len(drawn.scenes["train"])):
        things = drawn.scenes["train"].things(row)
        assert 1 <= len(things) <= 4
        for parts in ([t.shape for t in things], [t.colour for t in things], [(t.row, t.column) for t in things]):
            assert len(set(parts)) == len(things)


def test_images_have_three_to_six_different_captions(drawn: Synthetic) -> None:
    for split in drawn.splits.values():
        assert split.captions is not None
        counts = np.bincount(split.image_of_text, minlength=split.n_images)
        assert set(counts) == {3, 4, 5, 6}
        pairs = list(zip(split.captions, split.image_of_text.tolist(), strict=True))
        assert len(pairs) == len(set(pairs))


def test_every_category_and_attribute_occurs_often_enough() -> None:
    scenes = draw_split(800, 0.5, set(), np.random.default_rng(0))
    assert np.bincount(scenes.setting, minlength=8).min() > 60
    attributes = scenes.attributes()
    assert attributes.shape == (800, len(ATTRIBUTES))
    assert attributes.mean(axis=0).min() > 0.15
    for row in range(50):
        named = {ATTRIBUTES[k] for k in np.flatnonzero(attributes[row])}
        for shape, colour, size, *_ in scenes.things(row):
            assert {SHAPES[shape or 0][0], COLOURS[colour or 0][0]} <= named
            assert SIZES[size or 0][0] in named


@pytest.mark.parametrize(
    ("meaning", "true"),
    [
        (Meaning((Thing(shape=0, colour=0),)), True),
        (Meaning((Thing(shape=0, colour=2),)), False),
        (Meaning((Thing(shape=0), Thing(colour=0))), False),  # two things are said, one object fits both
        (Meaning((Thing(shape=0), Thing(shape=1)), "left of"), True),
        (Meaning((Thing(shape=1), Thing(shape=0)), "left of"), False),
        (Meaning((Thing(shape=0), Thing(shape=1)), "above"), False),
        (Meaning((Thing(row=1),), None, 3), True),
        (Meaning((Thing(row=1),), None, 4), False),
    ],
)
def test_truth(meaning: Meaning, true: bool) -> None:
    things = [Thing(0, 0, 1, 1, 0), Thing(1, 2, 0, 1, 2)]
    assert holds(meaning, things, 3) is true


def test_converse_relations_name_the_things_in_the_other_order() -> None:
    meaning = Meaning((Thing(shape=3), Thing(shape=4)), "left of")

    def always(chance: float) -> Iterator[float]:
        while True:
            yield chance

    assert grammar.say(meaning, always(0.9)) == "you can see a lozenge to the left of a plus"
    assert grammar.say(meaning, always(0.0)) == "a cross right of a diamond"


@pytest.mark.parametrize(("kind", "shape"), [("pixels", (3, 64, 64)), ("regions", (49, 128)), ("vector", (256,))])
def test_image_views(kind: str, shape: tuple[int, ...]) -> None:
    data = Synthetic(**SMALL, batch_size=16)
    spec = data.load(kind, "tokens")  # type: ignore[arg-type]
    assert spec.image.shape == shape
    assert (spec.n_classes, spec.multi_label, spec.n_train_images) == (8, False, 90)
    batch = next(iter(data.train_dataloader()))
    values = getattr(batch.images, kind)
    assert values.shape == (16, *shape)
    assert torch.isfinite(values).all()
    assert values.std() > 0.05
    if kind == "pixels":
        assert values.min() >= 0
        assert values.max() <= 1
    if kind == "regions":
        assert batch.images.boxes.shape == (16, 49, 4)
        assert batch.images.mask.all()
        assert batch.images.boxes.min() == 0
        assert batch.images.boxes.max() == 1
    assert batch.labels is not None
    assert batch.texts.tokens is not None
    assert (batch.texts.tokens == 1).float().mean() < 0.2


def test_vectors_of_texts_need_no_option() -> None:
    data = Synthetic(**SMALL)
    spec = data.load("vector", "vector")
    assert spec.text.kind == "vector"
    images, texts = data.test_dataloader()
    assert sum(len(batch) for batch in images) == 60
    assert all(torch.isfinite(batch.vector).all() for batch in texts)


def test_pictures_are_resized() -> None:
    data = Synthetic(n_train=4, n_val=2, n_test=2, image_size=96)
    assert data.load("pixels", "tokens").image.shape == (3, 96, 96)
    assert next(iter(data.train_dataloader())).images.pixels.shape[1:] == (3, 96, 96)  # type: ignore[union-attr]


def test_nothing_is_missing(drawn: Synthetic) -> None:
    for kind in ("pixels", "regions", "vector"):
        assert not drawn.missing_images(kind, drawn.splits["val"]).any()  # type: ignore[arg-type]


@pytest.mark.parametrize("twins", [0.0, 1.0])
def test_the_share_of_twins(twins: float) -> None:
    data = Synthetic(n_train=40, n_val=1, n_test=1, twins=twins)
    data.read()
    with_twin = (data.scenes["train"].twin >= 0).mean()
    assert with_twin == 0 if twins == 0 else with_twin > 0.8


@pytest.mark.parametrize(
    "options",
    [
        {"n_test": 0},
        {"min_captions": 4, "max_captions": 3},
        {"max_captions": 99},
        {"twins": 1.5},
        {"noise": -1},
        {"content_seed": -1},
    ],
)
def test_senseless_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        Synthetic(**options)  # type: ignore[arg-type]
