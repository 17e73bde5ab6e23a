"""Zero-shot splits: no class of the test split is in training, and nothing else moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_bench.datamodules.pascal import Pascal
from cmr_bench.datamodules.split import SPLITS, Split
from cmr_bench.datamodules.synthetic.module import Synthetic
from cmr_bench.datamodules.unseen import hold_out_classes
from cmr_bench.support.errors import DataError, UsageError
from tests.support.layouts import write_pascal

NAMES = [f"class {k}" for k in range(6)]


def made_up(seed: int, multi: bool = False) -> dict[str, Split]:
    rng = np.random.default_rng(seed)
    splits = {}
    for name, n in zip(SPLITS, (60, 24, 40), strict=True):
        labels = rng.permutation(np.arange(n) % len(NAMES))
        if multi:
            labels = np.eye(len(NAMES), dtype=np.int64)[labels] | (rng.random((n, len(NAMES))) < 0.1)
        owner = rng.permutation(np.repeat(np.arange(n), 2))
        ids = [f"{name}{row}" for row in range(n)]
        splits[name] = Split(
            name,
            ids,
            owner,
            [f"{ids[image]}#{text}" for text, image in enumerate(owner.tolist())],
            labels=labels,
            class_names=NAMES,
            identity=np.arange(n) // 3,
        )
    return splits


def classes(split: Split) -> dict[str, set[str]]:
    assert split.labels is not None
    hot = split.labels if split.labels.ndim == 2 else np.eye(len(split.class_names))[split.labels]
    return {
        name: {split.class_names[k] for k in np.flatnonzero(row)}
        for name, row in zip(split.image_ids, hot, strict=True)
    }


@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(0, 50), st.booleans())
@settings(max_examples=40, deadline=None)
def test_classes_are_disjoint_and_items_keep_their_split(data: int, n_classes: int, seed: int, multi: bool) -> None:
    before = made_up(data, multi)
    after = hold_out_classes(before, n_classes, seed, "d")
    kept = {name: classes(split) for name, split in after.items()}
    unseen = set(after["test"].class_names)
    assert len(unseen) == n_classes
    assert unseen.isdisjoint(after["train"].class_names)
    assert after["train"].class_names == after["val"].class_names
    assert unseen | set(after["train"].class_names) == set(NAMES)
    for name, split in before.items():
        # Whoever has all its classes on the side of its split stays, with them, and nobody else.
        side = unseen if name == "test" else set(NAMES) - unseen
        assert kept[name] == {item: own for item, own in classes(split).items() if own and own <= side}
        texts = zip(after[name].text_ids, after[name].image_of_text.tolist(), strict=True)
        assert all(text.startswith(f"{after[name].image_ids[image]}#") for text, image in texts)
    again = hold_out_classes(made_up(data, multi), n_classes, seed, "d")
    assert {name: split.fingerprint() for name, split in again.items()} == {
        name: split.fingerprint() for name, split in after.items()
    }


def test_more_classes_include_fewer_and_another_seed_draws_others() -> None:
    drawn = {
        (n, seed): set(hold_out_classes(made_up(0), n, seed, "d")["test"].class_names)
        for n in (2, 3, 4)
        for seed in range(8)
    }
    assert all(drawn[2, seed] < drawn[3, seed] < drawn[4, seed] for seed in range(8))
    assert len({frozenset(drawn[2, seed]) for seed in range(8)}) > 3


def test_labels_of_training_are_numbered_without_gaps() -> None:
    after = hold_out_classes(made_up(1), 3, 4, "d")
    for split in after.values():
        assert split.labels is not None
        assert sorted(set(split.labels.tolist())) == [0, 1, 2]


@pytest.mark.parametrize("n_classes", [1, 5, 7])
def test_too_few_classes_are_one_error(n_classes: int) -> None:
    message = rf"--data.unseen_classes {n_classes}: the test split of d has 6 categories; hold out at least two"
    with pytest.raises(UsageError, match=message):
        hold_out_classes(made_up(0), n_classes, 0, "d")


def test_data_without_categories_and_empty_splits_are_one_error() -> None:
    bare = {name: Split(name, ["a"], np.array([0]), ["t"]) for name in SPLITS}
    with pytest.raises(UsageError, match="bare has no categories to hold out"):
        hold_out_classes(bare, 2, 0, "bare")
    splits = made_up(0)
    assert splits["val"].labels is not None
    unseen = hold_out_classes(splits, 2, 0, "d")["test"].class_names
    splits["val"] = splits["val"].keep_images(np.isin(splits["val"].labels, [NAMES.index(name) for name in unseen]))
    with pytest.raises(DataError, match="no image of the val split of d is left"):
        hold_out_classes(splits, 2, 0, "d")


@pytest.mark.parametrize("view", ["vector", "pixels"])
def test_synthetic_pictures_stay_with_their_captions(view: Any) -> None:
    sizes: dict[str, Any] = {"n_train": 60, "n_val": 30, "n_test": 40, "min_count": 1}
    whole, part = Synthetic(**sizes), Synthetic(unseen_classes=3, **sizes)
    whole.load(view, "tokens")
    spec = part.load(view, "tokens")
    assert spec.n_classes == len(part.splits["train"].class_names) < len(whole.splits["train"].class_names)
    for name, split in part.splits.items():
        rows = np.array([whole.splits[name].image_ids.index(one) for one in split.image_ids])
        assert 0 < len(rows) < whole.splits[name].n_images
        assert split.images is not None
        mine = split.images.fetch(np.arange(len(rows)))[view].numpy()
        if view == "pixels":
            theirs = whole.splits[name].images
            assert theirs is not None
            np.testing.assert_array_equal(mine, theirs.fetch(rows)[view].numpy())
        elif name == "train":
            # Scaled by what is trained on, unseen classes left out.
            assert mine.mean(axis=0) == pytest.approx(np.zeros(mine.shape[1]), abs=1e-4)
        assert part.photo(split, 0).tobytes() == whole.photo(whole.splits[name], int(rows[0])).tobytes()
    assert part.content(view, "tokens")["test"] != whole.content(view, "tokens")["test"]
    assert part.vocabulary is not None
    unseen = part.splits["test"].class_names
    assert all(name not in part.splits["train"].class_names for name in unseen)


def test_the_seed_of_the_split_draws_the_classes(tmp_path: Path) -> None:
    names = tuple("abcdef")
    root = write_pascal(tmp_path / "pascal", categories=names).parent
    drawn = []
    for seed in (1, 2, 3, 4):
        data = Pascal(root=root, unseen_classes=2, split_seed=seed)
        data.load("pixels", "tokens")
        test, train = data.splits["test"], data.splits["train"]
        assert {one.split("/")[0] for one in test.image_ids} == set(test.class_names)
        assert {one.split("/")[0] for one in train.image_ids} == set(names) - set(test.class_names)
        drawn.append(tuple(test.class_names))
    assert len(set(drawn)) > 1
