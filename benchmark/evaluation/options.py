"""How a run is evaluated: what its weights are chosen by, and what its test split is scored with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cmr_bench.evaluation.subsets import Subsets


@dataclass(frozen=True)
class EvaluationOptions:
    """What a run decides about its evaluation, handed over once by ``RetrievalModule.attach``.

    Attributes:
        criterion: Metric that chooses the weights.
        select_on: Split that chooses them.
        bootstrap: Resamples of the test queries for confidence intervals; 0 for none.
        subsets: Draws of pairs of the test split that are scored by themselves.
        postprocess: Post-processing of the test scores; None scores them as they are.
        few_shot_below: Occurrences in training below which a word is rare, for the recalls of the test captions that
            hold one; 0 for none.
    """

    criterion: Literal["rsum", "map"] = "rsum"
    select_on: Literal["val", "test"] = "val"
    bootstrap: int = 0
    postprocess: Literal["csls", "inverted_softmax", "mtfn_rr", "mtfn_rr_groups"] | None = None
    few_shot_below: int = 0
    subsets: tuple[Subsets, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader of the result must know."""
        return ("selected_on_test",) if self.select_on == "test" else ()
