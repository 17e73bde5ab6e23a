"""SCAN: words and regions attend to each other, and the score is how well they agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec, ViewKind
from cmr_bench.models.common.attention import (
    MAX_LAMBDA_SOFTMAX,
    Attention,
    Clip,
    CrossAttention,
    Pool,
    cross_attention,
)
from cmr_bench.models.common.ranking import RankingModule
from cmr_bench.models.encoders.inputs import (
    RegionInput,
    Scaling,
    fit_standardisers,
    linear_of_scaled,
    standardiser,
    with_own_rates,
)
from cmr_bench.models.encoders.text import Init, WordEncoder
from cmr_bench.models.scoring import Encoded
from cmr_bench.support.errors import UsageError
from cmr_bench.support.places import path_text

# Inverse temperatures of attention and pooling in the paper, section 4.3.
_LAMBDA_SOFTMAX: dict[Attention, float] = {"t2i": 9.0, "i2t": 4.0}
_LAMBDA_LSE: dict[Attention, float] = {"t2i": 6.0, "i2t": 5.0}


class SCAN(RankingModule):
    """SCAN (Lee et al., ECCV 2018): stacked cross attention between the words of a text and the regions of an image.

    Regions are embedded by a linear layer and words by a bidirectional GRU whose directions are averaged, all
    L2-normalised. The loss is summed over the pairs of a batch; with the gradient clipping of the recipes every
    step is then as long as the first ones.

    Args:
        dim: Embedding dimension of words and regions.
        word_dim: Word embedding dimension.
        attention: Direction of attention: words attend to regions (t2i), or regions to words (i2t).
        pool: Pooling over the attending side: average (avg) or log-sum-exp (lse).
        lambda_softmax: Inverse temperature of the attention, at most 40; 0 uses the paper's: 9 for t2i, 4 for i2t.
        lambda_lse: Inverse temperature of log-sum-exp; 0 uses the paper's for Flickr30K: 6 for t2i, 5 for i2t.
        gru_init: Initialisation of the GRU: orthogonal hidden-to-hidden weights, or uniform, PyTorch's default, as in
            the released code.
        clip: Activation of the cosines before the attention: relu, as in the paper, or leaky with slope 0.1, as in the
            released code.
        standardise: Standardise stored region features by the training split: each divides every feature by its own
            standard deviation, overall divides all by one number, none disables.
        cnn: Image backbone for pixels, whose last feature map gives the regions: timm:NAME, torchvision:NAME or
            hf:NAME_OR_FOLDER.
        cnn_weights: Weights of the backbone: a local file, or random; null loads the library's pretrained weights.
        fine_tune: Fine-tune the backbone.
        cnn_lr: Learning rate of the backbone.
        image_view: Image view: regions or pixels.
        text_view: Text view: tokens.
    """

    image_views = ("regions", "pixels")
    text_views = ("tokens",)

    def __init__(
        self,
        dim: int = 1024,
        word_dim: int = 300,
        attention: Attention = "t2i",
        pool: Pool = "avg",
        lambda_softmax: float = 0.0,
        lambda_lse: float = 0.0,
        gru_init: Init = "orthogonal",
        clip: Clip = "relu",
        standardise: Scaling = "none",
        cnn: str = "torchvision:resnet152",
        cnn_weights: str | Path | None = None,
        fine_tune: bool = False,
        cnn_lr: float = 2e-5,
        image_view: ViewKind = "regions",
        text_view: ViewKind = "tokens",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_view=image_view, text_view=text_view, **kwargs)
        if not 0 <= lambda_softmax <= MAX_LAMBDA_SOFTMAX:
            raise UsageError(f"--model.lambda_softmax {lambda_softmax}: must be between 0 and {MAX_LAMBDA_SOFTMAX:g}")
        if lambda_lse < 0:
            raise UsageError(f"--model.lambda_lse {lambda_lse}: must be above 0, or 0 for the paper's")
        self.dim, self.word_dim = dim, word_dim
        self.how = CrossAttention(
            attention,
            pool,
            lambda_softmax or _LAMBDA_SOFTMAX[attention],
            lambda_lse or _LAMBDA_LSE[attention],
            clip,
        )
        self.gru_init, self.standardise = gru_init, standardise
        self.cnn, self.cnn_weights, self.fine_tune, self.cnn_lr = cnn, path_text(cnn_weights), fine_tune, cnn_lr

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        self.image_input = RegionInput(spec.image, self.cnn, self.cnn_weights, self.fine_tune)
        self.image_scale = standardiser(spec.image, self.image_input.dim, self.standardise, pooled=False)
        self.image_layer = nn.Linear(self.image_input.dim, self.dim)
        nn.init.xavier_uniform_(self.image_layer.weight)
        nn.init.zeros_(self.image_layer.bias)
        self.text_encoder = WordEncoder(
            spec.text.vocab_size, self.word_dim, self.dim, bidirectional=True, pool="words", init=self.gru_init
        )

    def prepare_training(self, train: Split) -> None:
        """Fit the means and standard deviations of the region features."""
        fit_standardisers(train, self.image_scale, nn.Identity())

    def encode_images(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Return embedded regions, (b, R, dim), and the mask of real ones, (b, R)."""
        regions, mask = self.image_input(images)
        return F.normalize(linear_of_scaled(self.image_scale, self.image_layer, regions), dim=-1), mask

    def encode_texts(self, texts: TextBatch) -> tuple[Tensor, Tensor]:
        """Return embedded words, (b, W, dim), and their number per text, (b,)."""
        assert texts.lengths is not None
        return F.normalize(self.text_encoder(texts.tokens, texts.lengths), dim=-1), texts.lengths

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score every image with every text by cross attention, (n_images, n_texts)."""
        (regions, mask), (words, lengths) = images, texts
        return cross_attention(regions, mask, words, lengths, self.how)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the hinge ranking loss of the batch, summed over its pairs, and the loss per pair."""
        pair, n_pairs = self.ranking_loss(batch)
        return {"loss": pair * n_pairs, "pair": pair}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Give the image backbone its own learning rate."""
        return with_own_rates(self, (self.image_input, self.cnn_lr))
