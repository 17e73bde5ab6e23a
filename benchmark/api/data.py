"""Data sets by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmr_bench import registry
from cmr_bench.api.options import words_of
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.views import ViewKind
from cmr_bench.experiment import recipe


def load_data(
    name: str,
    root: str | Path | None = None,
    *,
    image_view: ViewKind | None = None,
    text_view: ViewKind | None = None,
    **options: Any,
) -> RetrievalDataModule:
    """Load a data set: its splits, links, labels and raw content, and one view of the images and of the texts.

    The result is a Lightning data module. ``data.splits["test"]`` has ``image_ids``, ``captions``, ``image_of_text``
    (n_texts,), ``labels``, and the views ``images`` and ``texts``; ``data.train_dataloader()`` gives batches of pairs.

    Args:
        name: Short name from `cmr-bench list`, ``module:Class`` or ``FILE.py:Class``.
        root: Folder that contains one folder per data set; None reads CMR_BENCH_DATA.
        image_view: pixels, vector or regions; None takes the first of vector, regions and pixels that there is.
        text_view: tokens or vector; None takes the first that there is.
        **options: Options of the data set, as ``cmr-bench run --model vsepp --data NAME --help`` lists them under
            ``--data.``: ``image_features="torchvision:vgg19/fc7"``, ``min_count=1``.

    Raises:
        UsageError: For an unknown data set or option.
        DataError: If files are missing or malformed.
    """
    registry.trust(name)
    given = options if root is None else {"root": root, **options}
    words = words_of({f"data.{option}": value for option, value in given.items()})
    data = recipe.data_module(name, words)
    assert isinstance(data, RetrievalDataModule)
    data.chosen = (name, tuple(words))
    data.show_progress = False
    data.load_usual(image_view, text_view)
    return data
