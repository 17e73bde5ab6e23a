"""VSE++: one vector per item, trained on the hardest negative of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec, ViewKind
from cmr_bench.models.common.feature_module import FeatureModule
from cmr_bench.models.common.ranking import RankingModule
from cmr_bench.models.distributed import world_size
from cmr_bench.models.encoders.text import Init, WordEncoder


class VSEPP(RankingModule, FeatureModule):
    """VSE++ (Faghri et al., BMVC 2018): linear image embedding, GRU sentence embedding, hardest negatives.

    A CNN that is trained too can stay as it is for the first epochs; then everything learns at its rate, with a fresh
    optimiser, as where the paper fine-tunes a model that was trained on frozen features.

    Args:
        dim: Embedding dimension.
        bidirectional: Use a bidirectional GRU and average its two final states.
        dropout: Dropout probability of image features and word embeddings.
        normalise_features: L2-normalise image features before the linear layer, as in the paper.
        gru_init: Initialisation of the GRU: orthogonal hidden-to-hidden weights, or uniform, PyTorch's default, as in
            the released code.
        reduction: Reduction of the loss over the batch: mean, or sum, as in the paper; they differ under gradient
            clipping.
        frozen_epochs: Number of first epochs in which a fine-tuned CNN is frozen; afterwards everything trains at
            `cnn_lr`, and `lr_decay_every` restarts.
        text_view: Text view: tokens.
    """

    text_views = ("tokens",)

    def __init__(
        self,
        dim: int = 1024,
        bidirectional: bool = False,
        dropout: float = 0.0,
        normalise_features: bool = False,
        gru_init: Init = "orthogonal",
        reduction: Literal["mean", "sum"] = "mean",
        frozen_epochs: int = 0,
        cnn: str = "torchvision:resnet152",
        text_view: ViewKind = "tokens",
        **kwargs: Any,
    ) -> None:
        super().__init__(cnn=cnn, text_view=text_view, **kwargs)
        self.dim, self.bidirectional = dim, bidirectional
        self.dropout, self.normalise_features = dropout, normalise_features
        self.gru_init, self.reduction, self.frozen_epochs = gru_init, reduction, frozen_epochs

    def words(self, vocab_size: int) -> WordEncoder:
        """Encode words with a GRU, whose last state is the embedding."""
        return WordEncoder(
            vocab_size, self.word_dim, self.dim, self.bidirectional, dropout=self.dropout, init=self.gru_init
        )

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        linear = nn.Linear(self.image_dim, self.dim)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        self.image_layer = nn.Sequential(nn.Dropout(self.dropout), linear)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images, (b, dim)."""
        features = self.image_features(images)
        embedded: Tensor = self.image_layer(F.normalize(features, dim=1) if self.normalise_features else features)
        return embedded

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts, (b, dim)."""
        return self.text_features(texts)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the hinge ranking loss of the cosines of the batch."""
        pair, n_pairs = self.ranking_loss(batch)
        terms = {"loss": pair} if self.reduction == "mean" else {"loss": pair * n_pairs, "pair": pair}
        if self.waits and world_size() > 1:
            # DDP wants a gradient of every parameter; these are zeros, which do not count when gradients are clipped.
            waiting = [parameter.sum() for parameter in self.image_input.parameters() if parameter.requires_grad]
            terms["loss"] = terms["loss"] + 0.0 * sum(waiting, start=terms["loss"].new_zeros(()))
        return terms

    @property
    def waits(self) -> bool:
        """True in the epochs in which a CNN that will be trained does not learn yet."""
        return self.fine_tune and self.current_epoch < self.frozen_epochs

    def configure_optimizers(self) -> Any:
        """Adam; where the image network is trained later, at the rate of each stage."""
        network = self.image_input.network
        if network is None or not self.fine_tune or not self.frozen_epochs:
            return super().configure_optimizers()
        optimizer = self.make_optimizer()

        def decayed(epoch: int) -> float:
            return self.lr_decay ** (epoch // self.lr_decay_every) if self.lr_decay_every else 1.0

        def others(epoch: int) -> float:
            later = epoch - self.frozen_epochs
            return decayed(epoch) if later < 0 else self.cnn_lr / self.lr * decayed(later)

        def waiting(epoch: int) -> float:
            later = epoch - self.frozen_epochs
            return 0.0 if later < 0 else decayed(later)

        rates: list[Callable[[int], float]] = [others, waiting]
        return {"optimizer": optimizer, "lr_scheduler": LambdaLR(optimizer, rates)}

    def on_train_epoch_start(self) -> None:
        """Let the image network wait or learn, and begin its stage with a fresh optimiser."""
        network = self.image_input.network
        if network is None or not self.fine_tune or not self.frozen_epochs:
            return
        network.fine_tune = not self.waits
        network.train()
        if self.current_epoch == self.frozen_epochs:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()
