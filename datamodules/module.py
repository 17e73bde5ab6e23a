"""The base class of every data set."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_warn

from cmr_bench.datamodules.batches import check_workers
from cmr_bench.datamodules.delivery import checksums_of, deliverable, foreign_words
from cmr_bench.datamodules.loaders import SplitLoaders
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.datamodules.split import SPLITS, Split
from cmr_bench.datamodules.texts.splitting import WordSplit
from cmr_bench.datamodules.unseen import hold_out_classes
from cmr_bench.datamodules.views import ArrayView, DataSpec, View, ViewKind
from cmr_bench.evaluation.options import EvaluationOptions
from cmr_bench.evaluation.subsets import Subsets, read_subsets
from cmr_bench.support.encoders import feature_name
from cmr_bench.support.errors import DataError, Notice, UsageError
from cmr_bench.support.places import cache_dir as cache_dir
from cmr_bench.support.places import locate as locate
from cmr_bench.support.places import path_text, store_folders

if TYPE_CHECKING:
    from PIL import Image

    from cmr_bench.datamodules.images.photos import PhotoFit
    from cmr_bench.datamodules.images.store import FeatureStore
    from cmr_bench.datamodules.readers.featurefiles import FeatureFile
    from cmr_bench.datamodules.texts.words import Vocabulary


class RetrievalDataModule(SplitLoaders):
    """A data set with its splits, delivered in the views that a method reads.

    A data set overrides :meth:`read`, and :meth:`image_view` or :meth:`text_view` where it has views of its own.

    Args:
        root: Folder that contains one folder per data set; null reads CMR_BENCH_DATA.
        batch_size: Global batch size in pairs, over all devices.
        num_workers: Number of data loading processes; 0 loads in the main process.
        image_features: Image features, by what makes them (torchvision:vgg19/fc7, timm:NAME/LAYER, with /SIZE for
            another input size), by the name given by `cmr-bench data features`, by their folder, or a file (.h5, .npz,
            .pt, .lmdb) of features by image id.
        image_weights: Weights file of the encoder that makes the image features, or random; null downloads the
            library's pretrained weights.
        make_features: Make image features that are named by their encoder where they are not stored yet.
        text_features: Text vectors: doc2vec, tfidf, lsa, hf:NAME_OR_FOLDER, or the name of an array of the data set.
        text_dim: Dimension of fitted text vectors (doc2vec, tfidf, lsa); 0 uses the default of each.
        image_size: Image size in pixels, for methods that read pixels.
        augment: Random crops and horizontal flips of the training images, for methods that read pixels.
        resize: Resizing to a square, for methods that read pixels without their own processor: squash ignores the
            aspect ratio; crop resizes the shorter side to 8/7 and centre-crops, as in ImageNet evaluation.
        least_crop: Minimum fraction of the image area in a random crop.
        max_words: Maximum text length in words; longer texts are truncated.
        min_count: Minimum number of occurrences in the training captions; rarer words become the unknown word.
        word_split: Tokenisation: words drops punctuation; treebank keeps punctuation marks as tokens and splits
            contractions, as the programs of VSE++ and SCAN do.
        start_end: Add a start and an end token to every text, for methods that read words.
        prompt: Template around every text, for methods that read subwords: a photo of {}.
        unseen_classes: Number of categories to test on and never train on (zero-shot retrieval), drawn by split_seed
            where the data set has one; the result is flagged. 0 tests on those of training.
        skip_missing: Skip images whose file or feature is missing; the result records how many.
        skip_invalid: Skip rows that cannot be read (empty captions, broken quotes) and, for methods that read pixels,
            images that cannot be decoded; the result records how many.
        eval_batch_size: Batch size of validation and test.
        seed: Random seed of the data order and of fitted text vectors; null uses the run's seed.
    """

    data_name: ClassVar[str] = ""
    selection: ClassVar[Literal["rsum", "map"]] = "rsum"
    folds: ClassVar[int | None] = None
    subsets: ClassVar[str | None] = None
    expected: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    expected_identities: ClassVar[Mapping[str, int]] = {}

    def __init__(
        self,
        root: str | Path | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        image_features: str | Path | None = None,
        image_weights: str | Path | None = None,
        make_features: bool = True,
        text_features: str | None = None,
        text_dim: int = 0,
        image_size: int = 224,
        augment: bool = True,
        resize: Literal["squash", "crop"] = "squash",
        least_crop: float = 0.5,
        max_words: int = 64,
        min_count: int = 4,
        word_split: WordSplit = "words",
        start_end: bool = False,
        prompt: str = "",
        unseen_classes: int = 0,
        skip_missing: bool = False,
        skip_invalid: bool = False,
        eval_batch_size: int = 256,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.root, self.batch_size, self.num_workers = path_text(root), batch_size, num_workers
        self.image_features, self.text_features, self.text_dim = path_text(image_features), text_features, text_dim
        if not 0 < least_crop <= 1:
            raise UsageError(f"--data.least_crop {least_crop}: choose a share above 0, at most 1")
        self.image_weights, self.make_features = path_text(image_weights), make_features
        self.making_device, self.show_progress = "auto", True
        self.image_size, self.augment = image_size, augment
        self.resize, self.least_crop, self.prompt = resize, least_crop, prompt
        self.photo_fit: PhotoFit | None = None
        self.max_words, self.min_count = max_words, min_count
        self.word_split, self.start_end = word_split, start_end
        self.unseen_classes = unseen_classes
        self.skip_missing, self.skip_invalid, self.eval_batch_size = skip_missing, skip_invalid, eval_batch_size
        self.seed = seed or 0
        self.splits: dict[str, Split] = {}
        self.skipped: dict[str, list[str]] = {}
        self.report = Report(skip_invalid)
        self._feature_file: FeatureFile | None = None
        self.spec: DataSpec | None = None
        self.evaluation = EvaluationOptions()
        self.vocabulary: Vocabulary | None = None

    def read(self) -> Mapping[str, Split]:
        """Read ids, links, labels and raw content of every split that is there; views come later.

        Raises:
            DataError: If files are missing or malformed.
        """
        raise NotImplementedError

    def usual_evaluation(self, subsets: str | None = None) -> EvaluationOptions:
        """Return how the data set is evaluated where nobody says otherwise, on these subsets or its own."""
        return EvaluationOptions(criterion=self.selection, subsets=self.test_subsets(subsets))

    def test_subsets(self, given: str | None = None) -> tuple[Subsets, ...]:
        """Return the draws of pairs that the test split is also scored on: those given, else the data set's own.

        Raises:
            UsageError: If they are written otherwise than ``10x1000``.
        """
        return read_subsets(self.subsets if given is None else given)

    def expected_counts(self) -> Mapping[str, tuple[int, ...]]:
        """Images, and texts where they are fixed, that every split should have under the options chosen."""
        return self.expected

    def image_arrays(self) -> Mapping[str, Mapping[str, ArrayView]]:
        """Arrays of image features that the data set ships, by name and split, aligned with what was read last."""
        return {}

    def text_arrays(self) -> Mapping[str, Mapping[str, ArrayView]]:
        """Arrays of text features that the data set ships, by name and split, aligned with what was read last."""
        return {}

    def folder(self) -> Path:
        """Folder of the data set on disk; raises DataError where the data set has none."""
        raise DataError(f"{self.data_name} has no folder on disk")

    def cache(self) -> Path:
        """Folder of what is made from this data set: stored features, text vectors."""
        return cache_dir(self.data_name)

    def store_places(self) -> list[Path]:
        """Folders in which stored features of this data set are looked for: beside the data first, then the cache."""
        return store_folders(self.data_name, self.root, self.cache())

    def earlier_store_places(self) -> list[Path]:
        """Folders in which an earlier version kept features of this and other data sets, for those that ask by name."""
        return []

    def missing_images(self, kind: ViewKind, split: Split) -> npt.NDArray[np.bool_]:
        """Tell which images of ``split`` (n_images,) cannot be delivered as ``kind``: no file, or no stored feature."""
        from cmr_bench.datamodules.images import store

        if kind == "pixels":
            files = split.image_files or ()
            return np.fromiter((not f.is_file() for f in files), dtype=bool, count=len(files))
        named = self.feature_file()
        return store.missing(self.feature_store(), split) if named is None else named.rows(split.image_ids) < 0

    def feature_file(self) -> FeatureFile | None:
        """Open the file of features by image id that ``image_features`` names; None where it names no such file."""
        if self.image_features is None:
            return None
        from cmr_bench.datamodules.readers.featurefiles import FeatureFile, is_feature_file

        try:
            folder = self.folder()
        except DataError:
            folder = None
        file = is_feature_file(self.image_features, folder)
        if file is None:
            return None
        if self._feature_file is None or self._feature_file.file != file:
            self._feature_file = FeatureFile(self.image_features, file)
        return self._feature_file

    def given(self) -> str:
        """Return the options that say what is read as words for a command, each with a blank before it.

        A command that a message offers should read what this one reads.
        """
        common = inspect.signature(RetrievalDataModule.__init__).parameters
        words = [] if self.root is None else ["--data.root", str(self.root)]
        words += ["--data.skip_invalid", "true"] if self.skip_invalid else []
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            # `splits` of a data set with that option are the ones that were read
            value = getattr(self, "split_names" if name == "splits" else name, None)
            value = json.dumps(value) if isinstance(value, dict) else value
            if name not in common and value not in (None, parameter.default) and isinstance(value, str | int | float):
                words += [f"--data.{name}", str(value).lower() if isinstance(value, bool) else str(value)]
        return f" {shlex.join(words)}" if words else ""

    def feature_store(self) -> FeatureStore:
        """Open the stored image features that ``image_features`` names."""
        from cmr_bench.datamodules.images import making, store

        if self.image_features is None:
            raise UsageError(
                f"{self.data_name} has no image features: pass --data.image_features torchvision:resnet152/pool or "
                "another encoder and layer, which `run` makes first, or make them by "
                f"`cmr-bench data features {self.data_name}{self.given()} --encoder torchvision:resnet152`"
            )
        if (named := feature_name(self.image_features)) is not None:
            return store.FeatureStore(making.found(self, named))
        places = [*self.store_places(), *self.earlier_store_places()]
        return store.open_store(self.image_features, self.data_name, self.root, places, self.given())

    def image_view(self, kind: ViewKind, split: Split) -> View:
        """Return the images of ``split`` as ``kind``; by default from the photographs or from stored features."""
        from cmr_bench.datamodules.images import photos as transforms
        from cmr_bench.datamodules.images import store

        if kind == "pixels":
            if split.image_files is None:
                raise DataError(f"{self.data_name} has no images to read as pixels; pass --model.image_view vector")
            fit = self.photo_fit
            if fit is None:
                fit = transforms.PhotoFit(self.image_size)
                if self.resize == "crop":
                    fit = transforms.PhotoFit(self.image_size, "crop", "bilinear", 7 / 8)
            augment = self.augment and split.name == "train"
            return transforms.PixelView(split.image_files, fit.size, augment, self.seed, fit, self.least_crop)
        named = self.feature_file()
        view = store.stored_view(self.feature_store(), split) if named is None else named.view(split)
        if view.spec.kind != kind:
            raise UsageError(
                f"the method reads images as '{kind}' but '{self.image_features}' is '{view.spec.kind}' "
                f"{view.spec.shape}; extract others: `cmr-bench data features {self.data_name}{self.given()} "
                f"--encoder timm:tf_efficientnet_lite0 --layer {'grid' if kind == 'regions' else 'pool'}`"
            )
        return view

    def photo(self, split: Split, row: int, at_least: int = 0) -> Image.Image | None:
        """Return an image of ``split`` to look at; None where the data set ships features only.

        Args:
            split: A split of this data set.
            row: Row of the image.
            at_least: Both sides that are needed, in pixels; 0 for full size.

        Raises:
            DataError: If the file is missing or cannot be decoded.
        """
        from cmr_bench.datamodules.images import photos as transforms

        return None if split.image_files is None else transforms.read_photo(split.image_files[row], at_least)

    def text_view(self, kind: ViewKind, split: Split, tokenizer: str | None = None) -> View:
        """Return the texts of ``split`` as ``kind``; everything fitted is fitted on the training split."""
        from cmr_bench.datamodules.texts import vectors, words

        if split.captions is None:
            raise DataError(f"{self.data_name} has no raw texts, so no '{kind}' view of them")
        train = self.splits["train"]
        assert train.captions is not None
        if kind == "tokens":
            self.vocabulary = self.vocabulary or words.Vocabulary.fit(
                train.captions, self.min_count, self.word_split, self.start_end
            )
            return words.TokenView(split.captions, self.vocabulary, self.max_words)
        if kind == "subwords":
            if tokenizer is None:
                raise UsageError("the method reads subwords but sets no tokenizer; set a transformers name or folder")
            return words.SubwordView(split.captions, tokenizer, self.max_words, self.prompt)
        if self.text_features is None:
            raise UsageError(
                "the method reads texts as vectors: pass --data.text_features doc2vec, tfidf or hf:NAME_OR_FOLDER"
            )
        return vectors.vector_view(
            self.text_features,
            train.captions,
            split.captions,
            dim=self.text_dim,
            seed=self.seed,
            cache=self.cache(),
        )

    def load(
        self,
        image_view: ViewKind,
        text_view: ViewKind,
        tokenizer: str | None = None,
        evaluation: EvaluationOptions | None = None,
        photo_fit: PhotoFit | None = None,
    ) -> DataSpec:
        """Read the splits and build the views; fails before training if something is missing.

        Args:
            image_view: View of the images that the method reads.
            text_view: View of the texts that the method reads.
            tokenizer: Name or folder of a transformers tokenizer, for subwords.
            evaluation: How the run is evaluated; None chooses weights on validation by the criterion of the data set.
            photo_fit: How the method wants photographs fitted to a square; None leaves it to the options.

        Returns:
            What the method needs to build its layers.
        """
        self.evaluation = evaluation or self.usual_evaluation()
        check_workers(self.num_workers)
        self.photo_fit = photo_fit
        self.reading = (image_view, text_view, tokenizer, photo_fit)
        self._read_splits(image_view)
        for each in self.evaluation.subsets:
            each.check(len(np.unique(self.splits["test"].image_of_text)))
        for split in self.splits.values():
            split.images = self.image_view(image_view, split)
            split.texts = self.text_view(text_view, split, tokenizer)
            for view, n, what in ((split.images, split.n_images, "images"), (split.texts, split.n_texts, "texts")):
                if len(view) != n:
                    raise DataError(
                        f"{self.data_name} {split.name}: '{view.spec.source or view.spec.kind}' has {len(view)} rows "
                        f"for {n} {what}"
                    )
        for line in (*self.report.lines(), *foreign_words(self.splits, self.min_count)):
            rank_zero_warn(f"{self.data_name}: {line}", category=Notice)
        train = self.splits["train"]
        assert train.images is not None
        assert train.texts is not None
        self.spec = DataSpec(
            train.images.spec,
            train.texts.spec,
            n_classes=len(train.class_names),
            multi_label=train.labels is not None and train.labels.ndim == 2,
            n_train_images=train.n_images,
            n_train_texts=train.n_texts,
            n_train_identities=None if train.identity is None else len(np.unique(train.identity)),
        )
        return self.spec

    def content(self, image_view: ViewKind, text_view: ViewKind, tokenizer: str | None = None) -> dict[str, str]:
        """Return checksums of all that a run reads, see :func:`cmr_bench.datamodules.delivery.checksums_of`."""
        if not self.splits:
            self._read_splits(image_view)
        return checksums_of(self, image_view, text_view, tokenizer)

    def provide(self, image_view: ViewKind) -> Mapping[str, Split]:
        """Read the splits, and make the image features that are asked for where that is needed and may be done."""
        from cmr_bench.datamodules.images import making

        splits = self.read()
        if image_view != "pixels":
            making.provide(self, splits)
        return splits

    def _read_splits(self, image_view: ViewKind) -> None:
        """Read the splits without the images that cannot be delivered as ``image_view``; no view is made."""
        # A vocabulary of training captions that were read before is not that of these.
        self.splits, self.skipped, self.vocabulary = {}, {}, None
        read = self.provide(image_view)
        if self.unseen_classes:
            seed = getattr(self, "split_seed", None) or 0
            read = hold_out_classes(read, self.unseen_classes, seed, self.data_name)
        for name, split in read.items():
            self.splits[name] = deliverable(self, name, split, image_view)
        missing = [name for name in SPLITS if name not in self.splits]
        if missing:
            raise DataError(
                f"{self.data_name}: no {' and no '.join(missing)} split here; a run needs train, val and test"
            )
