"""Files from elsewhere: pipes, links, bombs and deep nesting are refused at once in one line, sound ones are read."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from cmr_bench.datamodules.images.photos import read_photo
from cmr_bench.datamodules.readers.arrays import find_arrays
from cmr_bench.datamodules.readers.karpathy import load_json
from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text("ab é:#-", max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_yaml_and_json_are_read_as_the_libraries_read_them(value: object) -> None:
    written = yaml.safe_dump(value)
    assert foreign.parse_yaml(written, "here") == yaml.safe_load(written)
    assert foreign.parse_json(json.dumps(value), "here") == json.loads(json.dumps(value))


def test_aliases_are_read() -> None:
    assert foreign.parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]", "here") == {
        "a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]
    }  # fmt: skip


def doubling(levels: int, merged: bool) -> str:
    last = "{m: 1}" if merged else "[1, 1]"
    lines = [f"n0: &n0 {last}"]
    for level in range(1, levels):
        inner = f"*n{level - 1}, *n{level - 1}"
        lines.append(f"n{level}: &n{level} " + (f"{{<<: [{inner}]}}" if merged else f"[{inner}]"))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        doubling(40, merged=False),
        doubling(40, merged=True),
        "a: &a [*a]",
        "[" * 200_000,
        "- " * 3000 + "x",
        "\n".join(f"n{level}: &n{level} [{f'*n{level - 1}' if level else ''}]" for level in range(500)),
        "? " * 100 + "x",
        "!!python/object/apply:os.system [exit]",
        "!!timestamp never",
        "{a: [}",
    ],
    ids=[
        "aliases",
        "merges",
        "endless",
        "deep",
        "deep list",
        "deep aliases",
        "deep keys",
        "code",
        "no date",
        "no yaml",
    ],
)
def test_yaml_that_grows_or_is_none_is_refused_at_once(text: str) -> None:
    with pytest.raises(DataError, match=r"^here ") as refused:
        foreign.parse_yaml(text, "here")
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("depth", [100, 100_000])
@pytest.mark.parametrize("ends", ["[]", ('{"a":', "}")])
def test_json_that_is_nested_deep_is_refused(depth: int, ends: tuple[str, str]) -> None:
    middle = "1" if ends[0] != "[" else ""
    with pytest.raises(DataError, match="nested more than 64 deep"):
        foreign.parse_json(ends[0] * depth + middle + ends[1] * depth, "here")


def test_the_deepest_json_is_read() -> None:
    foreign.parse_json("[" * foreign.MOST_DEPTH + "]" * foreign.MOST_DEPTH, "here")
    with pytest.raises(DataError):
        foreign.parse_json("[" * (foreign.MOST_DEPTH + 1) + "]" * (foreign.MOST_DEPTH + 1), "here")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    pipe = tmp_path / "result.json"
    os.mkfifo(pipe)
    for read in (foreign.read_json, foreign.read_yaml, foreign.read_npz, load_json, read_photo):
        with pytest.raises(DataError, match="is a pipe, not a plain file"):
            read(pipe)
    assert find_arrays(tmp_path) == {}


def test_the_size_of_a_file_is_limited(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(b"#" * (2**20) + b"\n")
    with pytest.raises(DataError, match="larger than the 1 MiB"):
        foreign.read_yaml(file)
    assert foreign.read_bytes(file, 2**21) == file.read_bytes()


def test_no_link_leads_out_of_a_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "run", tmp_path / "secret"
    inside.mkdir()
    outside.write_text('{"a": 1}')
    (inside / "real.json").write_text('{"b": 2}')
    (inside / "near.json").symlink_to("real.json")
    (inside / "far.json").symlink_to(outside)
    (inside / "hop.json").symlink_to("far.json")
    assert foreign.read_json(inside / "near.json", within=inside) == {"b": 2}
    for name in ("far.json", "hop.json"):
        with pytest.raises(DataError, match=r"a link to .*secret, outside of"):
            foreign.read_json(inside / name, within=inside)
    with pytest.raises(DataError, match=r"(far|hop)\.json is a link to"):
        foreign.check_folder(inside)
    (inside / "far.json").unlink()
    (inside / "hop.json").unlink()
    linked = tmp_path / "latest"
    linked.symlink_to(inside)
    (inside / "wandb" / "logs").mkdir(parents=True)
    (inside / "wandb" / "logs" / "core.log").symlink_to(outside)
    foreign.check_folder(linked)
    (inside / "below").symlink_to(tmp_path)
    with pytest.raises(DataError, match="below is a link to"):
        foreign.check_folder(linked)


def test_compressed_files_that_grow_a_thousandfold_are_refused(tmp_path: Path) -> None:
    size = 300 * 2**20
    grown = tmp_path / "captions.json.gz"
    pressed = zlib.compressobj(9, wbits=31)
    grown.write_bytes(pressed.compress(b" " * size) + pressed.flush())
    with pytest.raises(DataError, match="when it is decompressed"):
        load_json(grown)
    archive = tmp_path / "ranks.npz"
    np.savez_compressed(archive, i2t=np.zeros(size // 8))
    assert archive.stat().st_size < 2**20
    with pytest.raises(DataError, match="when it is decompressed"):
        foreign.read_npz(archive)
    savemat(tmp_path / "features.mat", {"image": np.zeros((2, size // 16))}, do_compression=True)
    with pytest.raises(DataError, match="when it is decompressed"):
        find_arrays(tmp_path)["image"].load()


def test_compressed_files_of_data_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    np.savez_compressed(tmp_path / "a.npz", image=values)
    savemat(tmp_path / "b.mat", {"text": values, "empty": np.zeros((0, 0))}, do_compression=True)
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(json.dumps([1, 2]).encode()) + gzip.compress(b" "))
    found = find_arrays(tmp_path)
    assert np.array_equal(found["image"].load(), values)
    assert np.array_equal(found["text"].load(), values)
    assert np.array_equal(foreign.read_npz(tmp_path / "a.npz")["image"], values)
    assert load_json(tmp_path / "c.json.gz") == [1, 2]


def test_an_archive_that_lies_about_its_array_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(tmp_path / "ranks.npz", "w") as archive:
        archive.writestr("i2t.npy", header.getvalue())
    with pytest.raises(DataError, match="cannot be read"):
        foreign.read_npz(tmp_path / "ranks.npz")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_that_is_large_only_when_decoded_is_refused(tmp_path: Path) -> None:
    Image.new("1", (12_000, 12_000)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match="12000 x 12000 pixels in"):
        read_photo(tmp_path / "bomb.png")
    Image.new("1", (6_000, 6_000)).save(tmp_path / "large.png")
    assert read_photo(tmp_path / "large.png").size == (6_000, 6_000)


def test_a_photograph_starts_no_program(tmp_path: Path) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the name of the file says."""
    (tmp_path / "photo.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n0 0 moveto 9 9 lineto stroke\n%%EOF\n"
    )
    with Image.open(tmp_path / "photo.jpg") as opened:
        assert opened.format == "EPS"
    with pytest.raises(DataError, match="cannot identify image file"):
        read_photo(tmp_path / "photo.jpg")
