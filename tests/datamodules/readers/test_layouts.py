"""Layouts of the field, as people have them: each is read as the same images and captions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmr_bench.datamodules.custom import Custom
from cmr_bench.datamodules.flickr8k import Flickr8k
from cmr_bench.datamodules.mscoco import MSCOCO
from cmr_bench.datamodules.readers.parts import Parts, part_of_file
from cmr_bench.datamodules.split import Split
from cmr_bench.support.errors import DataError, UsageError

Writer = Callable[..., Path]
PARTS = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
CAPTIONS = {f"{k:03d}.jpg": [f"a thing {k}", f'"thing", number {k} .'] for k in range(10)}


def content(splits: Mapping[str, Split]) -> dict[str, list[tuple[str, str]]]:
    return {
        name: [(split.image_ids[i], c) for i, c in zip(split.image_of_text.tolist(), split.captions or (), strict=True)]
        for name, split in splits.items()
    }


def of_part(part: str) -> list[tuple[str, str]]:
    return [(image, c) for (image, cs), p in zip(CAPTIONS.items(), PARTS, strict=True) if p == part for c in cs]


EXPECTED = {part: of_part(part) for part in ("train", "val", "test")}


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid", "Test"), ("mine_train", "dev", "test")])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_file_for_each_split(tmp_path: Path, write_table: Writer, suffix: str, names: tuple[str, ...]) -> None:
    for name, part in zip(names, EXPECTED, strict=True):
        write_table(tmp_path / f"{name}{suffix}", [{"image": i, "caption": c} for i, c in EXPECTED[part]])
    (tmp_path / f"._{names[0]}{suffix}").write_bytes(b"\0\5\x16\7")
    assert content(Custom(root=str(tmp_path)).read()) == EXPECTED
    given = ",".join(f"{name}{suffix}" for name in names)
    assert content(Custom(root=str(tmp_path), file=given).read()) == EXPECTED
    assert content(Custom(root="/nowhere", file=f"{tmp_path}/*{suffix}").read()) == EXPECTED


def test_numbered_shards(tmp_path: Path, write_table: Writer) -> None:
    for k in range(3):
        rows = [{"image": i, "caption": c} for i, c in EXPECTED["train"][4 * k : 4 * k + 4]]
        write_table(tmp_path / f"train-{k:05d}-of-00003.parquet", rows)
    for part in ("validation", "test"):
        rows = [{"image": i, "caption": c} for i, c in EXPECTED[{"validation": "val"}.get(part, part)]]
        write_table(tmp_path / f"{part}-00000-of-00001.parquet", rows)
    assert content(Custom(root=str(tmp_path)).read()) == EXPECTED
    shares = Custom(root=str(tmp_path), file="train-*.parquet")
    # beside other splits the training shards stay training shards
    assert set(shares.read()) == {"train"}
    assert "validation-00000-of-00001.parquet lie beside it" in shares.report.lines()[0]


def test_one_training_table_is_shared_out_and_a_test_table_is_not(tmp_path: Path, write_table: Writer) -> None:
    rows = [{"image": image, "caption": c} for image, captions in CAPTIONS.items() for c in captions]
    write_table(tmp_path / "train.csv", rows)
    assert {name: s.n_images for name, s in Custom(root=str(tmp_path)).read().items()} == {
        "train": 8,
        "val": 1,
        "test": 1,
    }
    (tmp_path / "train.csv").rename(tmp_path / "test.csv")
    data = Custom(root=str(tmp_path))
    assert {name: s.n_images for name, s in data.read().items()} == {"test": 10}
    assert "the split that its name says, test" in data.report.lines()[0]


def test_tables_that_do_not_belong_together_are_asked_for(tmp_path: Path, write_table: Writer) -> None:
    rows = [{"image": "a.jpg", "caption": "x"}]
    for name in ("train.csv", "classes.csv"):
        write_table(tmp_path / name, rows)
    with pytest.raises(DataError, match=r"2 tables in .* \(classes\.csv, train\.csv\); pass --data\.file NAME"):
        Custom(root=str(tmp_path)).read()
    write_table(tmp_path / "test.csv", rows)
    with pytest.raises(DataError, match=r"train\.csv names its split and classes\.csv does not"):
        Custom(root=str(tmp_path), file="classes.csv,train.csv,test.csv").read()
    with pytest.raises(DataError, match=r"no file gone\.csv in"):
        Custom(root=str(tmp_path), file="train.csv,gone.csv").read()


@pytest.mark.parametrize("of_list", [False, True])
def test_lists_of_blip_and_lavis(tmp_path: Path, of_list: bool) -> None:
    for part in EXPECTED:
        entries: list[dict[str, Any]] = []
        for (image, captions), own in zip(CAPTIONS.items(), PARTS, strict=True):
            if own == part:
                each = [captions] if of_list else captions
                entries += [{"image": image, "caption": c, "image_id": f"coco_{image}"} for c in each]
        (tmp_path / f"coco_karpathy_{part}.json").write_text(json.dumps(entries))
    assert content(Custom(root=str(tmp_path)).read()) == EXPECTED
    alone = Custom(root=str(tmp_path), file="coco_karpathy_test.json")
    assert content(alone.read()) == {"test": EXPECTED["test"]}


def test_captions_of_coco(tmp_path: Path) -> None:
    for part in ("train", "val"):
        own = [image for image, p in zip(CAPTIONS, PARTS, strict=True) if p == part]
        images = [{"id": int(image[:3]), "file_name": image, "license": 1} for image in own]
        notes = [
            {"id": 2 * int(image[:3]) + j, "image_id": int(image[:3]), "caption": c}
            for j in (1, 0)
            for image in own
            for c in CAPTIONS[image][1 - j : 2 - j]
        ]
        images.append({"id": 999, "file_name": "bare.jpg", "license": 1})
        (tmp_path / f"captions_{part}2017.json").write_text(
            json.dumps({"info": {}, "images": images, "annotations": notes, "licenses": []})
        )
    data = Custom(root=str(tmp_path))
    assert content(data.read()) == {part: EXPECTED[part] for part in ("train", "val")}
    assert "captions_train2017.json: 1 image(s) without a caption skipped" in data.report.lines()
    broken = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "caption": "x"}, {"caption": "y"}],
    }
    (tmp_path / "b.json").write_text(json.dumps(broken))
    with pytest.raises(DataError, match=r"b\.json, annotation 1: expected an object with image_id and caption"):
        Custom(root=str(tmp_path), file="b.json").read()


@pytest.mark.parametrize("under", [None, "annotations", "data"])
def test_captions_by_image_and_lists_under_a_name(tmp_path: Path, under: str | None) -> None:
    entries = [{"file_name": image, "caption": c} for image, cs in CAPTIONS.items() for c in cs]
    (tmp_path / "a.json").write_text(json.dumps(CAPTIONS if under is None else {under: entries}))
    splits = Custom(root=str(tmp_path)).read()
    assert sorted(pair for pairs in content(splits).values() for pair in pairs) == sorted(
        pair for pairs in EXPECTED.values() for pair in pairs
    )


def test_columns_of_captions(tmp_path: Path, write_table: Writer) -> None:
    rows = [
        {"image": image, "split": part, "caption2": c[1], "caption1": c[0], "caption10": "" if k else "a third"}
        for k, ((image, c), part) in enumerate(zip(CAPTIONS.items(), PARTS, strict=True))
    ]
    write_table(tmp_path / "a.csv", rows)
    found = content(Custom(root=str(tmp_path)).read())
    assert found["train"] == [*EXPECTED["train"][:2], ("000.jpg", "a third"), *EXPECTED["train"][2:]]
    first = Custom(root=str(tmp_path), caption_column="caption1,caption2").read()
    assert content(first) == EXPECTED
    with pytest.raises(DataError, match=r"no column 'caption9', only image, split"):
        Custom(root=str(tmp_path), caption_column="caption1,caption9").read()


def test_lists_written_into_a_cell(tmp_path: Path, write_table: Writer) -> None:
    rows = [
        {"filename": image, "raw": json.dumps(c) if k % 2 else str(c), "split": part}
        for k, ((image, c), part) in enumerate(zip(CAPTIONS.items(), PARTS, strict=True))
    ]
    write_table(tmp_path / "flickr_annotations.csv", rows)
    assert content(Custom(root=str(tmp_path), caption_column="raw").read()) == EXPECTED


def test_numbers_with_a_pattern(tmp_path: Path, write_table: Writer, write_photo: Writer) -> None:
    rows = [{"image": int(i[:3]), "caption": c, "split": p} for p, pairs in EXPECTED.items() for i, c in pairs]
    for suffix in (".jsonl", ".csv", ".parquet"):
        write_table(tmp_path / f"a{suffix}", rows)
        if suffix != ".csv":
            with pytest.raises(DataError, match=r"the image is the number 0; .* --data\.pattern '\{:012d\}\.jpg'"):
                Custom(root=str(tmp_path), file=f"a{suffix}").read()
        splits = Custom(root=str(tmp_path), file=f"a{suffix}", pattern="p/{:03d}.jpg").read()
        assert content(splits) == {p: [(f"p/{i}", c) for i, c in pairs] for p, pairs in EXPECTED.items()}
    named = Custom(root=str(tmp_path), file="a.csv", pattern="{}.png").read()
    assert named["test"].image_ids == ["8.png", "9.png"]
    for pattern in ("{:q}", "{a}.jpg", "{0.secret}"):
        with pytest.raises(UsageError, match="does not fit the image"):
            Custom(root=str(tmp_path), file="a.csv", pattern=pattern).read()
    with pytest.raises(DataError, match="leads out"):
        Custom(root=str(tmp_path), file="a.csv", pattern="../{}.jpg").read()


def table_of(paths: list[str]) -> list[dict[str, str]]:
    return [{"image": path, "caption": f"thing {path[-7:]}", "split": PARTS[k]} for k, path in enumerate(paths)]


@pytest.mark.parametrize(
    ("front", "options"),
    [
        ("images\\", {}),
        ("images\\\\", {}),
        (".\\images\\", {}),
        ("/data/set/images/", {"strip_prefix": "/data/set"}),
        ("D:\\data\\set\\images\\", {"strip_prefix": "D:\\data\\set\\"}),
        ("D:\\data\\set\\images\\", {"strip_prefix": "D:/data/set/images", "images": "images"}),
        ("coco/images/", {"strip_prefix": "coco"}),
        ("HERE/images/", {}),
        ("file://HERE/images/", {}),
        ("HERE/images/", {"images": "images"}),
        ("HERE/images/", {"images": "/"}),
    ],
)
def test_paths_of_other_systems(
    tmp_path: Path, write_table: Writer, write_photo: Writer, front: str, options: dict[str, str]
) -> None:
    for k in range(10):
        write_photo(tmp_path / "images" / f"{k:03d}.jpg", k)
    front = front.replace("HERE", str(tmp_path))
    write_table(tmp_path / "a.csv", table_of([f"{front}{k:03d}.jpg" for k in range(10)]))
    data = Custom(root=str(tmp_path), **options)
    splits = data.read()
    assert all(not data.missing_images("pixels", split).any() for split in splits.values())
    assert [split.n_images for split in splits.values()] == [6, 2, 2]


@pytest.mark.parametrize("path", ["/etc/passwd", "C:\\x\\a.jpg", "..\\a.jpg", "HERE/../a.jpg", "/data/../etc/a.jpg"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, write_table: Writer, path: str) -> None:
    path = path.replace("HERE", str(tmp_path))
    write_table(tmp_path / "a.csv", table_of([path] + [f"{k}.jpg" for k in range(9)]))
    for options in ({}, {"strip_prefix": "/data"}, {"strip_prefix": str(tmp_path)}):
        with pytest.raises(DataError, match="leads out") as error:
            Custom(root=str(tmp_path), **options).read()
        assert len(str(error.value).splitlines()) == 1
    data = Custom(root=str(tmp_path), skip_invalid=True)
    assert all(file.is_relative_to(tmp_path) for split in data.read().values() for file in split.image_files or ())


def test_the_prefix_to_strip_is_said(tmp_path: Path, write_table: Writer, write_photo: Writer) -> None:
    write_photo(tmp_path / "images/000.jpg")
    write_table(tmp_path / "a.csv", table_of([f"/data/set/images/{k:03d}.jpg" for k in range(10)]))
    message = (
        r"10 rows cannot be read: .*line 2.*pass --data\.strip_prefix /data/set \(then it is images/000\.jpg there\)"
    )
    with pytest.raises(DataError, match=message):
        Custom(root=str(tmp_path)).read()


def test_other_suffix_on_disk(tmp_path: Path, write_table: Writer, write_photo: Writer) -> None:
    for k in range(10):
        write_photo(tmp_path / "p" / f"{k}.v{k}{['.jpg', '.JPG', '.jpeg', '.png'][k % 4]}", k)
        (tmp_path / "p" / f"._{k}.v{k}.jpg").write_bytes(b"\0")
        (tmp_path / "p" / f"{k}.v{k}.txt").write_text("no photograph")
    write_table(tmp_path / "a.csv", table_of([f"p/{k}.v{k}{'.tif' if k % 2 else ''}" for k in range(10)]))
    data = Custom(root=str(tmp_path))
    splits = data.read()
    assert all(not data.missing_images("pixels", split).any() for split in splits.values())
    assert data.report.lines() == ["10 image file(s) have another suffix on disk (0.v0 is 0.v0.jpg)"]
    write_photo(tmp_path / "p/1.v1.png")  # two with the same stem: neither is taken
    gone = data.missing_images("pixels", data.read()["train"])
    assert np.flatnonzero(gone).tolist() == [1]


@pytest.mark.parametrize("place", ["images/train2017", "images/val2017", "images", "train2017"])
def test_photographs_of_coco_2017_under_the_names_of_2014(
    tmp_path: Path, write_karpathy: Writer, write_photo: Writer, place: str
) -> None:
    folder = write_karpathy(tmp_path, "mscoco", {"train": 2, "val": 1, "test": 1}, photos=False)
    file = folder / "dataset_coco.json"
    annotations = json.loads(file.read_text())
    for k, image in enumerate(annotations["images"]):
        image.update(filepath="val2014", filename=f"COCO_val2014_{k:012d}.jpg")
        write_photo(folder / place / f"{k:012d}.jpg", k)
    file.write_text(json.dumps(annotations))
    data = MSCOCO(root=str(tmp_path))
    splits = data.read()
    assert splits["train"].image_ids[0] == "COCO_val2014_000000000000.jpg"
    assert all(not data.missing_images("pixels", split).any() for split in splits.values())
    assert "MSCOCO's names of 2017" in data.report.lines()[0]


@pytest.mark.parametrize("name", ["dev", "valid", "validation", "Val", "restval"])
def test_names_of_splits_are_the_same_everywhere(
    tmp_path: Path, write_karpathy: Writer, write_table: Writer, name: str
) -> None:
    folder = write_karpathy(tmp_path, "flickr8k", {"train": 4, name: 2, "test": 2}, photos=False)
    expected = {"train": 6, "test": 2} if name == "restval" else {"train": 4, "val": 2, "test": 2}
    assert {n: s.n_images for n, s in Flickr8k(root=str(tmp_path)).read().items()} == expected
    mine = Custom(root=str(folder), file="dataset_flickr8k.json")
    assert {n: s.n_images for n, s in mine.read().items()} == expected
    rows = [{"image": f"{k}.jpg", "caption": "x", "split": p} for k, p in enumerate(["train"] * 4 + [name, "test"] * 2)]
    write_table(tmp_path / "a.csv", rows)
    assert {n: s.n_images for n, s in Custom(root=str(tmp_path), file="a.csv").read().items()} == expected


@pytest.mark.parametrize("table", [False, True])
def test_other_splits_are_left_out_with_a_line(
    tmp_path: Path, write_karpathy: Writer, write_table: Writer, table: bool
) -> None:
    counts = {"train": 3, "restval": 2, "val": 2, "test": 2, "test2": 1}
    if table:
        parts = [part for part, count in counts.items() for _ in range(count)]
        rows = [{"image": f"{k}.jpg", "caption": c, "split": part} for k, part in enumerate(parts) for c in "ab"]
        write_table(tmp_path / "mine/a.csv", rows)
    else:
        write_karpathy(tmp_path, "mine", counts, photos=False)
    data = Custom(root=str(tmp_path / "mine"))
    assert {n: s.n_images for n, s in data.read().items()} == {"train": 5, "val": 2, "test": 2}
    assert data.report.lines()[0].endswith(
        "1 image(s) of split 'test2' skipped; pass --data.splits '{test: test2}' to use them as test"
    )
    chosen = Custom(root=str(tmp_path / "mine"), splits={"test": "test2", "train": "train"})
    assert {n: s.n_images for n, s in chosen.read().items()} == {"train": 3, "val": 2, "test": 1}
    both = Custom(root=str(tmp_path / "mine"), splits={"test": "test+test2"})
    assert {n: s.n_images for n, s in both.read().items()} == {"train": 5, "val": 2, "test": 3}
    with pytest.raises(UsageError, match=r"'tset' is none of train, val, test\. Did you mean 'test'"):
        Custom(root=str(tmp_path / "mine"), splits={"tset": "test2"}).read()


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("train.csv", "train"),
        ("coco_karpathy_val.json", "val"),
        ("captions_train2014.json", "train"),
        ("train-00000-of-00002.parquet", "train"),
        ("Flickr_8k.devImages.txt", "val"),
        ("MyTEST.csv", "test"),
        ("test/0.tar", "test"),
        ("data/0.tar", None),
        ("pretrain.csv", None),
        ("trainval.csv", None),
        ("train_test.csv", None),
        ("train/test.csv", "test"),
        ("latest.csv", None),
    ],
)
def test_splits_in_names_of_files(path: str, part: str | None) -> None:
    assert part_of_file(Path(path)) == part


def test_every_other_name_is_counted_once_an_image() -> None:
    parts = Parts()
    assert [parts.split_of(name) for name in ("DEV ", "restval", "holdout", "holdout")] == ["val", "train", None, None]
    assert parts.skipped == {"holdout": 2}
    assert Parts(restval=False).split_of("restval") is None


def test_karpathy_json_with_labels_and_other_names(tmp_path: Path, write_karpathy: Writer) -> None:
    folder = write_karpathy(tmp_path, "mine", photos=False)
    file = folder / "dataset_mine.json"
    annotations = json.loads(file.read_text())
    for k, image in enumerate(annotations["images"]):
        image.update(kind="ab"[k % 2], img=image.pop("filename"), part=image.pop("split"))
        for sentence in image["sentences"]:
            sentence["text"] = sentence.pop("raw").upper()
    file.write_text(json.dumps(annotations))
    names = {"image_column": "img", "split_column": "part", "caption_column": "text", "label_column": "kind"}
    train = Custom(root=str(folder), **names).read()["train"]
    assert train.class_names == ["a", "b"]
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1] * 4
    assert train.captions is not None
    assert all(caption.isupper() for caption in train.captions)
    for option, value in names.items():
        with pytest.raises(DataError, match=rf"have no '{value}x', only .*; pass --data\.{option} NAME"):
            Custom(root=str(folder), **(names | {option: f"{value}x"})).read()
    annotations["images"][3]["kind"] = float("nan")
    file.write_text(json.dumps(annotations))
    with pytest.raises(DataError, match=r"image 3 .*no label"):
        Custom(root=str(folder), **names).read()


@pytest.mark.parametrize("missing", [None, float("nan"), "nan", "NaN"])
def test_missing_labels_are_no_category(tmp_path: Path, write_table: Writer, missing: Any) -> None:
    rows = [{"image": f"{k}.jpg", "caption": "x", "label": "ab"[k % 2]} for k in range(20)]
    write_table(tmp_path / "a.jsonl", [*rows, {"image": "b.jpg", "caption": "x", "label": missing}])
    with pytest.raises(DataError, match=r"line 21 \(b\.jpg\): no label"):
        Custom(root=str(tmp_path)).read()
    data = Custom(root=str(tmp_path), skip_invalid=True)
    assert data.read()["train"].class_names == ["a", "b"]
    assert sum(split.n_images for split in data.read().values()) == 20


def test_flickr8k_recognises_kaggles_copy(tmp_path: Path) -> None:
    (tmp_path / "flickr8k").mkdir()
    (tmp_path / "flickr8k/captions.txt").write_text("image,caption\na.jpg,x\n")
    with pytest.raises(DataError, match=r"captions\.txt has captions but no split: put the annotations of flickr8k"):
        Flickr8k(root=str(tmp_path)).read()


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
ROW = st.fixed_dictionaries(
    {"image": st.sampled_from(["a.jpg", "../b.jpg", "/c.jpg", 7]) | VALUE, "caption": st.just("x") | VALUE},
    optional={"split": st.just("train") | VALUE, "id": st.integers(0, 3) | VALUE, "file_name": VALUE},
)
NOTE = st.fixed_dictionaries({"image_id": st.integers(0, 3) | VALUE, "caption": st.just("x") | VALUE})
DOCUMENT = (
    st.lists(ROW | VALUE, max_size=4)
    | st.dictionaries(st.text(max_size=4), st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=2), max_size=4)
    | st.fixed_dictionaries(
        {"images": st.lists(ROW | VALUE, max_size=4) | VALUE, "annotations": st.lists(NOTE | VALUE, max_size=4) | VALUE}
    )
    | VALUE
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DOCUMENT, st.booleans())
def test_any_document_is_read_or_refused_in_one_line(
    tmp_path: Path, one_line: Callable[..., Any], document: Any, skip: bool
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document))
    data = Custom(root=str(tmp_path), pattern=None, skip_invalid=skip)
    for split in (one_line(data.read) or {}).values():
        split.fingerprint()
        assert all(file.resolve().is_relative_to(tmp_path.resolve()) for file in split.image_files or ())
    assert all(len(line.splitlines()) == 1 for line in data.report.lines())
