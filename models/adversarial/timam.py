"""Text-image modality adversarial matching."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.datamodules.views import DataSpec, ViewKind
from cmr_bench.models.adversarial.modality import AdversarialModule
from cmr_bench.models.common.matching import MatchingModule
from cmr_bench.models.encoders.inputs import with_own_rates
from cmr_bench.models.encoders.text import SubwordEncoder, WordEncoder
from cmr_bench.models.losses import class_shares, norm_softmax, projection_matching, same
from cmr_bench.support.errors import UsageError


class TIMAM(MatchingModule, AdversarialModule):
    """Text-image modality adversarial matching (Sarafianos et al., ICCV 2019): a CNN, and an LSTM over BERT's words.

    Cross-modal projection matching both ways, identification of the image by a softmax over unit-length class vectors,
    and a modality discriminator with one hidden layer, whose gradient is reversed. The
    dimensions, the batch normalisation and the weight of the adversarial loss are reconstructed; no code was released.
    Pairs match if they share a category, or the image on data without categories.
    Texts as words use learned embeddings instead of BERT's features, texts as vectors pass one hidden layer instead
    of the LSTM. The weights of a frozen BERT are not stored in checkpoints; they are loaded again.

    Args:
        hidden: Hidden dimension of the LSTM, or of the hidden layer for texts as vectors.
        dim: Embedding dimension.
        discriminator: Hidden dimension of the modality discriminator.
        adversarial_weight: Factor of the reversed gradient of the discriminator.
        matching: Use the matching loss.
        identification: Use the identification loss.
        bert: The transformers encoder of texts as subwords: name on the Hugging Face Hub, or a local folder.
        fine_tune_bert: Fine-tune the text encoder.
        bert_lr: Learning rate of the text encoder.
        dropout: Dropout probability of word features and text features.
        image_dropout: Dropout probability of the image features.
        text_view: Text view: subwords, tokens or vector.
    """

    text_views: ClassVar[tuple[ViewKind, ...]] = ("subwords", "tokens", "vector")

    def __init__(
        self,
        hidden: int = 512,
        dim: int = 512,
        discriminator: int = 256,
        adversarial_weight: float = 1.0,
        matching: bool = True,
        identification: bool = True,
        bert: str = "bert-base-uncased",
        fine_tune_bert: bool = False,
        bert_lr: float = 2e-5,
        dropout: float = 0.0,
        image_dropout: float = 0.0,
        cnn: str = "torchvision:resnet101",
        text_view: ViewKind = "subwords",
        **kwargs: Any,
    ) -> None:
        super().__init__(cnn=cnn, text_view=text_view, **kwargs)
        if not (matching or identification):
            raise UsageError("timam: set --model.matching true or --model.identification true")
        self.hidden, self.dim, self.discriminator_dim = hidden, dim, discriminator
        self.adversarial_weight = adversarial_weight
        self.matching, self.identification = matching, identification
        self.bert, self.fine_tune_bert, self.bert_lr = bert, fine_tune_bert, bert_lr
        self.dropout, self.image_dropout = dropout, image_dropout

    @property
    def tokenizer(self) -> str | None:
        """The tokenizer comes with BERT."""
        return self.bert if self.text_view == "subwords" else None

    @property
    def reversal(self) -> float:
        """The weight of the adversarial loss."""
        return self.adversarial_weight

    def words(self, vocab_size: int) -> WordEncoder:
        """Encode words with an LSTM, whose last state is the feature."""
        return WordEncoder(vocab_size, self.word_dim, self.hidden, dropout=self.dropout, cell="lstm")

    def subwords(self, longest: int) -> SubwordEncoder:
        """Encode BERT's features with an LSTM, whose last state is the feature."""
        return SubwordEncoder(self.bert, longest, self.hidden, self.dropout, self.fine_tune_bert)

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        before = [nn.Linear(self.text_dim, self.hidden), nn.ReLU()] if spec.text.kind == "vector" else []
        # Batch normalisation also prevents the adversary from shrinking the features.
        self.embed_with(
            nn.Sequential(nn.Dropout(self.image_dropout), nn.Linear(self.image_dim, self.dim)),
            nn.Sequential(*before, nn.Dropout(self.dropout), nn.Linear(self.hidden, self.dim)),
            self.dim,
        )
        if self.identification:
            self.classes = self.class_vectors(self.dim)
        self.discriminate_with(self.dim, [self.discriminator_dim])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Give the image backbone and BERT their own learning rates."""
        network = self.text_input.network
        own = [(network.encoder, self.bert_lr)] if isinstance(network, SubwordEncoder) else []
        return with_own_rates(self, (self.image_input, self.cnn_lr), *own)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the sum of the enabled terms."""
        images, texts, labels = self.embed(batch)
        terms: dict[str, Tensor] = {}
        if self.matching:
            terms["matching"] = projection_matching(images, texts, same(labels))
        if self.identification:
            targets = class_shares(labels)
            terms["identification"] = norm_softmax(images, self.classes, targets) + norm_softmax(
                texts, self.classes, targets
            )
        if self.adversarial:
            terms["discriminator"] = self.adversarial_loss(images, texts)
        return terms | {"loss": torch.stack(list(terms.values())).sum()}
