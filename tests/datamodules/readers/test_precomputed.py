from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmr_bench.datamodules.flickr30k import Flickr30k
from cmr_bench.datamodules.mscoco import MSCOCO
from cmr_bench.datamodules.readers.precomputed import image_starts, open_array, read_folder, read_lines
from cmr_bench.support.errors import DataError, UsageError

Writer = Callable[..., Path]
FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("regions", [0, 3])
@pytest.mark.parametrize("ids", [None, "image", "caption"])
def test_items_and_links_do_not_depend_on_the_repeat(
    tmp_path: Path, write_precomputed: Writer, repeat: bool, regions: int, ids: str | None
) -> None:
    write_precomputed(tmp_path / "f30k_precomp", repeat=repeat, regions=regions, ids=ids)
    plain = write_precomputed(tmp_path / "plain", repeat=False, regions=regions)
    dm = Flickr30k(root=str(tmp_path))
    splits = dm.read()
    assert {name: (s.n_images, s.n_texts) for name, s in splits.items()} == {
        "train": (8, 40),
        "val": (4, 20),
        "test": (4, 20),
    }
    kind = "regions" if regions else "vector"
    for name, prefix in (("train", "train"), ("val", "dev"), ("test", "test")):
        split = splits[name]
        assert split.image_of_text.tolist() == np.repeat(np.arange(split.n_images), 5).tolist()
        assert not dm.missing_images(kind, split).any()
        fetched = dm.image_view(kind, split).fetch(np.arange(split.n_images))[kind]
        np.testing.assert_array_equal(fetched.numpy(), np.load(plain / f"{prefix}_ims.npy"))
        if ids:
            assert list(split.image_ids) == [str(1000 + i) for i in range(split.n_images)]


def test_features_follow_the_images_that_are_kept(tmp_path: Path, write_precomputed: Writer) -> None:
    write_precomputed(tmp_path, repeat=True)
    dm = Flickr30k(root=str(tmp_path))
    split = dm.read()["train"].keep_images(np.arange(8) % 2 == 1)
    fetched = dm.image_view("vector", split).fetch(np.arange(4))["vector"]
    np.testing.assert_array_equal(fetched.numpy(), np.load(tmp_path / "train_ims.npy")[5::10])


def test_the_wrong_view_is_a_usage_error(tmp_path: Path, write_precomputed: Writer) -> None:
    write_precomputed(tmp_path)
    dm = Flickr30k(root=str(tmp_path))
    split = dm.read()["train"]
    with pytest.raises(UsageError, match=r"reads images as 'regions'.*is 'vector' \(6,\)"):
        dm.image_view("regions", split)
    with pytest.raises(DataError, match="no images"):
        dm.image_view("pixels", split)


def test_stored_features_are_read_only_where_they_exist(tmp_path: Path, write_precomputed: Writer) -> None:
    write_precomputed(tmp_path)
    dm = Flickr30k(root=str(tmp_path), image_features="resnet152-pool")
    split = dm.read()["val"]
    with pytest.warns(UserWarning, match="no stored features 'resnet152-pool'; reading the precomputed arrays"):
        assert not dm.missing_images("vector", split).any()
    assert dm.image_view("vector", split).spec.source == "dev_ims.npy"
    store = tmp_path / "features" / "resnet152-pool"
    store.mkdir(parents=True)
    (store / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="manifest"):
        dm.missing_images("vector", split)


def test_the_whole_test_part_of_coco_is_preferred(tmp_path: Path, write_precomputed: Writer) -> None:
    write_precomputed(tmp_path / "coco_precomp", {"train": 3, "dev": 2, "test": 2, "testall": 6})
    dm = MSCOCO(root=str(tmp_path))
    assert dm.read()["test"].n_images == 6
    assert dm.expected_counts()["test"] == (5000, 25000)


@pytest.mark.parametrize("option", ["other", "absolute"])
def test_a_named_folder_wins_over_the_json(
    tmp_path: Path, write_karpathy: Writer, write_precomputed: Writer, option: str
) -> None:
    folder = write_karpathy(tmp_path, "flickr30k", {"train": 2})
    arrays = write_precomputed(folder / "other")
    assert Flickr30k(root=str(tmp_path)).read()["train"].n_images == 2
    dm = Flickr30k(root=str(tmp_path), precomputed="other" if option == "other" else str(arrays))
    assert dm.read()["train"].n_images == 8
    assert set(dm.image_arrays()["ims"]) == {"train", "val", "test"}


def test_features_stay_on_disk(tmp_path: Path, write_precomputed: Writer) -> None:
    part = read_folder(write_precomputed(tmp_path, dim=2000))["train"]
    assert isinstance(part.array, np.memmap)
    view = part.view(part.split.image_ids[2:])
    sent = pickle.dumps(view)
    assert len(sent) < part.array.nbytes / 10
    np.testing.assert_array_equal(pickle.loads(sent).fetch(np.arange(6))["vector"], view.array[2:])


