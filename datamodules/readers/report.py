"""What reading a data set has to say: remarks, and the rows that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence

from cmr_bench.support.errors import DataError, one_line

NAMED = 5


class InvalidRowsError(DataError):
    """Rows of an annotation file cannot be read.

    Args:
        rows: What is wrong, a line a row, the first of them.
        count: How many there are.
    """

    def __init__(self, rows: Sequence[str], count: int) -> None:
        self.rows, self.count = tuple(rows), count
        more = f"; and {count - NAMED:,} more" if count > NAMED else ""
        head = "" if count == 1 else f"{count:,} rows cannot be read: "
        super().__init__(
            f"{head}{'; '.join(self.rows[:NAMED])}{more}; correct {'it' if count == 1 else 'them'}, or pass "
            f"--data.skip_invalid true to skip {'it' if count == 1 else 'them'}"
        )


class Report:
    """Collects remarks and unreadable rows while files are read.

    Args:
        skip_invalid: Skip the rows that cannot be read.

    Attributes:
        notes: Remarks, a line each.
        problems: What is wrong with the data though it can be read, a line each.
        rows: What is wrong with the first rows that cannot be read.
        count: How many rows cannot be read.
    """

    _KEPT = 20

    def __init__(self, skip_invalid: bool = False) -> None:
        self.skip_invalid = skip_invalid
        self.notes: list[str] = []
        self.problems: list[str] = []
        self.rows: list[str] = []
        self.count = 0

    def note(self, line: str) -> None:
        """Keep a remark, once."""
        if line not in self.notes:
            self.notes.append(line)

    def problem(self, line: str) -> None:
        """Keep what is wrong with the data, once: a run warns of it, the data check fails."""
        if line not in self.problems:
            self.problems.append(line)

    def invalid(self, problem: DataError | str) -> None:
        """Count a row that cannot be read; the problem names file and line."""
        self.count += 1
        if len(self.rows) < self._KEPT:
            self.rows.append(one_line(problem))

    def close(self) -> None:
        """Raise InvalidRowsError if rows cannot be read and are not to be skipped."""
        if self.count and not self.skip_invalid:
            raise InvalidRowsError(self.rows, self.count)

    def lines(self) -> list[str]:
        """Return the problems, the remarks, and the rows that are skipped."""
        told = [*self.problems, *self.notes]
        if not self.count:
            return told
        more = f"; and {self.count - NAMED:,} more" if self.count > NAMED else ""
        skipped = f"{self.count:,} row(s) that cannot be read are skipped: {'; '.join(self.rows[:NAMED])}{more}"
        return [*told, skipped]
