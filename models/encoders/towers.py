"""Both towers of models pretrained on images and texts: of transformers, open_clip and sentence-transformers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.images.naflex import patch_inputs, square_side
from cmr_bench.datamodules.images.photos import PhotoFit
from cmr_bench.models.encoders.text import Frozen
from cmr_bench.support import openclip, sentences
from cmr_bench.support.errors import DataError, UsageError
from cmr_bench.support.hub import load_pretrained
from cmr_bench.support.tokenizers import load_tokenizer

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Preparation:
    """How a model wants its photographs.

    Attributes:
        fit: How they are fitted to the square that it reads.
        mean: Mean that is subtracted from each channel, in 0..1.
        std: Deviation that each channel is divided by.
    """

    fit: PhotoFit
    mean: tuple[float, ...]
    std: tuple[float, ...]


def preparation(name: str) -> Preparation | None:
    """Return how a model of images and texts prepares photographs; None for other models.

    SigLIP 2 with native aspect ratios gets the largest square of its number of patches: its published scores keep the
    aspect ratio. A transformers model without a processor gets what is usual for its kind: CLIP scales the shorter side
    and cuts the middle, SigLIP squashes. The size is always the one that the model was trained for.

    Args:
        name: NAME_OR_FOLDER of transformers, ``open_clip:NAME`` or ``st:NAME``.
    """
    if name.startswith(openclip.PREFIX):
        wanted = openclip.preprocessing(name)
        fit = PhotoFit(
            wanted["size"],
            "squash" if wanted["resize_mode"] == "squash" else "crop",
            "bilinear" if wanted["interpolation"] == "bilinear" else "bicubic",
            whole=True,
            rounded_offset=True,
        )
        if wanted["resize_mode"] == "longest":
            raise UsageError(f"{name} pads its photographs to a square, which is not done here; choose another model")
        return Preparation(fit, tuple(wanted["mean"]), tuple(wanted["std"]))
    from transformers import AutoConfig, AutoImageProcessor

    if name.startswith(sentences.PREFIX):
        config = sentences.pair_config(name)
        return None if config is None else _prepared(config, sentences.readers(name).image_processor)
    config = load_pretrained(AutoConfig.from_pretrained, "image-text model", name)
    if not hasattr(config, "vision_config"):
        return None
    try:
        processor: Any = load_pretrained(AutoImageProcessor.from_pretrained, "image processor", name)
    except DataError:
        processor = None
    return _prepared(config, processor)


def _prepared(config: Any, processor: Any) -> Preparation:
    clip = str(config.model_type).startswith("clip")
    side, crops = _side(config.vision_config), clip
    size, fraction = dict(getattr(processor, "size", None) or {}), 1.0
    if size and config.model_type != "siglip2":
        crops = "shortest_edge" in size and bool(processor.do_center_crop)
    if crops and size:
        fraction = min(1.0, side / int(size["shortest_edge"]))
    kernel = _FILTERS.get(int(getattr(processor, "resample", None) or 3), "bicubic")
    mean = (0.48145466, 0.4578275, 0.40821073) if clip else (0.5, 0.5, 0.5)
    std = (0.26862954, 0.26130258, 0.27577711) if clip else (0.5, 0.5, 0.5)
    return Preparation(
        PhotoFit(side, "crop" if crops else "squash", kernel, fraction, whole=True),
        tuple(getattr(processor, "image_mean", None) or mean),
        tuple(getattr(processor, "image_std", None) or std),
    )


def _side(vision: Any) -> int:
    return square_side(vision) if hasattr(vision, "num_patches") else int(vision.image_size)


def load_towers(name: str, fine_tune: bool) -> Towers:
    """Load both towers of a model.

    Args:
        name: NAME_OR_FOLDER of transformers, ``open_clip:NAME`` or ``st:NAME``.
        fine_tune: Train the towers.

    Raises:
        UsageError: If the model does not encode images and texts.
        DataError: If it is not there.
    """
    kind = OpenClipTowers if name.startswith(openclip.PREFIX) else TransformersTowers
    return kind(name, fine_tune)


class Towers(nn.Module):
    """Both towers of a model pretrained on images and texts.

    Args:
        name: Its name, for its preparation of photographs.
        model: The model.
        fine_tune: Train the towers.

    Attributes:
        size: Side of the square that the image tower reads, in pixels.
        places: Most subwords of a text.
        fill: What texts are filled up with to ``places``; None where they keep their lengths, behind a mask.
    """

    mean: Tensor
    std: Tensor
    size: int
    places: int
    fill: int | None

    def __init__(self, name: str, model: nn.Module, fine_tune: bool) -> None:
        super().__init__()
        self.fine_tune = fine_tune
        self.encoder: nn.Module = model if fine_tune else Frozen(model)
        prepared = preparation(name)
        assert prepared is not None
        for key, values in (("mean", prepared.mean), ("std", prepared.std)):
            self.register_buffer(key, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def temperature(self) -> tuple[Tensor, Tensor | None]:
        """Remove the log inverse temperature, and the bias of SigLIP, from the trained parameters."""
        found = [getattr(self.model, name, None) for name in ("logit_scale", "logit_bias")]
        for value in found:
            if value is not None:
                value.requires_grad_(False)
        scale, bias = (None if value is None else value.detach().clone().reshape(()) for value in found)
        return (torch.tensor(math.log(1 / 0.07)) if scale is None else scale), bias

    @property
    def model(self) -> Any:
        """The model of the library."""
        return self.encoder.network if isinstance(self.encoder, Frozen) else self.encoder

    def images(self, pixels: Tensor) -> Tensor:
        """Encode RGB in 0..1, (b, 3, H, W), resized to the input size of the tower, to (b, dim)."""
        if pixels.shape[-2:] != (self.size, self.size):
            side = (self.size, self.size)
            pixels = F.interpolate(pixels, side, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        with torch.set_grad_enabled(self.fine_tune and torch.is_grad_enabled()):
            return self._encode_images((pixels - self.mean) / self.std)

    def texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode subwords (b, W) to (b, dim)."""
        with torch.set_grad_enabled(self.fine_tune and torch.is_grad_enabled()):
            if self.fill is None:
                return self._encode_texts(input_ids, attention_mask)
            padded = F.pad(input_ids, (0, self.places - input_ids.shape[1]), value=self.fill)
            return self._encode_texts(padded, None)

    def _encode_images(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def _encode_texts(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        raise NotImplementedError


class TransformersTowers(Towers):
    """The towers of a model of transformers, or of one that sentence-transformers holds."""

    def __init__(self, name: str, fine_tune: bool) -> None:
        from transformers import AutoModel

        if name.startswith(sentences.PREFIX):
            model = sentences.pair_network(name)
        else:
            # transformers loads weights in the precision they are stored in.
            model = load_pretrained(AutoModel.from_pretrained, "image-text model", name).float()
        kind = str(model.config.model_type)
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise UsageError(
                f"--model.backbone {name}: a {type(model).__name__} does not encode images and texts; "
                "pass a CLIP or SigLIP model"
            )
        super().__init__(name, model, fine_tune)
        self.size = _side(model.config.vision_config)
        self.patch = int(model.config.vision_config.patch_size) if kind == "siglip2" else 0
        self.places = int(model.config.text_config.max_position_embeddings)
        # SigLIP pools the last position, a padding token in training, and was trained without attention mask.
        self.fill = int(load_tokenizer(name).pad_token_id or 0) if kind.startswith("siglip") else None

    def _encode_images(self, pixels: Tensor) -> Tensor:
        inputs = patch_inputs(pixels, self.patch) if self.patch else {"pixel_values": pixels}
        return _vectors(self.model.get_image_features(**inputs))

    def _encode_texts(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        mask = {} if attention_mask is None else {"attention_mask": attention_mask}
        return _vectors(self.model.get_text_features(input_ids=input_ids, **mask))


class OpenClipTowers(Towers):
    """The towers of a model of open_clip, whose texts have one length."""

    def __init__(self, name: str, fine_tune: bool) -> None:
        super().__init__(name, openclip.load(name), fine_tune)
        self.size = openclip.preprocessing(name)["size"]
        self.places = int(self.model.context_length)
        self.fill = int(load_tokenizer(name).pad_token_id)

    def _encode_images(self, pixels: Tensor) -> Tensor:
        return _vectors(self.model.encode_image(pixels))

    def _encode_texts(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return _vectors(self.model.encode_text(input_ids))


def _vectors(output: Any) -> Tensor:
    """Return the features, which older versions of transformers return directly."""
    vectors: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return vectors