def test_variable_repeats_are_runs_and_twins_are_not_merged() -> None:
    rows = np.arange(12.0).reshape(4, 3)
    starts, image_of_text = image_starts(rows.repeat([4, 5, 6, 5], axis=0), 20)
    assert starts.tolist() == [0, 4, 9, 15]
    assert image_of_text.tolist() == np.repeat(np.arange(4), [4, 5, 6, 5]).tolist()
    twins = np.zeros((2, 3)).repeat(5, axis=0)
    assert image_starts(twins, 10)[0].tolist() == [0, 5]
    starts, image_of_text = image_starts(rows, 4)
    assert starts.tolist() == image_of_text.tolist() == [0, 1, 2, 3]


@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(1, 3), st.booleans())
@settings(deadline=None)
def test_repeats_are_found_whatever_their_number(repeats: list[int], regions: int, as_regions: bool) -> None:
    n = len(repeats)
    features = np.arange(n * regions * 2, dtype=np.float32).reshape(n, regions, 2)
    if not as_regions:
        features = features.reshape(n, -1)
    starts, image_of_text = image_starts(features.repeat(repeats, axis=0), sum(repeats))
    assert image_of_text.tolist() == np.repeat(np.arange(n), repeats).tolist()
    assert starts.tolist() == (np.cumsum(repeats) - repeats).tolist()


def test_more_rows_than_are_compared_at_once() -> None:
    features = np.arange(2000, dtype=np.float32)[:, None].repeat(5, axis=0)
    assert image_starts(features, 10000)[0].tolist() == list(range(0, 10000, 5))
    assert len(image_starts(np.append(features, features[-1:], axis=0), 10001)[0]) == 2000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "dev_caps.txt").unlink(), r"cannot read .*dev_caps\.txt"),
        (lambda d: (d / "dev_caps.txt").write_text("a\n\nb\n"), r"dev_caps\.txt, line 2: empty"),
        (lambda d: (d / "dev_caps.txt").write_bytes(b"a\n\xff\n"), r"dev_caps\.txt, line 2: not UTF-8"),
        (lambda d: (d / "dev_caps.txt").write_text("a\nb\nc\n"), "3 captions for 4 rows"),
        (lambda d: (d / "dev_ims.npy").write_bytes(b""), r"cannot read .*dev_ims\.npy"),
        (lambda d: (d / "dev_ims.npy").write_bytes((d / "dev_ims.npy").read_bytes()[:150]), "cannot read"),
        (lambda d: np.save(d / "dev_ims.npy", np.zeros(4)), r"expected numbers of shape"),
        (lambda d: np.save(d / "dev_ims.npy", np.zeros((0, 4))), "is empty"),
        (lambda d: np.save(d / "dev_ims.npy", np.array([["a"]])), "expected numbers"),
        (lambda d: (d / "dev_ids.txt").write_text("1\n2\n"), "2 ids for 4 images"),
        (lambda d: (d / "dev_ids.txt").write_text("1\n2\n2\n3\n"), "1 ids belong to more than one"),
        (lambda d: (d / "dev_ids.txt").write_text("\n".join("1" * 4 + "2" * 16)), "the ids change inside"),
    ],
)
def test_damage_is_one_line(
    tmp_path: Path, write_precomputed: Writer, damage: Callable[[Path], object], message: str
) -> None:
    damage(write_precomputed(tmp_path))
    with pytest.raises(DataError, match=message) as error:
        read_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_nothing_pickled_is_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return (tmp_path / "boom").touch, ()

    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(DataError, match="cannot read"):
            open_array(tmp_path / name)
    assert not (tmp_path / "boom").exists()


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    (tmp_path / "caps.txt").write_bytes("a\u2028b\x0bc\r\n  two\tblanks \n".encode())
    assert read_lines(tmp_path / "caps.txt") == ["a b c", "two blanks"]


@FUZZ
@given(
    st.lists(
        st.sampled_from(
            ["{", "}", "'descr'", ":", "'<f4'", ",", "'shape'", "(2,2)", "(", "9", "'fortran_order'", "False", "\n"]
        )
    )
)
def test_any_array_header_is_refused_in_one_line(tmp_path: Path, tokens: list[str]) -> None:
    header = "".join(tokens).encode() + b"\n"
    file = tmp_path / "x.npy"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DataError) as error:
        open_array(file)
    assert len(str(error.value).splitlines()) == 1


@FUZZ
@given(st.binary(max_size=40))
def test_any_bytes_as_captions_are_read_or_refused(
    tmp_path: Path, one_line: Callable[..., Any], content: bytes
) -> None:
    (tmp_path / "caps.txt").write_bytes(content)
    lines = one_line(lambda: read_lines(tmp_path / "caps.txt"))
    assert lines is None or (all(lines) and len(lines) == content.removesuffix(b"\n").count(b"\n") + 1)


@pytest.mark.parametrize("prefix", ["dev", "val", "valid", "validation"])
def test_validation_has_several_names(tmp_path: Path, write_precomputed: Writer, prefix: str) -> None:
    write_precomputed(tmp_path, {"train": 3, prefix: 2, "test": 2})
    assert {name: part.split.n_images for name, part in read_folder(tmp_path).items()} == {
        "train": 3,
        "val": 2,
        "test": 2,
    }
