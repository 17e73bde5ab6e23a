"""The GPUs of a machine, shared out to the runs of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cmr_bench.suites import plan, pool
from cmr_bench.suites.warm import Process


@pytest.mark.parametrize(
    ("gpus", "used", "options", "given"),
    [
        ("0123", [], {}, "0"),
        ("0123", ["0", "1"], {}, "2"),
        ("01", ["0", "1", "1"], {}, "0"),
        ("0123", ["0"], {"devices": 2}, "12"),
        ("0123", ["1"], {"devices": 2}, "02"),
        ("0123", [], {"devices": 4}, ""),
        ("0123", [], {"devices": "auto"}, ""),
        ("0123", [], {"accelerator": "cpu"}, ""),
        ("0", [], {}, ""),
        ("", [], {}, ""),
    ],
)
def test_a_run_gets_the_gpus_with_the_least_to_do(
    gpus: str, used: list[str], options: dict[str, Any], given: str
) -> None:
    assert pool.share(gpus, used, options) == tuple(given)


def test_every_job_of_a_suite_gets_its_own_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    ended: set[int] = set()

    class Run:
        def __init__(self, pid: int) -> None:
            self.pid, self.returncode = pid, None

        def poll(self) -> int | None:
            if len(seen) >= 3 or self.pid in ended:
                self.returncode = 0
            return self.returncode

        def wait(self, timeout: float | None = None) -> int:
            return 0

    def start(words: list[str], log: Path, variables: dict[str, str]) -> Process:
        seen.append(variables["CUDA_VISIBLE_DEVICES"])
        return Run(len(seen))

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,GPU-8a")
    monkeypatch.setattr(pool, "start", start)
    (tmp_path / "try.yaml").write_text("seeds: [0, 1, 2, 3]\nruns: [{method: vsepp, data: synthetic}]\n")
    jobs = list(plan.jobs(plan.read_suite(str(tmp_path / "try.yaml")), None, []))
    assert not pool.run_suite([(job, None) for job in jobs], tmp_path / "runs", 3, "csv", Console(quiet=True))
    assert seen == ["4", "7", "GPU-8a", "4"]
