from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cmr_bench import cli, registry
from cmr_bench.datamodules.custom import Custom
from cmr_bench.datamodules.delivery import unknown_words
from cmr_bench.datamodules.doctor.examination import check
from cmr_bench.datamodules.readers.items import seeded_split
from cmr_bench.datamodules.readers.tablefiles import MARKERS
from cmr_bench.datamodules.split import Split
from cmr_bench.results.record import read_result
from cmr_bench.support.errors import CmrBenchError, DataError, UsageError

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


def test_what_macos_leaves_in_archives_is_no_data(tmp_path: Path, write_table: Writer) -> None:
    write_table(tmp_path / "mine.csv", ROWS)
    expected = content(Custom(root=str(tmp_path)).read())
    (tmp_path / "__MACOSX/pics").mkdir(parents=True)
    for left in ("._mine.csv", ".DS_Store", "__MACOSX/._mine.csv", "__MACOSX/pics/._0.jpg"):
        (tmp_path / left).write_bytes(b"\x00\x05\x16\x07 Mac OS X")
    assert content(Custom(root=str(tmp_path)).read()) == expected


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


def test_a_karpathy_json_keeps_its_splits(tmp_path: Path, write_karpathy: Writer) -> None:
    write_karpathy(tmp_path, "mine")
    with pytest.raises(UsageError, match="has splits of its own"):
        Custom(root=str(tmp_path), name="mine", file=str(next(tmp_path.rglob("*.json"))), split_seed=1).read()


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
        ("image,words\na.jpg,x\n", {}, r"no column 'caption', only image, words; pass --data\.caption_column"),
        ("image,title,text\na.jpg,x,y\n", {}, r"title, text may each be the caption; pass --data\.caption_column"),
        ("a.jpg,a dog\nb.jpg,a cat\n", {}, r"its first line is a\.jpg, a dog; it must name the columns"),
        ("image,caption\na.jpg,x\n", {"label_column": "kind"}, "no column 'kind', only image, caption"),
        ("image,capton\na.jpg,x\n", {}, "Did you mean 'capton'"),
        ("image,caption\na.jpg,\n", {}, r"line 2 \(a\.jpg\): empty caption"),
        ("image,caption\na.jpg\n", {}, "line 2: the row does not have the 2 fields"),
        ("image,caption\na.jpg,x,y\n", {}, "',' inside a caption needs quotes"),
        ("image,caption\n/a.jpg,x\n", {}, "leads out"),
        ("image,caption\n../a.jpg,x\n", {}, "leads out"),
        ("image,caption\n,x\n", {}, "cannot be the name"),
        (
            "image,caption,split\na.jpg,x,holdout\n",
            {},
            r"no split is called train, .*, only 'holdout' \(1\); pass --data\.splits",
        ),
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
        ('image,caption\na.jpg,"x\n', {}, "line 2: broken quotation marks"),
    ],
)
def test_malformed_tables_are_one_line(tmp_path: Path, text: str, options: dict[str, str], message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        Custom(root=str(tmp_path), **options).read()
    assert "\n" not in str(error.value)


def test_the_list_of_data_sets_knows_every_table() -> None:
    assert registry.DATASETS["custom"].parts["table"] == MARKERS


def test_which_table_is_asked(tmp_path: Path, write_table: Writer) -> None:
    write_table(tmp_path / "a.csv", ROWS)
    write_table(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(DataError, match=r"2 tables in .* \(a\.csv, b\.jsonl\); pass --data\.file"):
        Custom(root=str(tmp_path)).read()
    assert Custom(root="/nowhere", file=str(tmp_path / "a.csv")).read()["train"].n_images == 3
    with pytest.raises(DataError, match="custom not found"):
        Custom(root=str(tmp_path), file="c.csv").read()
    (tmp_path / "notes.docx").touch()
    with pytest.raises(DataError, match=r"unknown kind of table '\.docx'"):
        Custom(root=str(tmp_path), file="notes.docx").read()


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


def dirty(folder: Path, write_photo: Writer) -> Path:
    """A table with twelve images of two captions, four rows of it broken, and a photograph cut short."""
    lines = ["image,caption,split"]
    for k in range(12):
        part = "train" if k < 8 else "val" if k < 10 else "test"
        write_photo(folder / f"{k}.jpg", k)
        lines += [f"{k}.jpg,a thing {k} seen,{part}", f"{k}.jpg,it is thing {k},{part}"]
    lines[3], lines[6], lines[9], lines[24] = "1.jpg,,train", '2.jpg,"open,train', "4.jpg,one", "../11.jpg,x,test"
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    (folder / "5.jpg").write_bytes((folder / "5.jpg").read_bytes()[:200])
    return folder


def test_all_broken_rows_are_counted_and_the_first_named(tmp_path: Path, write_photo: Writer) -> None:
    dirty(tmp_path, write_photo)
    with pytest.raises(DataError) as error:
        Custom(root=str(tmp_path)).read()
    message = str(error.value)
    assert message.startswith("4 rows cannot be read: ")
    assert message.endswith("correct them, or pass --data.skip_invalid true to skip them")
    for line in (4, 7, 10, 25):
        assert f"a.csv, line {line}" in message
    with (tmp_path / "a.csv").open("a") as stream:
        stream.write("a.jpg,b\n" * 9)
    with pytest.raises(DataError, match=r"13 rows cannot be read: .*line 26.*; and 8 more; correct") as error:
        Custom(root=str(tmp_path)).read()
    assert "line 27" not in str(error.value)


def test_broken_rows_and_photographs_are_skipped_on_demand(
    tmp_path: Path, write_photo: Writer, recwarn: pytest.WarningsRecorder
) -> None:
    dirty(tmp_path, write_photo)
    data = Custom(root=str(tmp_path), skip_invalid=True, image_size=32, min_count=1)
    data.load("pixels", "tokens")
    assert {name: (s.n_images, s.n_texts) for name, s in data.splits.items()} == {
        "train": (7, 11),
        "val": (2, 4),
        "test": (2, 3),
    }
    assert data.report.count == 4
    assert data.skipped == {"train": ["5.jpg"]}
    said = " ".join(str(warning.message) for warning in recwarn)
    assert "4 row(s) that cannot be read are skipped" in said
    assert "train: 1 image(s) that cannot be decoded are skipped" in said
    assert data.splits["train"].images is not None
    data.splits["train"].images.fetch(np.arange(7))
    data.load("pixels", "tokens")  # again, from the start
    assert (data.report.count, data.skipped) == (4, {"train": ["5.jpg"]})


def test_a_broken_photograph_says_what_to_do(tmp_path: Path, write_photo: Writer) -> None:
    dirty(tmp_path, write_photo)
    rows = [f"{k}.jpg,x {k},{part}" for k, part in ((5, "train"), (6, "val"), (7, "test"))]
    (tmp_path / "a.csv").write_text("\n".join(["image,caption,split", *rows]))
    data = Custom(root=str(tmp_path), image_size=32)
    data.load("pixels", "tokens")
    assert data.splits["train"].images is not None
    with pytest.raises(DataError, match=r"cannot decode image .*5\.jpg.*, or pass --data\.skip_invalid true"):
        data.splits["train"].images.fetch(np.arange(1))


def test_the_check_lists_broken_rows_and_goes_on(tmp_path: Path, write_photo: Writer) -> None:
    dirty(tmp_path, write_photo)
    findings = check(Custom(root=str(tmp_path)))
    rows = [f for f in findings if "row(s) cannot be read" in f.what]
    assert [(f.level, f.count, len(f.examples)) for f in rows] == [("error", 4, 4)]
    assert any("5.jpg" in example for f in findings if "cannot be decoded" in f.what for example in f.examples)
    assert any(f.what.startswith("train: 8 images and 13 texts") for f in findings)


@pytest.mark.parametrize("kind", ["vector", "regions"])
def test_the_check_says_what_methods_need(tmp_path: Path, write_photo: Writer, write_table: Writer, kind: str) -> None:
    for k in range(10):
        write_photo(tmp_path / "p q" / f"{k}.jpg", k)
    write_table(tmp_path / "a.csv", [{"image": f"{k}.jpg", "caption": f"thing {k}"} for k in range(10)])
    data = Custom(root=str(tmp_path), images="p q", splits={"test": "test2"}, split_seed=3)
    needs = " ".join(finding.what for finding in check(data) if finding.what.startswith("methods that"))
    assert "--model.image_view pixels" in needs
    for layer in ("pool", "grid"):
        assert (
            f"--data.image_features torchvision:resnet152/{layer}, or another encoder and layer; `run` makes" in needs
        )
    np.savez(tmp_path / "f.npz", **{f"{k}.jpg": np.ones((2, 3) if kind == "regions" else 3) for k in range(10)})
    data = Custom(root=str(tmp_path), images="p q", image_features="f.npz")
    needs = " ".join(finding.what for finding in check(data) if finding.what.startswith("methods that"))
    assert f"methods that read {'vectors' if kind == 'vector' else kind} need --data.image_features f.npz" in needs


def test_chinese_captions_are_many_words(tmp_path: Path, write_photo: Writer, write_table: Writer) -> None:
    signs = "一只狗在跑步的红蓝绿黑白大小"
    rows = []
    for k in range(40):
        write_photo(tmp_path / f"{k}.jpg", k)
        rows.append({"image": f"{k}.jpg", "caption": "".join(signs[(k + j * j) % len(signs)] for j in range(6))})
    write_table(tmp_path / "a.csv", rows)
    data = Custom(root=str(tmp_path), image_size=32)
    spec = data.load("pixels", "tokens")
    assert spec.text.vocab_size == 2 + len(signs)
    assert unknown_words(data.splits) == {"val": 0.0, "test": 0.0}


def test_foreign_words_are_reported(
    tmp_path: Path, write_photo: Writer, write_table: Writer, recwarn: pytest.WarningsRecorder
) -> None:
    rows = []
    for k in range(10):
        write_photo(tmp_path / f"{k}.jpg", k)
        rows.append({"image": f"{k}.jpg", "caption": f"the w{k} x{k} y{k}", "split": SPLITS[k // 2 % 5]})
    write_table(tmp_path / "a.csv", rows)
    data = Custom(root=str(tmp_path), image_size=32)
    data.load("pixels", "tokens")
    assert unknown_words(data.splits) == {"val": 0.75, "test": 0.75}
    assert any("75 % of the words in test are unknown" in str(warning.message) for warning in recwarn)
    found = [f for f in check(data) if "of the words are not among" in f.what]
    assert [(f.level, f.what.split(":")[0]) for f in found] == [("warning", "val"), ("warning", "test")]
    assert "75.0 % of the words are not among the 1 that occur 4 times" in found[0].what


def test_a_run_records_skipped_rows_and_unknown_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["image,caption,split"]
    for k in range(24):
        part = "train" if k < 16 else "val" if k < 20 else "test"
        lines += [f"{k}.jpg,a red thing,{part}", f"{k}.jpg,{'the red thing' if k < 16 else 'some other thing'},{part}"]
    lines += ["1.jpg,,train", "2.jpg,x"]
    Path("a.csv").write_text("\n".join(lines) + "\n")
    rng = np.random.default_rng(0)
    np.savez("f.npz", **{str(k): rng.normal(size=8).astype(np.float32) for k in range(24)})
    words = ["--model", "vsepp", "--data", "custom", "--data.root", ".", "--data.image_features", "f.npz"]
    words += ["--data.skip_invalid", "true", "--data.batch_size", "8", "--trainer.max_epochs", "1", "--runs", "runs"]
    assert cli.main(["run", *words, "--trainer.progress", "false"]) == 0
    result = read_result(next(tmp_path.glob("runs/*/*/*/result.json")))
    assert result.invalid_rows == 2
    assert result.unknown_words == {"val": pytest.approx(1 / 3), "test": pytest.approx(1 / 3)}
    assert result.views["image"]["source"] == "f.npz"
