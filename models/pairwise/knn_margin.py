"""kNN-margin: VSE++ with the k hardest negatives of a batch in place of the hardest."""

from __future__ import annotations

from typing import Any

from cmr_bench.models.losses import Negatives
from cmr_bench.models.pairwise.vsepp import VSEPP


class KNNMargin(VSEPP):
    """kNN-margin loss (Liu and Ye, A Strong and Robust Baseline for Text-Image Matching, ACL student workshop 2019).

    The encoders of VSE++; a query's loss is the sum over its k most similar negatives of the batch. With one
    neighbour it is the loss of VSE++, with all of them that of Kiros et al. The paper's corrections of hubs at
    inference are ``--trainer.postprocess inverted_softmax`` and ``csls``, for every method.

    Args:
        neighbours: Number of most similar negatives that count.
        negatives: Negatives that count: the nearest; hardest, mean and sum are the losses it is compared with.
    """

    def __init__(self, neighbours: int = 3, negatives: Negatives = "nearest", **kwargs: Any) -> None:
        super().__init__(neighbours=neighbours, negatives=negatives, **kwargs)
