"""Runs from a warm process: what they compute, where they write, how they end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cmr_bench.cli import main
from cmr_bench.results.record import read_result
from cmr_bench.suites import warm

pytestmark = pytest.mark.skipif(not warm.available(), reason="runs are forked on Linux only")

# A server that imports nothing is as good for what is tested here, and ready at once.
BARE = """
import os, signal, subprocess, sys
from pathlib import Path
from cmr_bench.suites import warm
warm._IMPORTED = []
variables = {**os.environ, "PYTHONUNBUFFERED": "1"}
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BARE + code]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)


def test_a_forked_run_has_its_own_group_log_and_exit_code(tmp_path: Path) -> None:
    code = """
runs = {}
for name, words in {"good": ["--version"], "bad": ["lst"]}.items():
    runs[name] = warm.start(words, Path(name), variables)
print(*(run.wait(60) for run in runs.values()), *(run.poll() for run in runs.values()))
print(all(run.pid != os.getpid() for run in runs.values()), __name__)
"""
    told = python(code, tmp_path)
    assert told.stdout.splitlines() == ["0 2 0 2", "True __main__"], told.stderr
    assert (tmp_path / "good").read_text().startswith("cmr-bench ")
    assert "unknown command 'lst'" in (tmp_path / "bad").read_text()


def test_a_run_under_other_variables_starts_by_itself_and_gpus_are_no_such(tmp_path: Path) -> None:
    code = """
warm.prepare(variables)
shown = [
    "import os, sys",
    "forked = 'multiprocessing.spawn' in sys.modules",
    "print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ.get('OTHER'), forked)",
    "raise SystemExit",
]
Path("shown.py").write_text("\\n".join(shown))
for number, more in enumerate([{}, {"OTHER": "1"}]):
    words = ["run", "--model", "shown.py:Shown", "--data", "synthetic"]
    warm.start(words, Path(str(number)), {**variables, "CUDA_VISIBLE_DEVICES": "3", **more}).wait(60)
"""
    told = python(code, tmp_path)
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "0").read_text().splitlines()[0] == "3 None True"
    assert (tmp_path / "1").read_text().splitlines()[0] == "3 1 False"


def test_a_run_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    code = """
Path("slow.py").write_text("import time; open('begun', 'w').close(); time.sleep(60)\\nclass Slow: pass\\n")
run = warm.start(["run", "--model", "slow.py:Slow"], Path("log"), variables)
while not Path("begun").is_file():
    assert run.poll() is None
try:
    run.wait(0.01)
except subprocess.TimeoutExpired:
    print(run.pid, os.getpgid(run.pid), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    told = python(code, tmp_path)
    pid, group = map(int, told.stdout.split())
    assert pid == group
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and alive(pid):
        time.sleep(0.02)
    assert not alive(pid)


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vsepp", "agnet"])
def test_a_forked_run_is_that_of_a_fresh_process_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    (tmp_path / "try.yaml").write_text(
        "options: {trainer.max_epochs: 2, trainer.accelerator: cpu, data.n_train: 64, data.n_val: 9, data.n_test: 9}\n"
        f"runs: [{{method: {method}, data: synthetic}}]\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["suite", "try.yaml", "--runs", "forked"]) == 0
    monkeypatch.setattr(warm, "available", lambda: False)
    assert main(["suite", "try.yaml", "--runs", "fresh"]) == 0
    (forked,), (fresh,) = (list(Path(name).glob("synthetic/*/*")) for name in ("forked", "fresh"))
    assert read_result(forked / "result.json").metrics == read_result(fresh / "result.json").metrics
    one, other = (torch.load(place / "checkpoints" / "best.ckpt")["state_dict"] for place in (forked, fresh))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (forked / "history.csv").read_text().splitlines()[0] == (fresh / "history.csv").read_text().splitlines()[0]
