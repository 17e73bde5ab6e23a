from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cmr_bench.datamodules.custom import Custom, seeded_split
from cmr_bench.datamodules.split import Split
from cmr_bench.support.errors import CmrBenchError, DataError

Writer = Callable[..., Path]
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SPLITS = ["train"] * 3 + ["dev", "test"]
ROWS = [
    {"image": f"pics/{k}.jpg", "caption": f"picture {k}, view {j}", "split": SPLITS[k], "label": "ab"[k % 2]}
    for k in range(5)
    for j in range(1 + k % 3)
]


def without(rows: list[dict[str, str]], *names: str) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


def content(splits: Any) -> dict[str, list[tuple[str, str]]]:
    def pairs(split: Split) -> list[tuple[str, str]]:
        assert split.captions is not None
        return [(split.image_ids[i], c) for i, c in zip(split.image_of_text.tolist(), split.captions, strict=True)]

    return {name: pairs(split) for name, split in splits.items()}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_reads_the_same(tmp_path: Path, write_table: Writer, suffix: str) -> None:
    write_table(tmp_path / f"mine{suffix}", ROWS)
    splits = Custom(root=str(tmp_path)).read()
    expected = {
        name: [(r["image"], r["caption"]) for r in ROWS if {"dev": "val"}.get(r["split"], r["split"]) == name]
        for name in ("train", "val", "test")
    }
    assert content(splits) == expected
    assert splits["train"].class_names == ["a", "b"]
    assert splits["train"].labels is not None
    assert splits["train"].labels.tolist() == [0, 1, 0]
    assert splits["val"].image_files == [tmp_path / "pics/3.jpg"]


def test_rows_of_an_image_need_not_be_neighbours(tmp_path: Path, write_table: Writer) -> None:
    write_table(tmp_path / "a.csv", ROWS[::-1])
    split = Custom(root=str(tmp_path)).read()["train"]
    assert split.image_ids == ["pics/2.jpg", "pics/1.jpg", "pics/0.jpg"]
    assert split.image_of_text.tolist() == [0, 0, 0, 1, 1, 2]


def test_several_labels_and_captions_in_one_cell(tmp_path: Path, write_table: Writer) -> None:
    rows = [{"image": f"{k}.jpg", "caption": ["one", "two"], "label": ["cat", "dog"][: 1 + k % 2]} for k in range(5)]
    write_table(tmp_path / "a.jsonl", rows)
    splits = Custom(root=str(tmp_path)).read()
    train = splits["train"]
    assert train.n_texts == 2 * train.n_images == 6
    assert train.labels is not None
    for image, hot in zip(train.image_ids, train.labels.tolist(), strict=True):
        assert hot == ([1, 1] if int(image[0]) % 2 else [1, 0])
    write_table(tmp_path / "b.csv", [r | {"caption": "x", "label": "; ".join(r["label"])} for r in rows])
    again = Custom(root=str(tmp_path), file="b.csv", label_separator=";").read()["train"]
    assert again.labels is not None
    assert again.labels.tolist() == train.labels.tolist()


def test_own_column_names_and_image_folder(tmp_path: Path, write_table: Writer) -> None:
    rows = [{"path": r["image"], "text": r["caption"], "part": r["split"], "kind": r["label"]} for r in ROWS]
    write_table(tmp_path / "a.csv", rows)
    splits = Custom(
        root=str(tmp_path),
        images="photos",
        image_column="path",
        caption_column="text",
        split_column="part",
        label_column="kind",
    ).read()
    assert splits["test"].image_files == [tmp_path / "photos/pics/4.jpg"]
    assert splits["test"].class_names == ["a", "b"]


def test_a_karpathy_json_is_read_too(tmp_path: Path, write_karpathy: Writer) -> None:
    folder = write_karpathy(tmp_path, "mine", compressed=True)
    dm = Custom(root=str(folder), images="images")
    assert {name: s.n_texts for name, s in dm.read().items()} == {"train": 40, "val": 20, "test": 20}
    assert not dm.missing_images("pixels", dm.read()["train"]).any()


def test_seeded_split_ignores_order_and_the_seed_of_the_run(tmp_path: Path, write_table: Writer) -> None:
    rows = [{"image": f"{k}.jpg", "caption": f"c{k}"} for k in range(40) for _ in range(2)]
    write_table(tmp_path / "a.csv", rows)
    write_table(tmp_path / "b.csv", rows[::-1])
    first = Custom(root=str(tmp_path), file="a.csv", seed=1).read()
    second = Custom(root=str(tmp_path), file="b.csv", seed=2).read()
    assert {name: s.n_images for name, s in first.items()} == {"train": 32, "val": 4, "test": 4}
    assert {n: set(s.image_ids) for n, s in first.items()} == {n: set(s.image_ids) for n, s in second.items()}
    other = Custom(root=str(tmp_path), file="a.csv", split_seed=1).read()
    assert set(other["test"].image_ids) != set(first["test"].image_ids)


