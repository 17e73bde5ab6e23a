"""The base of two networks with a linear map on top that is fitted to their outputs on the training split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, TextBatch, image_batch, text_batch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec, Rows
from cmr_bench.models.common.feature_module import FeatureModule
from cmr_bench.models.distributed import gather, world_size

Activation = Literal["relu", "sigmoid", "tanh"]
ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
_CHUNK = 1024
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Outputs:
    """Outputs of both networks on training items.

    Attributes:
        images: Outputs of the images, (n_images, dim).
        texts: Outputs of the texts of these images, (n_texts, dim).
        owner: Which of the images each text belongs to, (n_texts,).
        image_rows: Rows of the images in the split, (n_images,).
    """

    images: Matrix
    texts: Matrix
    owner: Rows
    image_rows: Rows


def dense_net(width: int, hidden: int, layers: int, dim: int, activation: Activation, dropout: float) -> nn.Sequential:
    """Build fully connected layers, (b, width) to (b, dim), with dropout after every hidden one."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(width, hidden), ACTIVATIONS[activation](), nn.Dropout(dropout)]
        width = hidden
    return nn.Sequential(*parts, nn.Linear(width, dim))


class FittedTopModule(FeatureModule):
    """A method of one fully connected network per modality and a linear map on top, ranked by cosine.

    The networks learn by gradient; before every validation :meth:`solve_top` fits the maps to the outputs of the
    networks on the training split.

    Args:
        hidden: Hidden dimension.
        layers: Number of hidden layers per modality.
        dim: Output dimension of the networks.
        activation: Activation of the hidden layers: relu, sigmoid or tanh.
        dropout: Dropout probability of the hidden layers.
        input_dropout: Dropout probability of the input features.
        top_images: Maximum number of training images for the maps on top.
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
        activation: Activation = "tanh",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        top_images: int = 30000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden, self.layers, self.dim, self.activation = hidden, layers, dim, activation
        self.dropout, self.input_dropout, self.top_images = dropout, input_dropout, top_images

    @property
    def top_dim(self) -> int:
        """Embedding dimension, behind the maps on top."""
        return self.dim

    def build(self, spec: DataSpec) -> None:
        """Build the networks; the maps on top are the identity until fitted."""
        super().build(spec)
        self.image_net, self.text_net = (
            dense_net(width, self.hidden, self.layers, self.dim, self.activation, self.dropout)
            for width in (self.image_dim, self.text_dim)
        )
        for side in ("image", "text"):
            self.register_buffer(f"{side}_top_mean", torch.zeros(self.dim))
            self.register_buffer(f"{side}_top", torch.eye(self.dim, self.top_dim))

    def apply_net(self, net: nn.Module, features: Tensor) -> Tensor:
        """Return the outputs of a network, (b, dim), for features with dropout."""
        if self.input_dropout:
            features = F.dropout(features, self.input_dropout, self.training)
        outputs: Tensor = net(features)
        return outputs

    def image_outputs(self, images: ImageBatch) -> Tensor:
        """Return the outputs of the image network, (b, dim)."""
        return self.apply_net(self.image_net, self.image_features(images))

    def text_outputs(self, texts: TextBatch) -> Tensor:
        """Return the outputs of the text network, (b, dim)."""
        return self.apply_net(self.text_net, self.text_features(texts))

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images behind the map on top, (b, top_dim)."""
        return (self.image_outputs(images).float() - self.image_top_mean) @ self.image_top

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts behind the map on top, (b, top_dim)."""
        return (self.text_outputs(texts).float() - self.text_top_mean) @ self.text_top

    def solve_top(self, outputs: Outputs, train: Split) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        """Fit the maps on top.

        Args:
            outputs: Outputs of the networks.
            train: The training split.

        Returns:
            Mean (dim,) and map (dim, top_dim) of the images, then those of the texts.
        """
        raise NotImplementedError

    def on_validation_epoch_start(self) -> None:
        """Fit the maps on top to the current networks."""
        super().on_validation_epoch_start()
        if not self.trainer.sanity_checking:
            self.fit_top(self._datamodule().splits["train"])

    def fit_top(self, train: Split) -> None:
        """Fit the maps on top to the outputs of the networks on the training split.

        Args:
            train: The training split; each process encodes its shard of it.
        """
        image_mean, image_map, text_mean, text_map = self.solve_top(self.training_outputs(train), train)
        # The sign of a direction is arbitrary; left open, the last bits of several processes would decide it.
        largest = np.abs(image_map).argmax(0)
        signs = np.where(image_map[largest, np.arange(image_map.shape[1])] < 0, -1.0, 1.0)
        for buffer, value in (
            (self.image_top_mean, image_mean),
            (self.image_top, image_map * signs),
            (self.text_top_mean, text_mean),
            (self.text_top, text_map * signs),
        ):
            buffer.copy_(torch.from_numpy(np.ascontiguousarray(value)))

    @torch.no_grad()
    def training_outputs(self, train: Split) -> Outputs:
        """Return the outputs of the networks on at most ``top_images`` training images and their texts."""
        images = np.unique(np.linspace(0, train.n_images - 1, min(train.n_images, self.top_images)).astype(np.int64))
        texts = np.flatnonzero(np.isin(train.image_of_text, images))
        training = self.training
        self.eval()
        sides = (
            self._encoded(train, images, image_batch, self.image_outputs),
            self._encoded(train, texts, text_batch, self.text_outputs),
        )
        self.train(training)
        return Outputs(*sides, np.searchsorted(images, train.image_of_text[texts]), images)

    def _encoded(
        self, train: Split, rows: Rows, make: Callable[[Split, Rows], Any], encode: Callable[[Any], Tensor]
    ) -> Matrix:
        rank = torch.distributed.get_rank() if world_size() > 1 else 0
        share = np.array_split(rows, world_size())[rank]
        outputs = [torch.empty(0, self.dim, device=self.device)]
        for start in range(0, len(share), _CHUNK):
            batch = make(train, share[start : start + _CHUNK])
            outputs.append(encode(self.transfer_batch_to_device(batch, self.device, 0)).float())
        found: Matrix = gather(torch.cat(outputs)).double().cpu().numpy()
        return found
