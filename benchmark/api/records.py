"""Stored results as records and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from cmr_bench.leaderboard.checks import load_checked
from cmr_bench.results.record import Result
from cmr_bench.support.errors import CmrBenchError, UsageError

if TYPE_CHECKING:
    import pandas

_FIELDS = ("method", "variant", "data", "family", "fidelity", "seed", "run_id", "created", "commit", "device")


class Records(Sequence[Result]):
    """Stored results, in the order of their folders.

    Attributes:
        problems: One line for each result that was left out, with the reason.
    """

    def __init__(self, found: Sequence[tuple[Path, Result]], problems: Sequence[str] = ()) -> None:
        self._found, self.problems = list(found), list(problems)

    @property
    def folders(self) -> list[Path]:
        """Run folder of each record."""
        return [folder for folder, _ in self._found]

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._found)

    def __iter__(self) -> Iterator[Result]:
        """Iterate over the records."""
        return (result for _, result in self._found)

    @overload
    def __getitem__(self, row: int) -> Result: ...
    @overload
    def __getitem__(self, row: slice) -> Records: ...
    def __getitem__(self, row: int | slice) -> Result | Records:
        """Return one record, or some of them."""
        return Records(self._found[row]) if isinstance(row, slice) else self._found[row][1]

    def __repr__(self) -> str:
        """Return the number of records and what they are of."""
        return f"Records({len(self)} results of {len({result.data for result in self})} data sets)"

    def rows(self) -> list[dict[str, Any]]:
        """Return a flat table, a dictionary a result: what was run, flags, folder, and every metric by its name."""
        return [
            {
                **{name: getattr(result, name) for name in _FIELDS},
                "flags": ", ".join(result.flags),
                "folder": str(folder),
                **result.metrics,
            }
            for folder, result in self._found
        ]

    def to_frame(self) -> pandas.DataFrame:
        """Return :meth:`rows` as a data frame of pandas.

        Raises:
            CmrBenchError: If pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise CmrBenchError("to_frame needs pandas: pip install pandas; rows() gives dictionaries") from error
        return pandas.DataFrame(self.rows())


def results(*runs: str | Path) -> Records:
    """Read stored results, of this or an older version.

    Args:
        *runs: Folders of runs, of which a result that lies in several counts once; without one, ``runs``.

    Returns:
        The results that can be what they say; the others are in ``problems``.

    Raises:
        UsageError: If a folder is not there.
    """
    folders = [Path(folder).expanduser() for folder in runs or ("runs",)]
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"no folder {folder}; pass one with results in <data>/<method>/<run>/result.json")
    return Records(*load_checked(*folders))
