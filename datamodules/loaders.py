"""Loaders of a data set's splits, and what Lightning calls before it asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import torch
from torch.utils.data import DataLoader

from cmr_bench.datamodules.batches import BatchSampler, Fetch, Items, PairBatch, shared
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec, ViewKind
from cmr_bench.evaluation.options import EvaluationOptions
from cmr_bench.support.errors import DataError, UsageError

if TYPE_CHECKING:
    from cmr_bench.datamodules.images.photos import PhotoFit

# In the order in which they are tried where nobody says which: what is cheapest to read first.
_IMAGE_VIEWS: tuple[ViewKind, ...] = ("vector", "regions", "pixels")
_TEXT_VIEWS: tuple[ViewKind, ...] = ("tokens", "vector")
Reading = tuple[ViewKind, ViewKind, str | None, "PhotoFit | None"]


class SplitLoaders(L.LightningDataModule):
    """The part of a data set that Lightning sees: :meth:`setup` and the loaders."""

    batch_size: int
    eval_batch_size: int
    num_workers: int
    seed: int
    splits: dict[str, Split]
    spec: DataSpec | None
    evaluation: EvaluationOptions
    reading: Reading | None = None
    # Name and words by which a library's user asked for it, so that a run can repeat them.
    chosen: tuple[str, tuple[str, ...]] | None = None

    def load(
        self,
        image_view: ViewKind,
        text_view: ViewKind,
        tokenizer: str | None = None,
        evaluation: EvaluationOptions | None = None,
        photo_fit: PhotoFit | None = None,
    ) -> DataSpec:
        """Read the splits and build the views."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Load the data set where that has not been done, in the views of the Trainer's method or else usual ones.

        Raises:
            DataError: If something is missing.
            UsageError: If no view of the images or texts can be delivered.
        """
        if self.spec is not None:
            return
        module: Any = None if self.trainer is None else self.trainer.lightning_module
        if hasattr(module, "image_view"):
            self.load(module.image_view, module.text_view, module.tokenizer, photo_fit=module.photo_fit)
        else:
            self.load_usual()

    def load_usual(self, image_view: ViewKind | None = None, text_view: ViewKind | None = None) -> DataSpec:
        """Load the data set in the first views that it can deliver.

        Args:
            image_view: View of the images; None tries vector, regions and pixels.
            text_view: View of the texts; None tries tokens and vector.

        Returns:
            What a method needs to build its layers.

        Raises:
            DataError: If something is missing.
            UsageError: If no view can be delivered.
        """
        problem: DataError | UsageError | None = None
        for images in _IMAGE_VIEWS if image_view is None else (image_view,):
            for texts in _TEXT_VIEWS if text_view is None else (text_view,):
                try:
                    return self.load(images, texts)
                except (DataError, UsageError) as error:
                    problem = error
        assert problem is not None
        raise problem

    def _loader(self, split: str, what: Literal["pairs", "images", "texts"], shuffle: bool) -> DataLoader[Any]:
        part = self.splits[split]
        n_items = part.n_images if what == "images" else part.n_texts
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        size = self.batch_size if what == "pairs" else self.eval_batch_size
        sampler = BatchSampler(n_items, size, self.seed if shuffle else None, rank, world)
        return DataLoader(
            Items(n_items, Fetch(part, what)),
            batch_sampler=sampler,
            collate_fn=shared,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            # A resumed run makes its first iterator at another moment than a whole one; drawing the workers' seed from
            # the common generator would shift every random number after it.
            generator=torch.Generator(),
        )

    def train_dataloader(self) -> DataLoader[PairBatch]:
        """Pairs of the training split in seeded order."""
        return self._loader("train", "pairs", shuffle=True)

    def item_loaders(self, split: str) -> list[DataLoader[Any]]:
        """Images, then texts, of a split, not augmented; each item once."""
        return [self._loader(split, "images", shuffle=False), self._loader(split, "texts", shuffle=False)]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Images, then texts, of the split that chooses the weights; each item once."""
        return self.item_loaders(self.evaluation.select_on)

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Images, then texts, of the test split; each item once."""
        return self.item_loaders("test")
