"""ACME without pixels: batch-hard triplets, a Wasserstein critic and translation into the other modality."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.feature_module import LabelledFeatureModule
from cmr_bench.models.distances import batch_distances
from cmr_bench.models.encoders.inputs import normalise
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import reverse_gradient, same, triplet_hinge


class ACME(LabelledFeatureModule):
    """Adversarial cross-modal embedding (Wang et al., CVPR 2019) for any data, without a generator of pictures.

    A layer per modality and one that both share, with batch normalisation and tanh, to unit length. ``L = L_tri +
    adversarial L_adv + translation L_trans``: batch-hard triplets over both modalities in one pool on Euclidean
    distance; a Wasserstein critic with gradient penalty for which images are real and texts are not, and whose
    gradient reaches the texts' layers only; and consistency of the translations from an image to its text and from a
    text to its image. The paper translates a recipe into a picture; here it is translated into the image's features,
    and an image into the words of the text or its features. The authors' program leaves the shared layer at its random
    start and never switches it to evaluation; here it learns, and scores do not depend on the batch. On data without
    categories the image is the label, as in the paper.

    Args:
        dim: Embedding dimension.
        margin: Margin of the triplet loss.
        adversarial: Weight of the adversarial loss; 0 leaves the critic out.
        translation: Weight of the translation losses; 0 leaves them out.
        penalty: Weight of the critic's gradient penalty.
        critic_layers: Hidden dimensions of the critic.
        translator: Hidden dimension of the translating networks.
        dropout: Dropout probability of the input features.
        lr: Learning rate.
    """

    betas = (0.5, 0.999)

    def __init__(
        self,
        dim: int = 1024,
        margin: float = 0.3,
        adversarial: float = 0.005,
        translation: float = 0.002,
        penalty: float = 10.0,
        critic_layers: Sequence[int] = (512, 256),
        translator: int = 512,
        dropout: float = 0.0,
        lr: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, **kwargs)
        self.dim, self.margin, self.adversarial, self.translation = dim, margin, adversarial, translation
        self.penalty, self.critic_layers, self.translator, self.dropout = penalty, critic_layers, translator, dropout

    def words(self, vocab_size: int) -> WordEncoder:
        """Encode words with a GRU, whose last state is the feature."""
        return WordEncoder(vocab_size, self.word_dim, self.dim)

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        self.image_layer, self.text_layer = (
            nn.Sequential(nn.Dropout(self.dropout), nn.Linear(width, self.dim), nn.Tanh())
            for width in (self.image_dim, self.text_dim)
        )
        self.shared, self.shared_norm = nn.Linear(self.dim, self.dim), nn.BatchNorm1d(self.dim)
        if self.adversarial:
            self.critic = critic(self.dim, self.critic_layers)
        if self.translation:
            n_words = spec.text.vocab_size if spec.text.kind == "tokens" else self.text_dim
            self.to_text, self.to_image = (
                nn.Sequential(nn.Linear(self.dim, self.translator), nn.ReLU(), nn.Linear(self.translator, width))
                for width in (n_words, self.image_dim)
            )

    def embed(self, features: Tensor) -> Tensor:
        """Apply the shared layer, (b, dim) at unit length."""
        return F.normalize(torch.tanh(normalise(self.shared_norm, self.shared(features).float())), dim=1)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images at unit length, (b, dim)."""
        return self.embed(self.image_layer(self.image_features(images)))

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts at unit length, (b, dim)."""
        return self.embed(self.text_layer(self.text_features(texts)))

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the weighted sum of the terms; the critic itself descends its loss unweighted."""
        image_features, text_features = self.image_features(batch.images), self.text_features(batch.texts)
        wanted = image_features.detach(), self._text_target(batch.texts, text_features)
        image_side, text_side, identity, categories = self.gather(
            (self.image_layer(image_features), wanted[0]), (self.text_layer(text_features), wanted[1]), batch
        )
        (images, image_target), (texts, text_target) = image_side, text_side
        n = len(images)
        # Both modalities at once, so that they share the statistics of the normalisation as they do when scored.
        pool = self.embed(torch.cat([images, texts]))
        images, texts = pool[:n], pool[n:]
        labels = self.labels_of(identity, categories)
        match = same(torch.cat([labels, labels]))
        own = match & ~torch.eye(2 * n, dtype=torch.bool, device=match.device)
        terms = {"triplet": triplet_hinge(batch_distances(pool, pool), own, ~match, self.margin, "hardest")}
        total = terms["triplet"]
        if self.adversarial:
            terms["critic"] = self.critic_loss(images, texts)
            total = total + terms["critic"]
        if self.translation:
            tokens = batch.texts.tokens is not None
            words = self.to_text(images).float()
            told = F.binary_cross_entropy_with_logits if tokens else F.mse_loss
            terms["to_text"] = told(words, text_target.float())
            terms["to_image"] = F.mse_loss(self.to_image(texts).float(), image_target.float())
            total = total + self.translation * (terms["to_text"] + terms["to_image"])
        return terms | {"loss": total}

    def critic_loss(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the critic's Wasserstein loss with its penalty on embeddings (b, dim).

        The gradient reaches the texts reversed, multiplied by the weight of the adversarial loss, and no image.
        """
        real, made = images.detach().float(), texts.float()
        # The same on every process, as are the gathered embeddings, and after a resumed run's restart.
        mixing = np.random.default_rng([self.global_step, len(real)]).random((len(real), 1), dtype=np.float32)
        share = torch.from_numpy(mixing).to(real.device)
        told: Tensor = self.critic(reverse_gradient(made, self.adversarial)).mean() - self.critic(real).mean()
        return told + self.penalty * gradient_penalty(self.critic, share * real + (1 - share) * made.detach())

    def _text_target(self, texts: TextBatch, features: Tensor) -> Tensor:
        if texts.tokens is None:
            return features.detach()
        assert self.spec is not None
        return word_bags(texts.tokens, self.spec.text.vocab_size)


def critic(dim: int, hidden: Sequence[int]) -> nn.Sequential:
    """Build a critic with leaky ReLU (slope 0.2) of embeddings (b, dim), (b, 1)."""
    widths = [dim, *hidden]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


def gradient_penalty(judge: nn.Module, points: Tensor) -> Tensor:
    """Mean squared difference from 1 of the length of a critic's gradient at points (b, dim)."""
    points = points.detach().requires_grad_()
    (slopes,) = torch.autograd.grad(judge(points).sum(), points, create_graph=True)
    lengths = torch.linalg.vector_norm(slopes.float(), dim=1)
    penalty: Tensor = (lengths - 1).square().mean()
    return penalty


def word_bags(tokens: Tensor, vocab_size: int) -> Tensor:
    """Return which words each text has, 0 or 1, (b, vocab_size), from word ids (b, W) padded with 0."""
    bags = torch.zeros(len(tokens), vocab_size, device=tokens.device)
    bags.scatter_(1, tokens, 1.0)
    bags[:, 0] = 0.0
    return bags
