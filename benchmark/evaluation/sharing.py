"""Scoring spread over the processes of a run: each computes some tiles, all of them hold the sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from cmr_bench.support.errors import CmrBenchError

Arrays = tuple[NDArray[Any], ...]


class Sharing:
    """One process that does all the work; :class:`Processes` spreads it.

    Work comes in numbered pieces. A process computes the pieces that are :meth:`mine`, leaves zeros for the others and
    passes what it has through :meth:`total`. Each piece is computed by one process in one way, so that the sum has the
    same bits for any number of processes.
    """

    def mine(self, piece: int) -> bool:
        """Return whether a piece, by its number, is this process's to compute."""
        return True

    def total(self, compute: Callable[[], Arrays]) -> Arrays:
        """Return the sums over all processes of the arrays that ``compute`` returns in each.

        Raises:
            CmrBenchError: In every process, where ``compute`` fails in one; without it the others would wait for ever.
        """
        return compute()


class Processes(Sharing):
    """The processes of the default group of torch.distributed, which must be initialised."""

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        # NCCL moves memory of GPUs only.
        self.device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")

    def mine(self, piece: int) -> bool:
        """Return whether a piece is this process's: they are dealt out in turn."""
        return piece % self.world == self.rank

    def total(self, compute: Callable[[], Arrays]) -> Arrays:
        """Return the sums over all processes of the arrays that ``compute`` returns in each."""
        failure: Exception | None = None
        arrays: Arrays = ()
        try:
            arrays = compute()
        except Exception as error:
            failure = error
        reports: list[str | None] = [None] * self.world
        dist.all_gather_object(reports, None if failure is None else str(failure) or type(failure).__name__)
        if failure is not None:
            raise failure
        for rank, report in enumerate(reports):
            if report is not None:
                raise CmrBenchError(f"process {rank} of {self.world} failed: {report}")
        return tuple(self._sum(array) for array in arrays)

    def _sum(self, array: NDArray[Any]) -> NDArray[Any]:
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
        dist.all_reduce(tensor)
        return np.asarray(tensor.cpu().numpy())


def sharing() -> Sharing:
    """Return how scoring is spread here: over the processes of a distributed run, else not at all."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return Processes()
    return Sharing()
