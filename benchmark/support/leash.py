"""A command that ends with the process that started it: ``python -m cmr_bench.support.leash COMMAND ...``.

The one that starts it holds the other end of its standard input. When that is gone, by whatever death, the whole
process group of the command is killed, with the workers and ranks that it has started.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading


def hold() -> None:
    """Kill the process group once standard input ends."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    hold()
    runpy.run_module("cmr_bench", run_name="__main__")
