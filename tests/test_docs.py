"""The commands in the pages of docs/ run as they stand there."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from cmr_bench.cli import main
from cmr_bench.datamodules.custom import Custom
from cmr_bench.datamodules.nuswide import NUSWide
from cmr_bench.datamodules.recipe1m import Recipe1M

PAGE = Path(__file__).parents[1] / "docs" / "add_a_method.md"


def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL))
    assert len(blocks["python"].splitlines()) <= 60
    monkeypatch.chdir(tmp_path)
    Path("my_method.py").write_text(blocks["python"], encoding="utf-8")
    words = blocks["sh"].split()
    assert words[:2] == ["cmr-bench", "run"]
    quick = ["--data.n_train", "64", "--data.n_val", "32", "--data.n_test", "32", "--trainer.progress", "false"]
    assert main([*words[1:], *quick]) == 0
    (result,) = tmp_path.glob("runs/synthetic/MyMethod/*/result.json")
    assert result.stat().st_size > 0


@pytest.mark.slow
def test_own_data_from_images_to_the_leaderboard(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_photo: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run the walk-through with made-up images, a random encoder and one epoch."""
    page = (PAGE.parent / "data.md").read_text(encoding="utf-8")
    part = page.partition("## From images to the leaderboard")[2]
    block = re.search(r"```sh\n(.*?)```", part, flags=re.DOTALL)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mydata").mkdir()
    with (tmp_path / "mydata/captions.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "caption"])
        for k in range(40):
            write_photo(tmp_path / "mydata/photos" / f"{k:03d}.jpg", k)
            table.writerows([f"{k:03d}.jpg", f"a {colour} thing, seen"] for colour in ("red", f"blue{k % 8}"))
    quick = {
        "run": ["--data.image_size", "32", "--data.batch_size", "16", "--trainer.max_epochs", "1"],
    }
    commands = [shlex.split(line) for line in block[1].splitlines()]
    assert [words[1] for words in commands] == ["data", "run", "run", "leaderboard"]
    for words in commands:
        more = quick.get(words[2] if words[1] == "data" else words[1], [])
        if words[1] == "run":
            more = [*more, "--trainer.progress", "false", "--data.image_weights", "random"]
            if "pixels" in words:
                more = [*more, "--model.cnn", "timm:tf_efficientnet_lite0", "--model.cnn_weights", "random"]
        assert main([*words[1:], *more]) == 0, words
    shown = capsys.readouterr().out
    assert "ready to run" in shown
    assert shown.count("stored in") == 2


def test_options_in_the_page_on_data_exist() -> None:
    page = (PAGE.parent / "data.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--data\.(\w+)", page))
    classes = {*Custom.__mro__, *NUSWide.__mro__, Recipe1M}
    there = {entry.strip().partition(":")[0] for cls in classes for entry in (cls.__doc__ or "").splitlines()}
    assert named
    assert named <= there | {"root"}
