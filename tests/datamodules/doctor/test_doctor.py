from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cmr_bench import cli
from cmr_bench.commands.data_check import make_datamodule, print_findings
from cmr_bench.datamodules.custom import Custom
from cmr_bench.datamodules.doctor import features, items
from cmr_bench.datamodules.doctor.examination import check
from cmr_bench.datamodules.doctor.features import check_array
from cmr_bench.datamodules.doctor.findings import Finding
from cmr_bench.datamodules.flickr8k import Flickr8k
from cmr_bench.datamodules.flickr30k import Flickr30k
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ArrayView
from cmr_bench.support.errors import DataError, UsageError
from tests.support.layouts import write_store

Writer = Callable[..., Path]


class Small(Flickr8k):
    """Flickr8k's reader without its counts."""

    expected: Mapping[str, tuple[int, ...]] = {}  # type: ignore[misc]


def found(findings: list[Finding], words: str) -> Finding:
    hits = [finding for finding in findings if words in finding.what]
    assert len(hits) == 1, [finding.what for finding in findings]
    return hits[0]


def errors(findings: list[Finding]) -> list[str]:
    return [finding.what for finding in findings if finding.level == "error"]


def test_a_sound_data_set_has_no_errors(tmp_path: Path, write_karpathy: Writer) -> None:
    write_karpathy(tmp_path)
    findings = check(Small(root=str(tmp_path)))
    assert {finding.level for finding in findings} == {"info"}
    assert found(findings, "train: 8 images and 40 texts, 5 an image").count == 8


def test_counts_are_compared_with_the_published_ones(tmp_path: Path, write_karpathy: Writer) -> None:
    write_karpathy(tmp_path, counts={"train": 8, "test": 4}, captions=[5, 4])
    findings = check(Flickr8k(root=str(tmp_path)), decode=False)
    assert found(findings, "train: 8 images and 36 texts, 4 to 5 an image; expected 6,000").level == "error"
    assert "expected 1,000 images" in found(findings, "val: no such split").what


def test_text_counts_alone_are_a_warning(tmp_path: Path, write_karpathy: Writer) -> None:
    write_karpathy(tmp_path)
    splits = Small(root=str(tmp_path)).read()
    levels = [f.level for f in items.check_counts(splits, {"train": (8, 41), "val": (4,), "test": (4, 20)})]
    assert levels == ["warning", "info", "info"]


