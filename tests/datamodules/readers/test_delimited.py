"""Text tables: any separator, encoding and quoting, and lines that are broken."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmr_bench.datamodules.custom import Custom
from cmr_bench.datamodules.readers.columns import USUAL
from cmr_bench.datamodules.readers.delimited import TextFormat, delimited_rows
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.support.errors import DataError, UsageError

FILES = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.sampled_from('ab ,;|"\té中\n.'), min_size=1, max_size=12)


def rows_of(file: Path, report: Report | None = None, **form: str) -> list[tuple[str, str]]:
    rows = delimited_rows(file, TextFormat(**form), USUAL, report or Report())
    return [(row["image"], row["caption"]) for _, row in rows]


@FILES
@given(st.lists(TEXT, max_size=6), st.sampled_from(",;|\t"), st.booleans(), st.booleans())
def test_what_csv_writes_is_read_back(
    tmp_path: Path, captions: list[str], separator: str, quoted: bool, blank: bool
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerow(["image", "caption"])
    writer.writerows([f"{k}.jpg", caption] for k, caption in enumerate(captions))
    if blank:
        out.write("\r\n\r\n")
    (tmp_path / "a.csv").write_text(out.getvalue(), encoding="utf-8", newline="")
    report = Report()
    found = rows_of(tmp_path / "a.csv", report)
    # blanks at the beginning of a field that is not quoted do not count
    assert [name for name, _ in found] == [f"{k}.jpg" for k in range(len(captions))]
    assert [caption.lstrip(" ") for _, caption in found] == [caption.lstrip(" ") for caption in captions]
    assert report.count == 0
    assert any("separated by" in note for note in report.notes) == (separator != ",")


BROKEN = ["x.jpg", 'x.jpg,"never closed', "x.jpg,a,b", 'x.jpg,"a" b,c', ",,,,"]


@FILES
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(BROKEN)), max_size=10))
def test_broken_lines_are_counted_and_the_others_read(tmp_path: Path, lines: list[tuple[bool, str]]) -> None:
    content = [f"{k}.jpg,caption {k}" if sound else line for k, (sound, line) in enumerate(lines)]
    (tmp_path / "a.csv").write_text("\n".join(["image,caption", *content]) + "\n")
    report = Report(skip_invalid=True)
    found = rows_of(tmp_path / "a.csv", report)
    assert found == [(f"{k}.jpg", f"caption {k}") for k, (sound, _) in enumerate(lines) if sound]
    broken = [k + 2 for k, (sound, _) in enumerate(lines) if not sound]
    assert report.count == len(broken)
    assert [f"a.csv, line {line}:" in row for line, row in zip(broken, report.rows, strict=True)] == [True] * len(
        broken
    )


def test_a_caption_that_begins_with_a_quotation_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('image,caption\na.jpg,"Stop" says a sign\nb.jpg,"a ""big"" dog, running"\n')
    report = Report()
    assert rows_of(tmp_path / "a.csv", report) == [("a.jpg", '"Stop" says a sign'), ("b.jpg", 'a "big" dog, running')]
    assert report.count == 0
    assert report.notes == ["a.csv: 1 row(s) with quotation marks that are not doubled, read as they stand (line 2)"]


def test_a_quoted_caption_may_run_over_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'image,caption\r\na.jpg,"one\r\ntwo"\r\nb.jpg,three\r\n')
    rows = list(delimited_rows(tmp_path / "a.csv", TextFormat(), USUAL, Report()))
    assert [(where.rpartition(" ")[2], row["caption"].split()) for where, row in rows] == [
        ("2", ["one", "two"]),
        ("4", ["three"]),
    ]


def test_blanks_around_names_and_before_quotation_marks(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('Image , Caption\na.jpg, "a dog, running"\n')
    rows = [row for _, row in delimited_rows(tmp_path / "a.csv", TextFormat(), USUAL, Report())]
    assert rows == [{"Image": "a.jpg", "Caption": "a dog, running"}]
    (tmp_path / "results.csv").write_text("image_name| comment_number| comment\na.jpg| 0| a dog\n")
    rows = [row for _, row in delimited_rows(tmp_path / "results.csv", TextFormat(), USUAL, Report())]
    assert rows == [{"image_name": "a.jpg", "comment_number": "0", "comment": "a dog"}]


def test_kaggle_results_with_a_row_without_separator(tmp_path: Path) -> None:
    lines = [f"{k // 2}.jpg| {k % 2}| thing {k} runs ." for k in range(12)]
    lines[7] = "3.jpg| 4   A dog runs across the grass ."
    (tmp_path / "results.csv").write_text("\n".join(["image_name| comment_number| comment", *lines]))
    with pytest.raises(
        DataError,
        match=r"results\.csv, line 9: the row does not have the 3 fields .*missing.*--data\.skip_invalid true",
    ):
        Custom(root=str(tmp_path)).read()
    data = Custom(root=str(tmp_path), skip_invalid=True)
    assert sum(split.n_texts for split in data.read().values()) == 11
    assert data.report.count == 1


@pytest.mark.parametrize("name", ["results_20130124.token", "Flickr8k.token.txt"])
def test_token_files_of_flickr(tmp_path: Path, name: str) -> None:
    lines = [f"{k}_a.jpg#{j}\tA dog , number {k} , view {j} ." for k in range(5) for j in range(2)]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    splits = Custom(root=str(tmp_path)).read()
    captions = [caption for split in splits.values() for caption in split.captions or ()]
    assert sorted(captions) == sorted(line.split("\t")[1] for line in lines)
    (tmp_path / name).write_text("\n".join([*lines, "no number here"]))
    with pytest.raises(DataError, match=r"line 11: expected PHOTO#NUMBER"):
        Custom(root=str(tmp_path)).read()


def test_kaggle_captions_txt_is_found_among_notes(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("about this")
    (tmp_path / "captions.txt").write_text("image,caption\n" + "".join(f"{k}.jpg,dog {k}\n" for k in range(4)))
    assert sum(split.n_images for split in Custom(root=str(tmp_path)).read().values()) == 4


SPOKEN = [("cp1252", "caf\u00e9 na\u00efve \u201cyes\u201d \u20ac"), ("utf-8-sig", "ünï"), ("utf-16", "ünï 中")]


@pytest.mark.parametrize(("encoding", "caption"), SPOKEN)
def test_encodings_are_found_out(tmp_path: Path, encoding: str, caption: str) -> None:
    (tmp_path / "a.csv").write_text(f"image;caption\na.jpg;{caption}\n", encoding=encoding)
    report = Report()
    assert rows_of(tmp_path / "a.csv", report) == [("a.jpg", caption)]
    assert any("not UTF-8 (line 2), read as cp1252" in note for note in report.notes) == (encoding == "cp1252")


def test_encoding_and_separator_are_options(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("image#caption\na.jpg#一只狗\n".encode("gb18030"))
    assert rows_of(tmp_path / "a.csv", encoding="gb18030", separator="#") == [("a.jpg", "一只狗")]
    (tmp_path / "b.txt").write_text("image\tcaption\na.jpg\tx, y\n")
    assert rows_of(tmp_path / "b.txt", separator="tab") == rows_of(tmp_path / "b.txt") == [("a.jpg", "x, y")]
    for form, message in (({"separator": "::"}, "not one character"), ({"encoding": "klingon"}, "no such encoding")):
        with pytest.raises(UsageError, match=message):
            rows_of(tmp_path / "a.csv", **form)
    with pytest.raises(DataError, match=r"a\.csv is not text in ascii"):
        rows_of(tmp_path / "a.csv", encoding="ascii")
    (tmp_path / "c.csv").write_bytes(b"image,caption\na.jpg,\x81\x8d\n")
    with pytest.raises(DataError, match=r"line 2: neither UTF-8 nor cp1252"):
        rows_of(tmp_path / "c.csv")
