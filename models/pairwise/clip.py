"""CLIP and SigLIP: models pretrained on image-text pairs from the web, zero-shot or trained on the data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.images.photos import PhotoFit
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ArrayView, DataSpec, ViewKind
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.distributed import everywhere
from cmr_bench.models.encoders.towers import load_towers
from cmr_bench.models.encoders.towers import preparation as preparation
from cmr_bench.models.losses import info_nce, same, sigmoid_pairs
from cmr_bench.models.scoring import assemble
from cmr_bench.support.errors import UsageError
from cmr_bench.support.places import path_text

Mode = Literal["zero_shot", "linear_probe", "fine_tune"]
# Radford et al. keep the inverse temperature at most 100, where training became unstable.
_LARGEST_LOG_SCALE = math.log(100.0)


class CLIP(RetrievalModule):
    """CLIP (Radford et al., ICML 2021) or SigLIP (Zhai et al., ICCV 2023): pretrained on image-text pairs from the web.

    ``zero_shot`` scores by the cosine of the pretrained features and trains nothing. ``linear_probe`` adds a linear
    layer to each frozen tower, initialised to the identity; the towers encode every item once, without augmentation.
    ``fine_tune`` trains everything. Both use the pretraining loss, a softmax over the batch for
    CLIP and a sigmoid for each pair for SigLIP, at a learned temperature, whose inverse stays at most 100 for CLIP;
    captions of the same image are never negatives. Size, resizing, mean and deviation of photographs are those of the
    processor that comes with the model; `--data.prompt` puts a template around every text.

    Args:
        backbone: The model: NAME_OR_FOLDER of transformers, open_clip:NAME/PRETRAINED, open_clip:FOLDER, or st:NAME of
            sentence-transformers.
        mode: What is trained: nothing (zero_shot), a linear layer (linear_probe) or the whole model (fine_tune).
        photographs: Resizing to the square input: processor, as the model's own, which centre-crops for CLIP; or
            squash, the whole image ignoring the aspect ratio.
        schedule: Learning-rate schedule: steps (see `lr_decay_every`), or cosine: linear warm-up from 0, then cosine
            decay to 0.
        warmup: Fraction of all steps used for warm-up of the cosine schedule.
        lr: Learning rate.
        image_view: Image view: pixels.
        text_view: Text view: subwords.
    """

    image_views = ("pixels",)
    text_views = ("subwords",)

    def __init__(
        self,
        backbone: str | Path = "openai/clip-vit-base-patch32",
        mode: Mode = "zero_shot",
        photographs: Literal["processor", "squash"] = "processor",
        schedule: Literal["steps", "cosine"] = "steps",
        warmup: float = 0.0,
        lr: float = 1e-5,
        image_view: ViewKind = "pixels",
        text_view: ViewKind = "subwords",
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, image_view=image_view, text_view=text_view, **kwargs)
        if not 0 <= warmup < 1:
            raise UsageError(f"--model.warmup {warmup}: choose a share of the steps, at least 0 and below 1")
        if warmup and schedule != "cosine":
            raise UsageError(f"--model.warmup {warmup} belongs to --model.schedule cosine")
        self.backbone, self.mode, self.photographs = path_text(backbone), mode, photographs
        self.schedule, self.warmup = schedule, warmup
        self.closed_form = mode == "zero_shot"

    @property
    def tokenizer(self) -> str | None:
        """The tokenizer comes with the model."""
        return self.backbone

    @property
    def photo_fit(self) -> PhotoFit | None:
        """The model knows how it wants photographs."""
        prepared = preparation(self.backbone)
        if prepared is None or self.photographs == "processor":
            return None if prepared is None else prepared.fit
        return PhotoFit(prepared.fit.size, "squash", prepared.fit.interpolation, whole=True)

    def build(self, spec: DataSpec) -> None:
        """Load the towers and build the layers trained on top."""
        super().build(spec)
        self.towers = load_towers(self.backbone, self.mode == "fine_tune")
        longest, places = spec.text.shape[0], self.towers.places
        if longest > places:
            raise UsageError(
                f"'{self.backbone}' reads {places} subwords and a text has {longest}: --data.max_words {places}"
            )
        scale, bias = self.towers.temperature()
        if self.mode == "zero_shot":
            return
        self.log_scale = nn.Parameter(scale.clamp(max=_LARGEST_LOG_SCALE) if bias is None else scale)
        self.bias = None if bias is None else nn.Parameter(bias)
        if self.mode == "linear_probe":
            self.image_layer, self.text_layer = (_identity(width) for width in self._widths())

    def _widths(self) -> tuple[int, int]:
        side = self.towers.size
        words = torch.ones(1, 1, dtype=torch.long)
        with torch.no_grad():
            return self.towers.images(torch.zeros(1, 3, side, side)).shape[1], self.towers.texts(words, words).shape[1]

    def fit_split(self, train: Split, val: Split) -> None:
        """Keep the pretrained model unchanged."""

    def on_fit_start(self) -> None:
        """Encode every training and validation item once by the frozen towers, instead of once per pair and epoch."""
        if self.mode != "linear_probe":
            return
        data = self._datamodule()
        for name in ("train", "val"):
            split = data.splits[name]
            images, texts = data.item_loaders(name)
            split.images = ArrayView(self._read(images, split.n_images, "images").numpy(), self.backbone)
            split.texts = ArrayView(self._read(texts, split.n_texts, "texts").numpy(), self.backbone)

    def _read(self, loader: Iterable[ImageBatch | TextBatch], n_items: int, what: str) -> Tensor:
        pieces: list[tuple[Tensor, tuple[Tensor, ...]]] = []
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for batch in loader:
                if len(batch) == 0:
                    continue
                placed = self.transfer_batch_to_device(batch, self.device, 0)
                features = self._images(placed) if isinstance(placed, ImageBatch) else self._texts(placed)
                pieces.append((batch.rows, (features.float().cpu(),)))
        return assemble(everywhere(pieces), n_items, what)[0]

    def _images(self, images: ImageBatch) -> Tensor:
        if images.vector is not None:
            return images.vector
        assert images.pixels is not None
        return self.towers.images(images.pixels)

    def _texts(self, texts: TextBatch) -> Tensor:
        if texts.vector is not None:
            return texts.vector
        assert texts.input_ids is not None
        assert texts.attention_mask is not None
        return self.towers.texts(texts.input_ids, texts.attention_mask)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Encode images, (b, dim)."""
        features = self._images(images)
        return self.image_layer(features) if self.mode == "linear_probe" else features

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Encode texts, (b, dim)."""
        features = self._texts(texts)
        return self.text_layer(features) if self.mode == "linear_probe" else features

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the pretraining loss of the batch, and the current temperature."""
        images, texts, identity, _ = self.gather(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        scale = self.log_scale.exp()
        if self.bias is None:
            loss = info_nce(images, texts, scale, same(identity))
        else:
            loss = sigmoid_pairs(images, texts, scale, self.bias, same(identity))
        return {"loss": loss, "temperature": 1 / scale}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step and keep the temperature in its range, by value: a clamp in the loss would stop its gradient."""
        super().optimizer_step(*args, **kwargs)
        if self.bias is None:
            with torch.no_grad():
                self.log_scale.clamp_(max=_LARGEST_LOG_SCALE)

    def configure_optimizers(self) -> Any:
        """Adam with the schedule that was chosen."""
        if self.schedule == "steps":
            return super().configure_optimizers()
        optimizer = self.make_optimizer()
        total = max(1, int(self.trainer.estimated_stepping_batches))
        rising = round(self.warmup * total)

        def rate(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            return (1 + math.cos(math.pi * min(1.0, (step - rising) / (total - rising)))) / 2

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, rate), "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Exclude biases, gains and the temperature from weight decay, as in pretraining."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]


def _identity(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