def test_a_split_seed_draws_in_place_of_the_column(tmp_path: Path, write_table: Writer) -> None:
    column = ["train"] * 30 + ["val"] * 5 + ["test"] * 5
    write_table(tmp_path / "a.csv", [{"image": f"{k}.jpg", "caption": "c", "split": s} for k, s in enumerate(column)])
    told = Custom(root=str(tmp_path)).read()
    assert {name: split.n_images for name, split in told.items()} == {"train": 30, "val": 5, "test": 5}
    drawn = [Custom(root=str(tmp_path), split_seed=seed).read() for seed in range(3)]
    assert [{name: split.n_images for name, split in one.items()} for one in drawn] == [
        {"train": 32, "val": 4, "test": 4}
    ] * 3
    assert len({tuple(one["test"].image_ids) for one in drawn}) == 3


@given(st.sets(st.text(min_size=1, max_size=5), min_size=3, max_size=60), st.integers(0, 5))
@settings(deadline=None)
def test_every_image_is_in_one_part_and_none_is_empty(images: set[str], seed: int) -> None:
    parts = seeded_split(list(images), seed)
    assert set(parts) == images
    assert set(parts.values()) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("image,text\na.jpg,x\n", {}, r"no column 'caption', only image, text; pass --data\.caption_column"),
        ("image,caption\na.jpg,x\n", {"label_column": "kind"}, "no column 'kind', only image, caption"),
        ("image,capton\na.jpg,x\n", {}, "Did you mean 'capton'"),
        ("image,caption\na.jpg,\n", {}, r"line 2 \(a\.jpg\): empty caption"),
        ("image,caption\na.jpg\n", {}, "line 2: the row does not have the 2 fields"),
        ("image,caption\na.jpg,x,y\n", {}, "quote commas"),
        ("image,caption\n/a.jpg,x\n", {}, "leads out"),
        ("image,caption\n../a.jpg,x\n", {}, "leads out"),
        ("image,caption\n,x\n", {}, "cannot be the name"),
        ("image,caption,split\na.jpg,x,holdout\n", {}, "split 'holdout' is none of"),
        (
            "image,caption,split\na.jpg,x,train\na.jpg,y,test\n",
            {},
            r"a\.jpg has another split or label than at .*line 2",
        ),
        ("image,caption,label\na.jpg,x,\n", {}, "empty label"),
        ("image,image\n", {}, "same name"),
        ("image,caption\n", {}, "has no rows"),
        ("", {}, "has no rows"),
        ("image,caption\na.jpg,x\n", {}, r"1 image\(s\) cannot be split"),
        ('image,caption\na.jpg,"x\n', {}, "cannot read"),
    ],
)
def test_malformed_tables_are_one_line(tmp_path: Path, text: str, options: dict[str, str], message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        Custom(root=str(tmp_path), **options).read()
    assert "\n" not in str(error.value)


def test_which_table_is_asked(tmp_path: Path, write_table: Writer) -> None:
    write_table(tmp_path / "a.csv", ROWS)
    write_table(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(DataError, match=r"2 tables in .* \(a\.csv, b\.jsonl\); pass --data\.file"):
        Custom(root=str(tmp_path)).read()
    assert Custom(root="/nowhere", file=str(tmp_path / "a.csv")).read()["train"].n_images == 3
    with pytest.raises(DataError, match="custom not found"):
        Custom(root=str(tmp_path), file="c.csv").read()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"unknown kind of table '\.txt'"):
        Custom(root=str(tmp_path), file="notes.txt").read()


def test_damaged_parquet_and_jsonl(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for name in ("a.parquet", "a.jsonl"):
        (tmp_path / name).write_bytes(b"PAR1garbage")
        with pytest.raises(DataError, match=name):
            Custom(root=str(tmp_path), file=name).read()


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").touch()
    plain = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError, match=r"cmr-bench\[parquet\]"):
        Custom(root=str(tmp_path)).read()


@FUZZ
@example(b',"\n",')
@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from(["image", "caption", ",", '"', "\n", "\r", "a.jpg", "\0", "label"])).map(
        lambda parts: "".join(parts).encode()
    )
)
def test_any_csv_is_read_or_refused_in_one_line(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(CmrBenchError) as error:
        Custom(root=str(tmp_path)).read()
    assert len(str(error.value).splitlines()) == 1


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
ROW = st.fixed_dictionaries(
    {"image": st.sampled_from(["a", "b", "c", "d"]) | VALUE, "caption": st.just("x") | VALUE},
    optional={"split": st.just("train") | VALUE, "label": st.just("k") | VALUE},
)


@FUZZ
@given(st.lists(ROW, max_size=5))
def test_any_jsonl_is_read_or_refused_in_one_line(
    tmp_path: Path, write_table: Writer, one_line: Callable[..., Any], rows: list[Any]
) -> None:
    write_table(tmp_path / "a.jsonl", rows)
    for split in (one_line(Custom(root=str(tmp_path)).read) or {}).values():
        split.fingerprint()
