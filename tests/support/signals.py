"""Signals of the processes that tests start."""

from __future__ import annotations

import signal


def heed_interrupts() -> None:
    """Undo in a new process what a shell does to its jobs in the background: they ignore interrupts, as children do."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
