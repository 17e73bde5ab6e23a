"""Mistakes planted in every family are caught by the shipped expected scores, and sound code with a new seed is not.

The other rows of the suite stand there as they are expected, so that only the planted run decides. What is planted:

=============  ==========================================  =====================================================
family         margin sign                                 negatives
=============  ==========================================  =====================================================
interaction    of the ranking loss                         mean in place of hardest
pairwise       of the ranking loss                         hardest in place of mean, which vsepp learns from here
adversarial    of the triplets                             all in place of hardest
attributes     has no margin: sign of the likelihood       matching and other pairs not balanced
subspace       has no margin: sign of the texts' side      has none: the sides are not whitened
=============  ==========================================  =====================================================

In every family besides: the training captions are shuffled over the images, and the image features are shifted by one
row.

The mean over all negatives draws the items of a category together, so that the mAP of the categories rises by far more
than its tolerance while the recalls fall by less than theirs. Where CAUGHT_AS_RISE says so, the plant is caught as
suspiciously better: a warning, and exit code 1 with ``--fail-on-rise``, as `.ci/run` and the workflow have it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmr_bench import registry
from cmr_bench.cli import main
from cmr_bench.commands import check
from cmr_bench.datamodules.synthetic.module import Synthetic
from cmr_bench.datamodules.views import ArrayView
from cmr_bench.experiment import recipe, run
from cmr_bench.models import losses
from cmr_bench.models.adversarial import adv_subspace
from cmr_bench.models.attributes import agnet
from cmr_bench.models.common import ranking
from cmr_bench.models.subspace import solving
from cmr_bench.regression import expected
from cmr_bench.results.record import RESULT_FILE, Result, write_result
from cmr_bench.suites import plan
from cmr_bench.support import environment
from cmr_bench.support.errors import CmrBenchError

FAMILIES = {
    "interaction": "scan",
    "pairwise": "vsepp",
    "adversarial": "adv_subspace",
    "attributes": "agnet",
    "subspace": "cca",
}
NEW_SEED = 1000


def margin_sign(patch: pytest.MonkeyPatch, family: str) -> None:
    if family in ("interaction", "pairwise"):
        patch.setattr(ranking, "hinge_ranking", lambda s, p, margin, *how: losses.hinge_ranking(s, p, -margin, *how))
    elif family == "adversarial":
        triplets = losses.triplet_hinge
        patch.setattr(
            adv_subspace,
            "triplet_hinge",
            lambda d, p, n, margin, *how, **sums: triplets(d, p, n, -margin, *how, **sums),
        )
    elif family == "attributes":
        patch.setattr(agnet, "code_likelihood", lambda a, b, match, how: losses.code_likelihood(a, b, ~match, how))
    else:
        solve = solving.canonical

        def flipped(*args: Any) -> solving.Projections:
            found = solve(*args)
            return dataclasses.replace(found, text=-found.text)

        patch.setattr(solving, "canonical", flipped)


def shuffled_captions(patch: pytest.MonkeyPatch, family: str) -> None:
    original = Synthetic.read

    def read(data: Synthetic) -> dict[str, Any]:
        splits = dict(original(data))
        owners = np.random.default_rng(0).permutation(splits["train"].image_of_text)
        return splits | {"train": dataclasses.replace(splits["train"], image_of_text=owners)}

    patch.setattr(Synthetic, "read", read)


def shifted_features(patch: pytest.MonkeyPatch, family: str) -> None:
    original = Synthetic.image_view

    def view(data: Synthetic, *args: Any) -> ArrayView:
        found = original(data, *args)
        assert isinstance(found, ArrayView)
        found.rows = np.roll(np.arange(len(found)), 1)
        return found

    patch.setattr(Synthetic, "image_view", view)


def other_negatives(patch: pytest.MonkeyPatch, family: str) -> None:
    hinge, triplets = losses.hinge_ranking, losses.triplet_hinge
    if family == "interaction":
        patch.setattr(ranking, "hinge_ranking", lambda s, p, margin, n, *how: hinge(s, p, margin, "mean", *how))
    elif family == "pairwise":
        patch.setattr(ranking, "hinge_ranking", lambda s, p, margin, n, *how: hinge(s, p, margin, "hardest", *how))
    elif family == "adversarial":
        patch.setattr(
            adv_subspace, "triplet_hinge", lambda d, p, n, m, mined, **sums: triplets(d, p, n, m, "all", **sums)
        )
    elif family == "attributes":
        patch.setattr(agnet, "code_likelihood", lambda a, b, match, how: losses.code_likelihood(a, b, match, False))
    else:
        patch.setattr(solving.Whitened, "scale", lambda self, strength: np.ones_like(self.values))


PLANTS = (margin_sign, shuffled_captions, shifted_features, other_negatives)
CAUGHT_AS_RISE = {("adversarial", "other_negatives"), ("interaction", "other_negatives")}


@pytest.fixture(scope="module")
def record() -> expected.Expected:
    return expected.read_expected(check.expected_file(None))


@pytest.fixture
def runs(tmp_path: Path, record: expected.Expected, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs in which every row of the suite has just the scores that are expected."""
    monkeypatch.delenv(environment.JOB_SUMMARY, raising=False)
    for job in planned(0):
        (row,) = [row for row in record.rows if row.method == job.config.method]
        folder = tmp_path / job.config.dataset / job.config.method / "as-expected"
        folder.mkdir(parents=True)
        for seed in (0, NEW_SEED):
            place = folder.with_name(f"{folder.name}-{seed}")
            place.mkdir()
            (place / "config.yaml").write_text(dataclasses.replace(job.config, seed=seed).to_yaml())
            result = Result(
                row.method,
                row.data,
                {name: score.mean for name, score in row.metrics.items()},
                split_sizes={"test": list(row.test_size)},
                fingerprint=row.fingerprint,
                views={side: {"source": source} for side, source in row.views.items()},
                options=dict(row.options),
                seed=seed,
            )
            write_result(place, result)
    return tmp_path


