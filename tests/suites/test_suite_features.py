"""The image features that a suite's runs read are made once, before the first run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cmr_bench import cli
from cmr_bench.datamodules.images import backbones
from cmr_bench.suites import plan
from cmr_bench.suites.features import provide_features
from cmr_bench.support.places import cache_dir, stores_in

SUITE = """
options: {{data.root: {root}, data.image_weights: random, data.image_features: timm:test_efficientnet/pool/32}}
runs:
  - {{method: [vsepp, cca], data: flickr8k, seeds: [0, 1]}}
  - {{method: vsepp, data: flickr8k, options: {{data.image_features: "timm:no_such_net/pool"}}}}
  - {{method: vsepp, data: synthetic, options: {{data.image_features: null}}}}
"""


@pytest.fixture
def suite(tmp_path: Path, write_karpathy: Callable[..., Path]) -> Path:
    write_karpathy(tmp_path / "data")
    file = tmp_path / "try.yaml"
    file.write_text(SUITE.format(root=tmp_path / "data"))
    return file


def test_features_that_several_runs_read_are_made_once(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    real = backbones.load_backbone

    def load(encoder: str, *words: object) -> backbones.Backbone:
        loaded.append(encoder)
        return real(encoder, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(backbones, "load_backbone", load)
    jobs = list(plan.jobs(plan.read_suite(str(suite)), None, []))
    problems = provide_features(jobs)
    assert loaded == ["timm:test_efficientnet", "timm:no_such_net"]
    assert [bool(problem) for problem in problems] == [False, False, False, False, True, False]
    assert "timm has no model 'no_such_net'" in problems[4]
    assert [folder.name for folder in stores_in([cache_dir("flickr8k") / "features"])] == ["test_efficientnet-pool-32"]
    monkeypatch.setattr(backbones, "load_backbone", None)
    assert provide_features(jobs[:4]) == [""] * 4


def test_a_suite_of_data_that_is_nowhere_starts_no_run(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = suite.read_text().replace("{method: vsepp, data: synthetic, options: {data.image_features: null}}", "null")
    suite.write_text(text.replace("  - null\n", ""))
    (suite.parent / "data").rename(suite.parent / "gone")
    assert cli.main(["suite", str(suite), "--runs", str(suite.parent / "runs")]) == 1
    assert "flickr8k not found" in capsys.readouterr().err
    assert not (suite.parent / "runs").exists()
