"""Suites on a real SLURM of one machine, which the test starts: job arrays, requeued jobs and lost ones."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cmr_bench.cli import main
from cmr_bench.suites import launchers
from cmr_bench.suites.launchers import Slurm
from tests.support.processes import eventually, free_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
SUITE = """
seeds: [0, 1]
options: {trainer.max_epochs: 200, trainer.bootstrap: 0, trainer.accelerator: cpu, data.batch_size: 32}
resources: {minutes: 30, cpus: 1}
runs:
  - {method: "own.py:Linear", data: "own.py:Toy"}
"""
CONFIG = """
ClusterName=cmr-bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, PROGRAMS)), reason=f"no SLURM: needs {', '.join(PROGRAMS)} (apt install slurm-wlm)"
    ),
]


def said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=30).stdout


def processes() -> Iterator[tuple[int, list[str]]]:
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield int(place.name), place.joinpath("cmdline").read_text(errors="replace").rstrip("\0").split("\0")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of this machine, without accounting; the path of its configuration."""
    pytest.importorskip("submitit")
    place = tmp_path_factory.mktemp("slurm")
    (place / "state").mkdir()
    (place / "spool").mkdir()
    config = place / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    config.write_text(CONFIG.format(host=host, place=place, ports=free_ports(2), user=getpass.getuser()))
    key = place / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    ends = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{name}={place}/munge.{end}" for name, end in ends.items()]
    environment = os.environ | {"SLURM_CONF": str(config)}
    daemons = []
    try:
        for command in (["munged", "--foreground", "--force", *munge], ["slurmctld", "-D", "-i"], ["slurmd", "-D"]):
            daemons.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            time.sleep(1)
        os.environ["SLURM_CONF"] = str(config)
        if not eventually(lambda: said("sinfo", "--noheader", "--format=%T").strip() == "idle"):
            pytest.skip(f"SLURM does not start here: {(place / 'slurmctld.log').read_text()[-300:]}")
        yield config
    finally:
        os.environ.pop("SLURM_CONF", None)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def impatient(monkeypatch: pytest.MonkeyPatch, act: Callable[[Any], None]) -> None:
    """Look at the queue every second, and do something before each look at a job."""
    outcome = Slurm.outcome

    def look(self: Slurm, handle: Any) -> str | None:
        act(handle)
        return outcome(self, handle)

    monkeypatch.setattr(Slurm, "outcome", look)
    monkeypatch.setattr(launchers, "_LOOK_EVERY", 1.0)


def test_a_job_whose_time_is_up_is_queued_again_and_its_run_goes_on(
    cluster: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended: list[str] = []

    def act(handle: Any) -> None:
        if not ended and list(folder.glob("runs/Toy/Linear/*/checkpoints/last.ckpt")):
            ended.append(handle.job_id)
            # What SLURM sends some time before the end, to the steps of a job.
            said("scancel", "--signal=USR2", handle.job_id)
        elif ended:
            # SLURM lets a requeued job wait for two minutes.
            said("scontrol", "update", f"JobId={ended[0]}", "StartTime=now")

    impatient(monkeypatch, act)
    assert main(["suite", "try.yaml", "--launcher", "slurm"]) == 0
    assert ended
    assert "Restarts=1" in said("scontrol", "show", "job", "--oneliner", ended[0])
    assert len(list(folder.glob("runs/Toy/Linear/*/result.json"))) == 2
    assert len(list(folder.glob("runs/Toy/Linear/*"))) == 2
    assert "sacct" not in capfd.readouterr().err
    assert main(["suite", "try.yaml", "--launcher", "slurm"]) == 0
    assert "submitted" not in capfd.readouterr().out


def test_a_job_that_is_lost_fails_and_is_made_by_the_same_command(
    cluster: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lost: list[int] = []

    def act(handle: Any) -> None:
        if not lost and list(folder.glob("runs/Toy/Linear/*/checkpoints/last.ckpt")):
            lost.append(next(number for number, words in processes() if is_job(words)))
            os.kill(lost[0], signal.SIGKILL)

    def is_job(words: list[str]) -> bool:
        return "srun" not in words[0] and "submitit.core._submit" in words and str(folder) in words[-1]

    impatient(monkeypatch, act)
    assert main(["suite", "try.yaml", "--launcher", "slurm"]) == 1
    assert "SLURM ended the job (FAILED) before its result" in " ".join(capfd.readouterr().err.split())
    assert len(list(folder.glob("runs/Toy/Linear/*/result.json"))) == 1
    assert main(["suite", "try.yaml", "--launcher", "slurm"]) == 0
    assert "submitted 1 jobs" in capfd.readouterr().out
    assert len(list(folder.glob("runs/Toy/Linear/*/result.json"))) == 2
    assert len(list(folder.glob("runs/Toy/Linear/*"))) == 2
