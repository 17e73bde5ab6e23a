"""A data set of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmr_bench import registry
from cmr_bench.data_sets import DATASETS
from cmr_bench.datamodules.module import RetrievalDataModule, locate
from cmr_bench.datamodules.readers.columns import USUAL, Columns
from cmr_bench.datamodules.readers.delimited import TextFormat
from cmr_bench.datamodules.readers.documents import document_rows, is_karpathy
from cmr_bench.datamodules.readers.finder import PhotoFinder
from cmr_bench.datamodules.readers.gathering import Gatherer
from cmr_bench.datamodules.readers.hubsets import HubSet
from cmr_bench.datamodules.readers.items import assemble, drawn
from cmr_bench.datamodules.readers.karpathy import load_json, make_splits, own_fields, photos_in
from cmr_bench.datamodules.readers.lmdbfiles import LmdbFinder, is_lmdb
from cmr_bench.datamodules.readers.parts import Parts
from cmr_bench.datamodules.readers.paths import Paths
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.datamodules.readers.tablefiles import MARKERS, markers, named_files, parts_of, patterns, tables_in
from cmr_bench.datamodules.readers.tables import JSON_SUFFIXES, read_rows
from cmr_bench.datamodules.split import Split
from cmr_bench.support.checksums import combined
from cmr_bench.support.errors import DataError, UsageError
from cmr_bench.support.places import cache_dir, check_name, path_text


class Custom(RetrievalDataModule):
    """Your own data: a table of images and captions, or one per split; root is its folder.

    Formats: CSV, TSV, Kaggle's captions.txt and results.csv, Flickr's .token, JSONL, Parquet, WebDataset tar files, and
    the JSON of Karpathy, COCO, BLIP and LAVIS. An image with several captions has several rows, a list of captions, or
    several caption columns.

    Args:
        name: Name of the data set in run folders, caches and leaderboards; null stores runs under `custom` and keeps
            features by folder.
        file: Table or JSON in the folder, several separated by commas, or a pattern such as '*.parquet'; null takes the
            only one there, or those whose names say train, val and test.
        hub: In place of a file, a data set of the library datasets: a folder that it saved, or OWNER/NAME on the
            Hugging Face hub, perhaps with :CONFIGURATION.
        images: Folder that image paths are relative to, or an LMDB file with the images by name; absolute or relative
            to the data folder.
        image_column: Column with the image path or number; null takes image, filepath or another usual name.
        caption_column: Column with the caption, or several separated by commas; null takes caption, title or another
            usual name, or caption1, caption2, ...
        split_column: Column with train, val (dev, valid, validation) or test; null uses the column 'split', else the
            name of the file, else splits the images at random 80/10/10.
        label_column: Column with the category; null uses the column 'label', if any.
        label_separator: Separator between several categories of an item, such as ';'.
        separator: Separator between the columns of a text table, such as ';' or tab; null detects it.
        encoding: Encoding of a text table, such as cp1252; null tries UTF-8, then cp1252.
        pattern: Format string that turns the image column into a file name, such as '{:012d}.jpg' for numbers.
        strip_prefix: Prefix to remove from every image path.
        splits: Names of the splits in the file, such as '{test: test2, train: train+restval}'; others are skipped.
        split_seed: Random seed of an 80/10/10 split that replaces the split column; if not given, the column is used,
            or seed 0 without one. Independent of the run's seed.
    """

    data_name = "custom"

    def __init__(
        self,
        name: str | None = None,
        file: str | Path | None = None,
        hub: str | Path | None = None,
        images: str | Path = ".",
        image_column: str | None = None,
        caption_column: str | None = None,
        split_column: str | None = None,
        label_column: str | None = None,
        label_separator: str | None = None,
        separator: str | None = None,
        encoding: str | None = None,
        pattern: str | None = None,
        strip_prefix: str | None = None,
        splits: dict[str, str] | None = None,
        split_seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = None if name is None else _own_name(name)
        self.file, self.images, self.hub = path_text(file), path_text(images), path_text(hub)
        if self.hub is not None and self.file is not None:
            raise UsageError("--data.hub and --data.file: pass one of them")
        self.image_column, self.caption_column = image_column, caption_column
        self.split_column, self.label_column = split_column, label_column
        self.label_separator, self.split_seed = label_separator, split_seed
        self.separator, self.encoding = separator, encoding
        self.pattern, self.strip_prefix = pattern, strip_prefix
        self.split_names = splits

    def cache(self) -> Path:
        """Folder of what is made from this data set, by its name or by where its table and photographs lie."""
        if self.name is not None:
            return cache_dir(self.data_name) / self.name
        if self.hub is not None:
            where = str(Path(self.hub).expanduser().resolve()) if Path(self.hub).expanduser().is_dir() else self.hub
            return cache_dir(self.data_name) / f"hub-{combined({'hub': where, 'images': self.images})[:12]}"
        files = [str(file.resolve()) for file in self.table_files()]
        folder = self.folder().resolve()
        images = (folder / Path(self.images).expanduser()).resolve()
        places = combined({"table": "\n".join(files), "images": str(images)})
        return cache_dir(self.data_name) / f"{folder.name[:40]}-{places[:12]}"

    def earlier_store_places(self) -> list[Path]:
        """Where earlier versions kept the features of every such data set."""
        return [cache_dir(self.data_name) / "features"]

    def folder(self) -> Path:
        """Folder with the table; of a data set of the hub the one saved, else the folder of its cache."""
        if self.hub is not None:
            saved = Path(self.hub).expanduser()
            return saved if saved.is_dir() else self.cache()
        given = patterns(self.file or "")
        if given and Path(given[0]).expanduser().is_absolute():
            return Path(given[0]).expanduser().parent
        wanted = markers(self.file) if self.file else list(MARKERS)
        return locate(self.root, self.data_name, wanted, DATASETS["custom"].layout)

    def table_files(self) -> list[Path]:
        """The tables or the JSON to read.

        Raises:
            DataError: If there are several that do not belong together and none is named.
        """
        folder = self.folder()
        return named_files(folder, self.file) if self.file else tables_in(folder)

    def read(self) -> Mapping[str, Split]:
        """Read the tables or the JSON, or the data set of the hub."""
        self.report = Report(self.skip_invalid)
        if self.hub is not None:
            return self._hub_splits(self.hub)
        folder, files = self.folder(), self.table_files()
        images = folder / Path(self.images).expanduser()
        finder = LmdbFinder(images) if is_lmdb(images) else PhotoFinder(images)
        paths = Paths(images, self.pattern, self.strip_prefix, self.report)
        parts = Parts(self.split_names, option=True)
        columns = Columns(self.image_column, self.caption_column, self.split_column, self.label_column)
        form = TextFormat(self.separator, self.encoding)
        gatherer = Gatherer(columns, paths, finder, parts, self.report, self.label_separator)
        for file, part in parts_of(files, folder, self.report).items():
            if not file.name.lower().endswith(JSON_SUFFIXES):
                gatherer.add(read_rows(file, form, USUAL, self.report), file, part)
                continue
            content = load_json(file)
            if not is_karpathy(content):
                gatherer.add(document_rows(file, content, self.report), file, part)
            elif len(files) > 1:
                raise DataError(
                    f"{file} is a Karpathy JSON, which holds all splits; pass --data.file {file.name} alone"
                )
            elif self.split_seed is not None:
                raise UsageError(f"{file} has splits of its own: --data.split_seed needs a table")
            else:
                fields = own_fields(content, file, columns, self.label_separator, paths)
                photos = photos_in(content, file, self.report, fields)
                splits = make_splits(photos, finder, str(file), parts, self.report, self.label_separator is not None)
                self.report.close()
                return splits
        return self._splits(gatherer, ", ".join(file.name for file in files[:3]))

    def _hub_splits(self, given: str) -> Mapping[str, Split]:
        found = HubSet(given)
        images = self.folder() / Path(self.images).expanduser()
        finder, parts = PhotoFinder(images), Parts(self.split_names, option=True)
        paths = Paths(images, self.pattern, self.strip_prefix, self.report)
        columns = Columns(self.image_column, self.caption_column, self.split_column, self.label_column)
        gatherer = Gatherer(columns, paths, finder, parts, self.report, self.label_separator)
        alone = len(found.parts) == 1
        for name, part in found.parts.items():
            if alone and name is not None and self.split_column is None:
                self.report.note(f"{found.name}: its only split '{name}' is divided 80/10/10")
            gatherer.columns = replace(columns, image=found.image_column(part, self.image_column))
            gatherer.add(found.rows(name, gatherer.columns.image), Path(found.name), None if alone else name)
        return self._splits(gatherer, found.name)

    def _splits(self, gatherer: Gatherer, source: str) -> Mapping[str, Split]:
        """Make splits of what was gathered."""
        items, parts = gatherer.finish(), gatherer.parts
        self.report.close()
        parts.require_some(len(items), source)
        if not items:
            raise DataError(f"{source}: no row can be read")
        splits = assemble(drawn(items, self.split_seed), self.label_separator is not None)
        for line in (*parts.lines(source), *gatherer.finder.lines()):
            self.report.note(line)
        return splits


def _own_name(name: str) -> str:
    if name in registry.DATASETS:
        raise UsageError(f"--data.name {name} is the name of a data set of the suite; call yours something else")
    return check_name(name)
