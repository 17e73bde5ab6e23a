"""Protocols of a run: identities, draws of pairs and unseen classes, from the options to the leaderboard."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from cmr_bench.cli import main
from cmr_bench.evaluation.per_query import read_per_query
from cmr_bench.leaderboard.checks import load_checked
from cmr_bench.results.record import Result, read_result

SHORT = ("--trainer.max_epochs", "2", "--trainer.bootstrap", "20")


def stored(root: Path) -> list[tuple[Path, Result]]:
    found, problems = load_checked(root / "runs")
    assert problems == []
    return sorted(found, key=lambda pair: pair[1].created + pair[1].run_id)


def board(root: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    capsys.readouterr()
    assert main(["leaderboard", "--runs", str(root / "runs"), "--format", "csv", "--metrics", "all"]) == 0
    return list(csv.DictReader(capsys.readouterr().out.splitlines()))


def test_a_run_is_scored_by_identity(own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*own, *SHORT]) == 0
    assert main([*own, *SHORT, "--data.of_one", "4"]) == 0
    (_, plain), (folder, shared) = stored(tmp_path)
    assert shared.protocol["identities"] == 5
    assert "identities" not in plain.protocol
    assert {f"identity_{way}{name}" for way in ("", "i2t_", "t2i_") for name in ("map", "minp")} <= set(shared.metrics)
    assert shared.fingerprint != plain.fingerprint
    assert set(shared.intervals) >= {"identity_t2i_minp", "t2i_r1"}
    assert read_per_query(folder / "ranks.npz").identity.tolist() == [row // 4 for row in range(20)]
    answers = json.loads((folder / "examples.json").read_text())["t2i"]
    place = {f"test{row}": row for row in range(20)}
    for query in answers:
        own_image = place[query["query"]["match"]["id"]]
        for answer in query["answers"]:
            assert answer["match"] == (place[answer["id"]] // 4 == own_image // 4)
    rows = board(tmp_path, capsys)
    assert len({row["fingerprint"] for row in rows}) == 2
    assert [bool(row["identity_t2i_minp"]) for row in rows] == [
        row["fingerprint"] == shared.fingerprint for row in rows
    ]
    capsys.readouterr()
    assert main(["leaderboard", "--runs", str(tmp_path / "runs")]) == 0
    assert "mINP" in capsys.readouterr().out


def test_draws_of_pairs_have_a_section_of_their_own(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in ("0", "1"):
        assert main([*own, *SHORT, "--seed", seed, "--trainer.subsets", "3x10,2x20"]) == 0
    (_, first), (_, second) = stored(tmp_path)
    assert first.protocol["subsets"] == ["3x10", "2x20"]
    assert first.protocol["subset_seed"] == 0
    assert "trainer.subsets" not in {**first.options, **(first.changes or {}), **(second.changes or {})}
    rows = board(tmp_path, capsys)
    assert [row["protocol"] for row in rows] == ["whole", "mean of 3 draws of 10 pairs", "mean of 2 draws of 20 pairs"]
    assert all(row["n_seeds"] == "2" for row in rows)
    for row, prefix in zip(rows, ("", "subsets3x10_", "subsets2x20_"), strict=True):
        for name in ("t2i_medr", "i2t_r1"):
            mean = (first.metrics[prefix + name] + second.metrics[prefix + name]) / 2
            assert float(row[name]) == pytest.approx(mean)
    capsys.readouterr()
    assert main(["leaderboard", "--runs", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert "MedR" in shown
    assert "mean of 3 draws of 10 pairs" in shown


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("10x1000", "subsets 10x1000 draws 1,000 pairs, and only 20 images of the test split have a text"),
        ("many", "subsets are draws x pairs, such as 10x1000"),
    ],
)
def test_draws_that_cannot_be_are_refused_before_training(
    given: str, message: str, own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*own, "--trainer.subsets", given]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/**/checkpoints/*"))


@pytest.mark.slow
def test_rows_on_unseen_classes_do_not_mix_with_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words: list[Any] = ["run", "--model", "cca", "--data", "synthetic", "--runs", str(tmp_path / "runs")]
    words += [f"--data.{name}={value}" for name, value in (("n_train", 90), ("n_val", 40), ("n_test", 60))]
    words += ["--trainer.bootstrap", "0", "--trainer.progress", "false", "--trainer.accelerator", "cpu"]
    assert main(words) == 0
    assert main([*words, "--data.unseen_classes", "3"]) == 0
    (_, seen), (folder, unseen) = stored(tmp_path)
    assert unseen.flags == ["unseen_classes"]
    assert "unseen_classes" not in seen.flags
    assert len(unseen.protocol["unseen_classes"]) == 3
    assert unseen.options["data.unseen_classes"] == 3
    assert unseen.split_sizes["test"][0] < seen.split_sizes["test"][0]
    assert unseen.fidelity == "reconstruction"
    rows = [row for row in board(tmp_path, capsys) if row["kind"] == "measured"]
    assert len({row["fingerprint"] for row in rows}) == len(rows) == 2
    capsys.readouterr()
    assert main(["leaderboard", "--runs", str(tmp_path / "runs")]) == 0
    assert "3 unseen classes" in " ".join(capsys.readouterr().out.split())
    assert main(["run", "--config", str(folder / "config.yaml"), "--runs", str(tmp_path / "again")]) == 0
    (again,) = (read_result(file) for file in (tmp_path / "again").glob("*/*/*/result.json"))
    assert again.metrics == unseen.metrics


def test_export_and_ensemble_score_as_the_run_was_scored(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--data.of_one",
        "4",
        "--trainer.subsets",
        "3x10",
        "--trainer.max_epochs",
        "2",
        "--trainer.bootstrap",
        "0",
    ]
    for seed in ("0", "1"):
        assert main([*own, *options, "--seed", seed]) == 0
    (one, first), (other, _) = stored(tmp_path)
    capsys.readouterr()
    assert main(["eval", "--run", str(one), "--export", str(tmp_path / "out"), "--trust"]) == 0
    command = capsys.readouterr().out.partition("score it with: cmr-bench ")[2].split()
    assert main([*command, "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert {name: found[name] for name in first.metrics} == pytest.approx(first.metrics, abs=1e-9)
    assert main(["ensemble", str(one), str(other), "--bootstrap", "0", "--device", "cpu", "--trust"]) == 0
    (joined,) = (result for folder, result in stored(tmp_path) if "ensemble" in result.flags)
    assert joined.metrics.keys() == first.metrics.keys()
    assert joined.protocol["subsets"] == ["3x10"]
    assert joined.protocol["identities"] == 5
