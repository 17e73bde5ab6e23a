"""Deep canonical correlation analysis."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch, image_batch, text_batch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.feature_module import FeatureModule
from cmr_bench.models.distributed import gather, world_size
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import canonical_correlation
from cmr_bench.models.subspace.solving import CanonicalProblem, covariances
from cmr_bench.support.errors import UsageError

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
_CHUNK = 1024


class DCCA(FeatureModule):
    """Deep canonical correlation analysis (Andrew et al., ICML 2013), ranked by cosine in the canonical space.

    One fully connected network per modality, trained to maximise the sum of canonical correlations of a batch, which
    must have many more pairs than the networks have outputs. Linear CCA of the outputs over the
    training split is refitted on top before every validation. The paper trains with L-BFGS on the whole split.

    Args:
        hidden: Hidden dimension.
        layers: Number of hidden layers per modality.
        dim: Embedding dimension.
        activation: Activation of the hidden layers: relu, sigmoid or tanh.
        image_ridge: Ridge added to the covariance of the image outputs.
        text_ridge: Ridge added to the covariance of the text outputs.
        weighting: Weight of the components: none keeps unit variance, correlation multiplies each by its canonical
            correlation.
        dropout: Dropout probability of the hidden layers.
        top_images: Maximum number of training images for the linear CCA on top.
    """

    image_top_mean: Tensor
    image_top: Tensor
    text_top_mean: Tensor
    text_top: Tensor

    def __init__(
        self,
        hidden: int = 1024,
        layers: int = 2,
        dim: int = 64,
        activation: Literal["relu", "sigmoid", "tanh"] = "tanh",
        image_ridge: float = 0.1,
        text_ridge: float = 0.1,
        weighting: Literal["none", "correlation"] = "none",
        dropout: float = 0.0,
        top_images: int = 30000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("image_ridge", image_ridge), ("text_ridge", text_ridge)):
            if value <= 0:
                raise UsageError(f"--model.{name} {value}: dcca inverts covariances and needs a ridge above 0")
        self.hidden, self.layers, self.dim, self.activation = hidden, layers, dim, activation
        self.image_ridge, self.text_ridge, self.weighting = image_ridge, text_ridge, weighting
        self.dropout, self.top_images = dropout, top_images

    def words(self, vocab_size: int) -> WordEncoder:
        """Build the recurrent network for texts as tokens."""
        return WordEncoder(vocab_size, self.word_dim, self.hidden)

    def build(self, spec: DataSpec) -> None:
        """Build the networks; the linear CCA on top is the identity until fitted."""
        super().build(spec)
        self.image_net, self.text_net = self._net(self.image_dim), self._net(self.text_dim)
        for side in ("image", "text"):
            self.register_buffer(f"{side}_top_mean", torch.zeros(self.dim))
            self.register_buffer(f"{side}_top", torch.eye(self.dim))

    def _net(self, width: int) -> nn.Module:
        parts: list[nn.Module] = []
        for _ in range(self.layers):
            parts += [nn.Linear(width, self.hidden), ACTIVATIONS[self.activation](), nn.Dropout(self.dropout)]
            width = self.hidden
        return nn.Sequential(*parts, nn.Linear(width, self.dim))

    def image_outputs(self, images: ImageBatch) -> Tensor:
        """Return the outputs of the image network, (b, dim)."""
        outputs: Tensor = self.image_net(self.image_features(images))
        return outputs

    def text_outputs(self, texts: TextBatch) -> Tensor:
        """Return the outputs of the text network, (b, dim)."""
        outputs: Tensor = self.text_net(self.text_features(texts))
        return outputs

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images in the canonical space, (b, dim)."""
        return (self.image_outputs(images).float() - self.image_top_mean) @ self.image_top

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts in the canonical space, (b, dim)."""
        return (self.text_outputs(texts).float() - self.text_top_mean) @ self.text_top

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the negative sum of the canonical correlations over the global batch."""
        images, texts, _, _ = self.gather(self.image_outputs(batch.images), self.text_outputs(batch.texts), batch)
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        if len(images) < 2:
            # One pair has no covariance; the last batch of some splits has only one.
            return {"loss": 0.0 * (images.sum() + texts.sum())}
        return {"loss": -canonical_correlation(images, texts, self.image_ridge, self.text_ridge)}

    def on_fit_start(self) -> None:
        """Warn if the batch is too small for the method."""
        size = self._datamodule().batch_size
        if size <= self.dim:
            warnings.warn(
                f"a batch of {size} pairs cannot estimate the correlations of {self.dim} outputs, which dcca trains "
                "on: raise --data.batch_size well above --model.dim, or lower --model.dim",
                stacklevel=2,
            )

    def on_validation_epoch_start(self) -> None:
        """Fit the linear CCA to the current networks."""
        super().on_validation_epoch_start()
        if not self.trainer.sanity_checking:
            self.fit_top(self._datamodule().splits["train"])

    @torch.no_grad()
    def fit_top(self, train: Split) -> None:
        """Fit the linear CCA on top to the outputs of the networks on the training split.

        Args:
            train: The training split; each process encodes its shard of it.
        """
        images = np.unique(np.linspace(0, train.n_images - 1, min(train.n_images, self.top_images)).astype(np.int64))
        texts = np.flatnonzero(np.isin(train.image_of_text, images))
        owner = np.searchsorted(images, train.image_of_text[texts])
        training = self.training
        self.eval()
        sides = []
        for rows, make, encode in (
            (images, image_batch, self.image_outputs),
            (texts, text_batch, self.text_outputs),
        ):
            rank = torch.distributed.get_rank() if world_size() > 1 else 0
            share = np.array_split(rows, world_size())[rank]
            outputs = [torch.empty(0, self.dim, device=self.device)]
            for start in range(0, len(share), _CHUNK):
                batch = make(train, share[start : start + _CHUNK])
                outputs.append(encode(self.transfer_batch_to_device(batch, self.device, 0)).float())
            sides.append(gather(torch.cat(outputs)).double().cpu().numpy())
        self.train(training)
        found = covariances(sides[0], sides[1], owner)
        solution = CanonicalProblem(found, unit=1.0).solve(self.image_ridge, self.text_ridge, self.weighting)
        for buffer, value in (
            (self.image_top_mean, found.image_mean),
            (self.image_top, solution.image),
            (self.text_top_mean, found.text_mean),
            (self.text_top, solution.text),
        ):
            buffer.copy_(torch.from_numpy(np.ascontiguousarray(value)))