@functools.cache
def planned(seed: int) -> list[plan.Job]:
    return list(plan.jobs(plan.read_suite("ci"), [seed], ["--trainer.progress=false"]))


def train(runs: Path, method: str, seed: int) -> None:
    """Run a method of the suite in this process; its result, or the want of one, replaces what is expected."""
    (config,) = [job.config for job in planned(seed) if job.config.method == method]
    folder = runs / config.dataset / config.method / f"as-expected-{seed}"
    (folder / RESULT_FILE).unlink()
    with contextlib.suppress(CmrBenchError):
        run.run(copy.deepcopy(config), folder)


def test_what_is_expected_passes(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--stored", "--runs", str(runs), "--fail-on-rise"]) == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_plant_is_caught(
    plant: Callable[[pytest.MonkeyPatch, str], None],
    family: str,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        plant(patch, family)
        train(runs, FAMILIES[family], 0)
    rises = (family, plant.__name__) in CAUGHT_AS_RISE
    capsys.readouterr()
    words = ["check", "--stored", "--runs", str(runs)]
    code = main([*words, "--fail-on-rise"] if rises else words)
    told = capsys.readouterr().err
    assert code == 1, told
    assert all(FAMILIES[family] in line for line in told.splitlines())
    assert ("suspiciously better" in told) >= rises


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_sound_code_with_another_seed_passes(family: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(runs, FAMILIES[family], NEW_SEED)
    code = main(["check", "--stored", "--runs", str(runs), "--seed", str(NEW_SEED), "--fail-on-rise"])
    assert code == 0, capsys.readouterr().err


def test_shipped_record_is_that_of_the_shipped_suite(record: expected.Expected) -> None:
    assert record.suite == "ci"
    assert [row.method for row in record.rows] == [job.config.method for job in planned(0)]
    assert {registry.family(row.method): row.method for row in record.rows} == FAMILIES
    for row, job in zip(record.rows, planned(0), strict=True):
        assert row.options == recipe.settings(job.config)
        assert len(row.seeds) >= 5
        n_images, _ = row.test_size
        chance = 100 * (1 + 5 + 10) / n_images
        assert row.metrics["rsum"].mean - row.metrics["rsum"].tolerance > 5 * chance
    assert all(record.recorded[name] for name in ("created", "commit", "device", "versions"))