def test_missing_damaged_and_duplicate_photographs(tmp_path: Path, write_karpathy: Writer) -> None:
    images = write_karpathy(tmp_path, counts={"train": 8, "val": 4, "test": 4}) / "images"
    (images / "train_00000.jpg").unlink()
    content = (images / "train_00001.jpg").read_bytes()
    (images / "train_00001.jpg").write_bytes(content[: len(content) // 2])
    (images / "val_00008.jpg").write_text("<html>not a picture</html>")
    shutil.copy(images / "train_00002.jpg", images / "test_00012.jpg")
    shutil.copy(images / "train_00003.jpg", images / "train_00004.jpg")
    findings = check(Small(root=str(tmp_path)))
    assert found(findings, "train: missing photographs").examples == ("train_00000.jpg",)
    assert found(findings, "train: photographs that cannot be decoded").examples[0].startswith("train_00001.jpg: ")
    assert found(findings, "val: photographs that cannot be decoded").count == 1
    twin = found(findings, "the same photograph in two splits")
    assert (twin.level, twin.examples) == ("warning", ("train/train_00002.jpg = test/test_00012.jpg",))
    assert found(findings, "under two names").examples == ("train/train_00003.jpg = train/train_00004.jpg",)
    assert len(errors(findings)) == 3
    assert not any("decoded" in finding.what for finding in check(Small(root=str(tmp_path)), decode=False))


def test_images_in_two_splits_and_shared_captions(tmp_path: Path, write_karpathy: Writer) -> None:
    file = write_karpathy(tmp_path, photos=False) / "dataset_flickr8k.json"
    content = json.loads(file.read_text())
    content["images"][8]["filename"] = "train_00000.jpg"
    for image in content["images"][12:15]:
        image["sentences"][0]["raw"] = "a dog ."
    content["images"][12]["sentences"][1]["raw"] = " a  dog . "
    file.write_text(json.dumps(content))
    findings = check(Small(root=str(tmp_path)))
    assert found(findings, "images that are in two splits").examples == ("train_00000.jpg (train, val)",)
    shared = found(findings, "test: captions shared by different images")
    assert shared.examples == ("'a dog .' (3 images)",)
    # four captions "a dog .", two of them of one image: two of twenty cannot be right
    ceiling = found(findings, "test: some captions are the same")
    assert "t2i R@1/5/10 cannot exceed 90.00 / 100.00 / 100.00 %" in ceiling.what
    assert "i2t" not in ceiling.what  # every image has a caption of its own beside


def test_unreadable_data_is_one_error(tmp_path: Path) -> None:
    findings = check(Flickr8k(root=str(tmp_path)))
    assert [f.level for f in findings] == ["error"]
    assert "flickr8k not found" in findings[0].what


def test_absent_photographs_are_no_error_beside_features(tmp_path: Path, write_karpathy: Writer) -> None:
    write_karpathy(tmp_path, photos=False)
    dm = Small(root=str(tmp_path))
    assert found(check(dm), "has no images").level == "error"
    ids = [image for split in dm.read().values() for image in split.image_ids]
    write_store(tmp_path / "flickr8k/features/net", ids, np.ones((16, 3), np.float32))
    assert found(check(dm), "has no images").level == "warning"


def test_store_rows_are_compared_with_the_images(tmp_path: Path, write_karpathy: Writer) -> None:
    write_karpathy(tmp_path)
    dm = Small(root=str(tmp_path))
    ids = [image for split in dm.read().values() for image in split.image_ids]
    values = np.ones((16, 2, 3), np.float32)
    values[3, 1, 1] = np.nan
    values[5] = 0
    rows = [*ids[:-2], "stranger.jpg", "another.jpg"]
    write_store(tmp_path / "flickr8k/features/net", rows, values, skipped=[ids[-1]])
    findings = check(dm)
    assert found(findings, "images of test without a row").examples == (ids[-2],)
    assert found(findings, "images of test that were skipped").examples == (ids[-1],)
    assert found(findings, "rows of images that this data does not have").examples == (
        "another.jpg",
        "stranger.jpg",
    )
    assert found(findings, "rows with NaN or infinity").examples == (ids[3],)
    assert found(findings, "all-zero rows").examples == (ids[5],)
    write_store(tmp_path / "flickr8k/features/twice", [*ids[:-1], ids[0]], values)
    assert found(check(dm), "an id stands for two rows").level == "error"
    write_store(tmp_path / "flickr8k/features/half", ids, values, complete=False, command="go on")
    assert found(check(dm), "unfinished").level == "error"
    dm = Small(root=str(tmp_path), image_features="nte")
    assert "Did you mean 'net'" in found(check(dm), "no features 'nte'").what


def test_precomputed_arrays_are_examined(tmp_path: Path, write_precomputed: Writer) -> None:
    write_precomputed(tmp_path, regions=2, repeat=True)
    values = np.load(tmp_path / "dev_ims.npy")
    values[5:10, 1, 2] = np.inf
    np.save(tmp_path / "dev_ims.npy", values)
    dm = Flickr30k(root=str(tmp_path))
    dm.expected_counts = lambda: {}  # type: ignore[method-assign]
    findings = check(dm)
    broken = found(findings, "image features ims, val: rows with NaN or infinity")
    assert (broken.count, broken.examples) == (1, ("dev1",))
    assert errors(findings) == [broken.what]
    (tmp_path / "dev_caps.txt").write_text("one\ntwo\n")
    assert "2 captions for 20 rows" in errors(check(dm))[0]


def test_arrays_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    values[[7, 33], 2] = np.nan
    values[20] = 0
    rows = np.arange(49, -1, -1)
    whole = list(check_array("x", ArrayView(values, "x", rows), [str(row) for row in rows]))
    monkeypatch.setattr(features, "_CHUNK", 12)
    assert list(check_array("x", ArrayView(values, "x", rows), [str(row) for row in rows])) == whole
    assert [finding.examples for finding in whole] == [("33", "7"), ("20",)]
    assert "50 rows for 3 items" in next(check_array("x", ArrayView(values, "x"), ["a", "b", "c"])).what
    outside = ArrayView(values, "x", np.array([50]))
    assert "outside" in next(check_array("x", outside, ["a"])).what


class Articles(RetrievalDataModule):
    """Labels and arrays as given."""

    data_name = "articles"

    def __init__(self, texts: Mapping[str, Any], images: Mapping[str, Any], captions: list[str] | None = None) -> None:
        super().__init__()
        self.given = {"text": texts, "image": images}
        self.captions = captions

    def read(self) -> Mapping[str, Split]:
        ids = [str(row) for row in range(len(LABELS))]
        split = Split("train", ids, np.arange(len(ids)), ids, self.captions, labels=LABELS, class_names=["a", "b", "c"])
        small = split.keep_images(np.arange(len(ids)) < 3)
        return {"train": split, "val": small, "test": small}

    def text_arrays(self) -> Mapping[str, Mapping[str, ArrayView]]:
        return {name: {"train": ArrayView(values, name)} for name, values in self.given["text"].items()}

    def image_arrays(self) -> Mapping[str, Mapping[str, ArrayView]]:
        return {name: {"train": ArrayView(values, name)} for name, values in self.given["image"].items()}


LABELS = np.arange(180) % 3
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(180, 5))
WEAK = NOISE + 0.6 * np.eye(5)[LABELS]
LEAK = np.eye(3)[LABELS] + 0.01 * RNG.normal(size=(180, 3))


@pytest.mark.parametrize(
    ("texts", "images", "captions", "leaks"),
    [
        ({"lda": WEAK, "made": LEAK}, {}, None, ["text features 'made'"]),
        ({"made": LEAK}, {"sift": WEAK}, None, ["text features 'made'"]),
        ({"lda": WEAK}, {"sift": WEAK, "net": LEAK}, None, ["image features 'net'"]),
        ({"lda": WEAK}, {"sift": NOISE}, None, []),
        ({"good": LEAK, "better": LEAK * 2}, {"net": LEAK}, None, []),
        ({"lda": WEAK}, {}, ["about " + "abc"[label] for label in LABELS], ["text features 'raw texts'"]),
        ({"lda": WEAK}, {}, ["about nothing"] * len(LABELS), []),
    ],
)
def test_features_that_leak_the_category(texts: Any, images: Any, captions: Any, leaks: list[str]) -> None:
    findings = [f for f in check(Articles(texts, images, captions)) if "leak the category" in f.what]
    assert [f.what.partition(" leak")[0] for f in findings] == leaks
    assert all(f.level == "warning" for f in findings)


def test_few_or_odd_labels_are_no_trouble(tmp_path: Path, write_table: Writer) -> None:
    rows = [{"image": f"{k}.jpg", "caption": f"c{k}", "label": f"k{k}"} for k in range(12)]
    findings = check(Custom(root=str(write_table(tmp_path / "a.csv", rows).parent)))
    assert found(findings, "categories without a training image").level == "warning"


def test_custom_options_reach_the_data_set(tmp_path: Path, write_table: Writer) -> None:
    write_table(tmp_path / "a.csv", [{"path": f"{k}.jpg", "caption": f"c{k}"} for k in range(4)])
    dm = make_datamodule("custom", str(tmp_path), ["image_column=path", "split_seed=3"])
    assert isinstance(dm, Custom)
    assert (dm.image_column, dm.split_seed) == ("path", 3)
    with pytest.raises(UsageError, match="KEY=VALUE"):
        make_datamodule("custom", None, ["image_column"])
    with pytest.raises(UsageError, match="split_seed"):
        make_datamodule("custom", None, ["split_seed=x"])
    with pytest.raises(UsageError):
        make_datamodule("custom", None, ["nothing=x"])


def test_command_prints_and_writes_and_exits(
    tmp_path: Path, write_karpathy: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    write_karpathy(tmp_path)
    out = tmp_path / "out.json"
    assert cli.main(["data", "check", "flickr8k", "--root", str(tmp_path), "--json", str(out)]) == 1
    assert "3 error(s), 0 warning(s)" in capsys.readouterr().out
    record = json.loads(out.read_text())
    assert record["ok"] is False
    assert [f["level"] for f in record["findings"]] == sorted(f["level"] for f in record["findings"])
    assert record["findings"][0]["level"] == "error"
    assert set(record["findings"][0]) == {"level", "what", "count", "examples"}
    folder = str(tmp_path / "flickr8k")
    assert cli.main(["data", "check", "custom", "--root", folder, "--set", "images=images", "--no-decode"]) == 0
    assert "ready to run" in capsys.readouterr().out


def test_markup_in_file_names_is_printed_as_it_is() -> None:
    console = Console(record=True, width=100, file=io.StringIO())
    print_findings("x", [Finding("warning", "odd [bold]names[/]", 2, ("[red]a[/red].jpg",))], console)
    text = console.export_text()
    assert "[bold]names[/]" in text
    assert "[red]a[/red].jpg" in text


@pytest.mark.real_data
def test_flickr8k_lacks_one_training_photo(data_root: Path) -> None:
    findings = check(Flickr8k(root=str(data_root)), decode=False)
    missing = found(findings, "train: missing photographs")
    assert missing.examples == ("3050606344_af711c726c.jpg",)
    assert errors(findings) == [missing.what]


@pytest.mark.real_data
@pytest.mark.slow
def test_every_photo_of_flickr8k_decodes(data_root: Path) -> None:
    findings = check(Flickr8k(root=str(data_root)))
    assert len(errors(findings)) == 1
    assert not any("cannot be decoded" in finding.what for finding in findings)


def test_errors_of_arrays_are_findings() -> None:
    class Broken(Articles):
        def text_arrays(self) -> Mapping[str, Mapping[str, ArrayView]]:
            raise DataError("array 'x' has 3 rows for 180 items")

    findings = check(Broken({}, {"net": WEAK}))
    assert found(findings, "array 'x' has 3 rows").level == "error"
