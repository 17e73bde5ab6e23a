"""Names of pretrained image encoders and of their features, ``torchvision:vgg19/fc7``; imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cmr_bench.support.errors import DataError, UsageError, did_you_mean

LIBRARIES = ("timm", "torchvision", "hf", "open_clip")
LAYERS = ("fc7", "pool", "grid")
RANDOM = "random"


def split_name(encoder: str) -> tuple[str, str]:
    """Split ``library:name``.

    Raises:
        UsageError: If the library is unknown or the name is missing.
    """
    library, _, name = encoder.partition(":")
    if library not in LIBRARIES or not name:
        raise UsageError(
            f"unknown image encoder '{encoder}': pass timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER or "
            f"open_clip:NAME/PRETRAINED.{did_you_mean(library, LIBRARIES)}"
        )
    return library, name


def default_layer(encoder: str) -> str:
    """Layer that papers take from a network: fc7 of VGG and AlexNet, else the pooled features."""
    return "fc7" if split_name(encoder)[1].startswith(("vgg", "alexnet")) else "pool"


def store_name(encoder: str, layer: str | None = None, size: int = 0) -> str:
    """Name for stored features: the network's name, the layer and the size where one is asked for.

    ``tf_efficientnet_lite0-pool``, ``tf_efficientnet_lite0-pool-352``.
    """
    library, name = split_name(encoder)
    name = name.rstrip("/\\").replace("\\", "/")
    # The second part of open_clip's names is that of the weights, without which the first says little.
    name = name.replace("/", "-") if library == "open_clip" else name.rsplit("/", 1)[-1]
    return "-".join([name, layer or default_layer(encoder), *([str(size)] if size else [])])


@dataclass(frozen=True)
class FeatureName:
    """Image features by what makes them.

    Attributes:
        encoder: ``library:name``.
        layer: fc7, pool or grid.
        size: Side of the input in pixels; 0 for the encoder's own.
    """

    encoder: str
    layer: str
    size: int = 0

    def __str__(self) -> str:
        return "/".join([self.encoder, self.layer, *([str(self.size)] if self.size else [])])

    @property
    def store(self) -> str:
        """Name of the store of these features."""
        return store_name(self.encoder, self.layer, self.size)

    def words(self) -> list[str]:
        """Options of `cmr-bench data features` that make them."""
        size = ["--size", str(self.size)] if self.size else []
        return ["--encoder", self.encoder, "--layer", self.layer, *size]


def feature_name(value: str | None) -> FeatureName | None:
    """Read ``library:name[/layer[/size]]``; None for the name of a store or a file, which have no library.

    Without a layer, that of :func:`default_layer`.
    """
    if value is None or value.partition(":")[0] not in LIBRARIES:
        return None
    match = re.fullmatch(rf"(\w+:.+?)(?:/({'|'.join(LAYERS)})(?:/([1-9]\d{{0,4}}))?)?", value)
    if match is None:
        return None
    return FeatureName(match[1], match[2] or default_layer(match[1]), int(match[3] or 0))


def require_weights(weights: str) -> Path | None:
    """Return the file that ``--data.image_weights`` names, None for random weights; raises DataError without it."""
    if weights == RANDOM:
        return None
    file = Path(weights).expanduser()
    if not file.is_file():
        raise DataError(f"weights file {file} not found; --data.image_weights takes a safetensors or .pth file")
    return file


def canonical(value: str | None) -> str | None:
    """Return one name for image features that may be named by their encoder or by their store: that of the store."""
    named = feature_name(value)
    return value if named is None else named.store


def same_features(one: str | None, other: str | None) -> bool:
    """Tell whether two values of ``--data.image_features`` name the same, as ``hf:net/pool`` and ``net-pool`` do."""
    return canonical(one) == canonical(other)
