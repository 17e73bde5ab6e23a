"""A row and a section of the leaderboard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from cmr_bench.results.groups import GROUPS
from cmr_bench.results.record import Result


@dataclass
class Row:
    """One line of the leaderboard: a method measured over seeds, or one that a paper reports.

    Attributes:
        method: Name of the method.
        variant: Variant of its recipe, or empty.
        family: Family of the survey, or empty.
        features: What the images and texts were read as.
        source: Key of the publication; empty for a measured row.
        metrics: Mean over the seeds, of metrics that every seed has.
        spread: Standard deviation over the seeds, of the same metrics; empty for a single seed.
        seeds: The seed of each result; None stands for a result without one.
        n_seeds: Number of different seeds; None where a publication does not say.
        draws: Seeds of the draws of the test split that the row is a mean over; empty for the split of the data set.
        flags: What a reader must know of the row.
        fidelity: paper, code, reconstruction or external.
        detail: What the row changes in its recipe, and what else sets it apart from an older row of that name.
        deviations: What differs from the paper or program, a line each.
        superseded: Results left out because a later one has the same seed.
        copies: Results left out because another has the same figures and took the same seconds.
        mixture: In what the results that are averaged differ beside their seed, a phrase each.
        criterion: Criterion of model selection, rsum or map, where recorded.
        title: What a paper's table calls the row; empty for method and variant.
        published: What the paper reports for this row, where a measured row stands beside it.
        published_spread: Standard deviation over seeds that the paper reports.
        results: The results that a measured row comes from, one a seed and draw.
    """

    method: str
    variant: str = ""
    family: str = ""
    features: str = ""
    source: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    seeds: tuple[int | None, ...] = ()
    n_seeds: int | None = None
    draws: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()
    fidelity: str = ""
    detail: str = ""
    deviations: tuple[str, ...] = ()
    superseded: int = 0
    copies: int = 0
    mixture: tuple[str, ...] = ()
    criterion: str = ""
    title: str = ""
    published: Mapping[str, float] = field(default_factory=dict)
    published_spread: Mapping[str, float] = field(default_factory=dict)
    results: tuple[Result, ...] = field(default=(), repr=False, compare=False)

    @property
    def measured(self) -> bool:
        """Whether the row comes from stored results."""
        return not self.source

    @property
    def label(self) -> str:
        """Title, or method and variant, and the detail in one text."""
        inner = ", ".join(part for part in ("" if self.title else self.variant, self.detail) if part)
        name = self.title or self.method
        return f"{name} ({inner})" if inner else name

    @property
    def repeats(self) -> str:
        """How often the row was measured: the number of seeds, behind that of the draws where there are any."""
        seeds = str(self.n_seeds or "")
        return f"{len(self.draws)}x{seeds}" if self.draws else seeds

    def difference(self, name: str) -> float | None:
        """Return measured minus published, or None where either is missing."""
        if name not in self.metrics or name not in self.published:
            return None
        return self.metrics[name] - self.published[name]

    def inside(self, name: str) -> bool | None:
        """Tell whether the difference lies inside two standard deviations.

        The variance over the measured seeds (and draws) and, where the paper gives one, the published variance add up.

        Returns:
            None where there is no difference or only one seed to judge it by.
        """
        difference = self.difference(name)
        if difference is None or name not in self.spread:
            return None
        allowed = 2 * math.hypot(self.spread[name], self.published_spread.get(name, 0.0))
        return abs(difference) <= allowed or math.isclose(abs(difference), allowed)


@dataclass
class Section:
    """Rows that may be compared: scored on the same test split under the same protocol.

    Attributes:
        data: Name of the data set.
        folds: Number of folds that the metrics are means over; None for the whole test split.
        n_images: Images of the test split; 0 where unknown.
        n_texts: Texts of the test split; 0 where unknown.
        fingerprint: Content fingerprint of the test split, where all measured rows share one.
        definitions: Definition of every metric, as the results record it.
        draws: Seeds of the draws of the test split that every row is a mean over; empty for the data set's own split.
        warnings: What looks wrong among the measured rows, a line each.
        rows: The rows, measured ones first.
        note: Why these rows stand apart from others of the data set.
        remark: What to bear in mind with the published rows.
        heading: What the table is called, where it is one of a suite.
        paper: Key of the publication whose figures stand beside the measured ones; empty where there are none.
        columns: Metrics and groups to show; None chooses by what the rows have.
        left_out: Results left out of a suite's table because they carry a flag.
        subsets: Draws of pairs that the metrics are means over, such as 10x1000; empty for none.
        unseen: How many classes of the test split training has not seen, in words; empty where it has seen all.
    """

    data: str
    folds: int | None
    n_images: int
    n_texts: int
    fingerprint: str = ""
    definitions: Mapping[str, str] = field(default_factory=dict)
    draws: tuple[int, ...] = ()
    warnings: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    note: str = ""
    remark: str = ""
    heading: str = ""
    paper: str = ""
    columns: tuple[str, ...] | None = None
    left_out: int = 0
    subsets: str = ""
    unseen: str = ""

    @property
    def title(self) -> str:
        """Heading, data set and protocol in words."""
        return f"{self.heading}. {self._protocol}" if self.heading else self._protocol

    @property
    def part(self) -> str:
        """What the metrics are of: ``whole``, or the mean of what, in words."""
        if self.subsets:
            count, size = self.subsets.split("x")
            return f"mean of {count} draws of {int(size):,} pairs"
        return "whole" if self.folds is None else f"mean of {self.folds} folds"

    @property
    def _protocol(self) -> str:
        return f"{self._of_split}, {self.unseen}" if self.unseen else self._of_split

    @property
    def _of_split(self) -> str:
        if self.subsets:
            return f"{self.data}: {self.part}"
        if self.folds is None:
            images = f", {self.n_images:,} images" if self.n_images else ""
            texts = f" and {self.n_texts:,} texts" if self.n_texts else ""
            if len(self.draws) == 1:
                return f"{self.data}: draw {self.draws[0]} of the test split{images}{texts}"
            if self.draws:
                return f"{self.data}: mean of {len(self.draws)} draws of the test split{images}{texts} each"
            return f"{self.data}: whole test split{images}{texts}"
        each = f" of {self.n_images // self.folds:,} images" if self.n_images else ""
        return f"{self.data}: {self.part}{each}"

    def names(self) -> list[str]:
        """Every metric of any row, known ones first."""
        there = {name for row in self.rows for name in (*row.metrics, *row.published)}
        known = [name for group in GROUPS.values() for name in group if name in there]
        return known + sorted(there.difference(known))
