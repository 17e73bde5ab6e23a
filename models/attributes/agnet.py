"""Attribute-guided network: attributes between features and codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec, Rows
from cmr_bench.evaluation.ranks import EmbeddingScores, ScoreSource
from cmr_bench.models.common.feature_module import LabelledFeatureModule
from cmr_bench.models.common.labelled import one_hot
from cmr_bench.models.encoders.inputs import hidden_layer, normalise
from cmr_bench.models.losses import bit_imbalance, code_likelihood, info_nce, quantisation_error, same
from cmr_bench.models.scoring import Encoded
from cmr_bench.support.errors import CmrBenchError, DataError, UsageError

AttributeSource = Literal["auto", "category", "words"]


class AgNet(LabelledFeatureModule):
    """Attribute-guided network (Ji et al., TNNLS 2020): features, then attributes, then a hash code.

    Each modality has a network that predicts attributes; one network of three layers, shared by both, turns the
    predicted attributes into a code. ``L = L_attributes + alpha L_likelihood + beta L_quantisation + gamma L_balance``:
    cross-entropy of the attributes, likelihood of the matches given the inner products of codes, distance of the codes
    to their signs, and imbalance of each bit over the batch. Attributes are the categories, or the most frequent
    content words of the training captions, without scikit-learn's English stop words. An image
    has the words of all of its captions, and each caption has those of its image, so that both sides of a pair have
    the same target. Test items need no attributes. Batch normalisation before the code network, per modality, is
    ours, and so are the dimensions and weights: most words are rare, and predictions near 0 for all items would
    give all of them the same code.

    Args:
        hidden: Hidden dimension of each modality and of the code network.
        bits: Code length in bits.
        hash: Rank by the Hamming distance of binary codes, instead of the cosine of the real-valued codes.
        attributes: Attributes: category, words of the training captions, or auto: category if the labels are
            categories, else words.
        n_attributes: Number of words used as attributes.
        alpha: Weight of the likelihood loss.
        beta: Weight of the quantisation loss.
        gamma: Weight of the bit-balance loss.
        likelihood: What the likelihood is of. pairs: whether each pair matches, ``sigmoid(a . b / 2)``, as in the
            paper. batch: which of the batch an item matches, the softmax of ``scale cos(a, b)`` in either direction,
            for data where the image is the label: with one match in a batch, the pairs that do not match saturate.
        scale: Inverse temperature of ``likelihood: batch``.
        balanced: Give matching and non-matching pairs the same total weight in ``likelihood: pairs``.
        dropout: Dropout probability of each modality's hidden layer.
        input_dropout: Dropout probability of the input features.
        lr: Learning rate.
    """

    def __init__(
        self,
        hidden: int = 1024,
        bits: int = 64,
        hash: bool = True,
        attributes: AttributeSource = "auto",
        n_attributes: int = 500,
        alpha: float = 1.0,
        beta: float = 0.1,
        gamma: float = 0.1,
        likelihood: Literal["pairs", "batch"] = "pairs",
        scale: float = 20.0,
        balanced: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        lr: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, **kwargs)
        self.hidden, self.bits, self.hash = hidden, bits, hash
        self.attributes, self.n_attributes = attributes, n_attributes
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.likelihood, self.scale, self.balanced = likelihood, scale, balanced
        self.dropout, self.input_dropout = dropout, input_dropout
        self.attribute_names: list[str] = []
        self._of_image = torch.empty(0, 0, dtype=torch.bool)

    @property
    def attribute_source(self) -> Literal["category", "words"]:
        """The attributes used on the current data set."""
        if self.attributes == "auto":
            return "category" if self.label_space == "category" else "words"
        return self.attributes

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        if self.attributes == "category" and self.label_space != "category":
            raise UsageError("--model.attributes category needs category labels and this data set has none; pass words")
        width = spec.n_classes if self.attribute_source == "category" else self.n_attributes
        self.image_net, self.text_net = (self._net(dim, width) for dim in (self.image_dim, self.text_dim))
        self.image_norm, self.text_norm = (nn.BatchNorm1d(width, affine=False) for _ in range(2))
        self.code_net = nn.Sequential(
            nn.Linear(width, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.bits),
            nn.Tanh(),
        )

    def _net(self, dim: int, width: int) -> nn.Module:
        return nn.Sequential(
            *hidden_layer(dim, self.hidden, self.dropout, self.input_dropout), nn.Linear(self.hidden, width)
        )

    def prepare_training(self, train: Split) -> None:
        """Select the attributes and collect those of every training image."""
        super().prepare_training(train)
        if self.attribute_source == "category":
            self.attribute_names = list(train.class_names)
            return
        if train.captions is None:
            raise DataError("--model.attributes words needs raw captions and this data set has none; pass category")
        self.attribute_names, table = word_attributes(
            train.captions, train.image_of_text, train.n_images, self.n_attributes
        )
        self._of_image = torch.from_numpy(table)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the names of the attributes with the weights."""
        checkpoint["attribute_names"] = self.attribute_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise if the attributes differ from those of the checkpoint."""
        stored = checkpoint.get("attribute_names", [])
        if self.attribute_names and stored != self.attribute_names:
            raise CmrBenchError("the checkpoint was trained with other attributes: the training captions have changed")
        self.attribute_names = list(stored)

    def predict_image_attributes(self, images: ImageBatch) -> Tensor:
        """Return the attributes of images before the sigmoid, (b, n_attributes)."""
        logits: Tensor = self.image_net(self.image_features(images))
        return logits

    def predict_text_attributes(self, texts: TextBatch) -> Tensor:
        """Return the attributes of texts before the sigmoid, (b, n_attributes)."""
        logits: Tensor = self.text_net(self.text_features(texts))
        return logits

    def code(self, logits: Tensor, norm: nn.BatchNorm1d) -> Tensor:
        """Encode predicted attributes of one modality as codes in -1..1, (b, bits)."""
        codes: Tensor = self.code_net(normalise(norm, logits.float().sigmoid()))
        return codes

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Return the real-valued codes of images, (b, bits)."""
        return self.code(self.predict_image_attributes(images), self.image_norm)

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Return the real-valued codes of texts, (b, bits)."""
        return self.code(self.predict_text_attributes(texts), self.text_norm)

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score by the number of equal minus different bits, or by cosine, (n_images, n_texts)."""
        if not self.hash:
            return super().similarity(images, texts)
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        return signs(images) @ signs(texts).T

    def scores(self, images: Encoded, texts: Encoded) -> ScoreSource:
        """Return the score source of all codes: both similarities are inner products of precomputed vectors."""
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        if self.hash:
            return EmbeddingScores(signs(images), signs(texts), normalize=False, device=self.device)
        return EmbeddingScores(images.float(), texts.float(), normalize=True, device=self.device)

    def attribute_targets(self, rows: Tensor, labels: Tensor | None) -> Tensor:
        """Return the target attributes of pairs whose images are ``rows`` (b,), 0 or 1, (b, n_attributes)."""
        if self.attribute_source == "category":
            assert labels is not None
            assert self.spec is not None
            return one_hot(labels, self.spec.n_classes)
        # Not a buffer: DDP would broadcast it in every step.
        self._of_image = self._of_image.to(rows.device)
        return self._of_image[rows]

    def match_likelihood(self, images: Tensor, texts: Tensor, match: Tensor) -> Tensor:
        """Return the negative log likelihood of the matches ``match`` (b, b) of codes, (b, bits) each."""
        if self.likelihood == "batch":
            return info_nce(images, texts, images.new_tensor(self.scale), match)
        return code_likelihood(images, texts, match, self.balanced)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the weighted sum of the four terms."""
        # Gathered before they are normalised, so that the statistics are those of the global batch.
        (image_logits, rows), text_logits, identity, categories = self.gather(
            (self.predict_image_attributes(batch.images), batch.images.rows),
            self.predict_text_attributes(batch.texts),
            batch,
        )
        assert isinstance(text_logits, Tensor)
        labels = self.labels_of(identity, categories)
        targets = self.attribute_targets(rows, categories).float()
        known = targets.shape[1]
        attributes = torch.stack(
            [
                F.binary_cross_entropy_with_logits(side[:, :known].float(), targets)
                for side in (image_logits, text_logits)
            ]
        ).sum()
        images, texts = self.code(image_logits, self.image_norm), self.code(text_logits, self.text_norm)
        likelihood = self.match_likelihood(images, texts, same(labels))
        quantisation = quantisation_error(images) + quantisation_error(texts)
        balance = bit_imbalance(images) + bit_imbalance(texts)
        return {
            "attributes": attributes,
            "likelihood": likelihood,
            "quantisation": quantisation,
            "balance": balance,
            "loss": attributes + self.alpha * likelihood + self.beta * quantisation + self.gamma * balance,
        }


def signs(codes: Tensor) -> Tensor:
    """Return -1 or 1 for every entry of codes, (n, bits) as float32; 0 counts as positive."""
    return torch.where(codes < 0, -1.0, 1.0)


def word_attributes(
    captions: Sequence[str], image_of_text: Rows, n_images: int, at_most: int
) -> tuple[list[str], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Select the content words that occur in most captions as attributes.

    A content word has at least two characters, one of them no digit, and is not an English stop word of scikit-learn.

    Args:
        captions: Texts of the training split, (n_texts,).
        image_of_text: Row of the image that each text belongs to, (n_texts,).
        n_images: Number of training images.
        at_most: Maximum number of words.

    Returns:
        The words, by decreasing frequency and then alphabetically, and which of them occur in any
        caption of an image, (n_images, n_words).

    Raises:
        DataError: If the captions contain no content word.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    from cmr_bench.datamodules.texts.splitting import tokenize

    words_of = [
        {word for word in tokenize(text) if len(word) > 1 and not word.isdigit() and word not in ENGLISH_STOP_WORDS}
        for text in captions
    ]
    counts = Counter(word for words in words_of for word in words)
    names = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:at_most]]
    if not names:
        raise DataError(f"the {len(captions)} training captions contain no content words to use as attributes")
    column = {word: k for k, word in enumerate(names)}
    table = np.zeros((n_images, len(names)), dtype=np.bool_)
    for image, words in zip(image_of_text.tolist(), words_of, strict=True):
        table[image, [column[word] for word in words if word in column]] = True
    return names, table
