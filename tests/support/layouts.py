"""Made-up data sets in the layouts that they have on disk, one writer a layout."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.io import savemat

_COLOURS = ("red", "green", "blue", "black", "white")
_THINGS = ("dog", "horse", "boat", "child", "tree")


def write_photo(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    """Write a small JPEG whose content depends on ``seed``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size).save(path, quality=90)
    return path


def write_karpathy(
    root: Path,
    name: str = "flickr8k",
    counts: Mapping[str, int] | None = None,
    captions: int | Sequence[int] = 5,
    compressed: bool = False,
    photos: bool = True,
    images: str = "images",
    filepath: Mapping[str, str] | None = None,
) -> Path:
    """Write ``root/name/dataset_*.json`` and the photographs.

    Args:
        root: Folder of the data sets.
        name: flickr8k, flickr30k, mscoco or another.
        counts: Images of each part of the file (train, restval, val, test).
        captions: Sentences an image, or a list that is gone through again and again.
        compressed: Write ``.json.gz``.
        photos: Write the photographs too.
        images: Folder of the photographs.
        filepath: Folder of each part below ``images``, as MSCOCO has it.
    """
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    per_image = [captions] if isinstance(captions, int) else list(captions)
    entries: list[dict[str, Any]] = []
    sentid = 0
    for part, count in (counts or {"train": 8, "val": 4, "test": 4}).items():
        for _ in range(count):
            k = len(entries)
            filename = f"{part}_{k:05d}.jpg"
            below = (filepath or {}).get(part)
            sentences = []
            for j in range(per_image[k % len(per_image)]):
                words = [_COLOURS[k % 5], _THINGS[k // 5 % 5], "seen", "as", f"view{j}", "of", f"item{k}"]
                raw = " ".join(words) + " ."
                sentences.append({"raw": raw, "tokens": words, "imgid": k, "sentid": sentid})
                sentid += 1
            entry = {
                "filename": filename,
                "imgid": k,
                "split": part,
                "sentids": [s["sentid"] for s in sentences],
                "sentences": sentences,
            }
            entries.append(entry | ({"filepath": below} if below else {}))
            if photos:
                write_photo(folder / images / (below or "") / filename, seed=k)
    stem = {"mscoco": "coco"}.get(name, name)
    content = json.dumps({"dataset": stem, "images": entries}).encode()
    file = folder / f"dataset_{stem}.json{'.gz' if compressed else ''}"
    file.write_bytes(gzip.compress(content) if compressed else content)
    return folder


def write_precomputed(
    folder: Path,
    counts: Mapping[str, int] | None = None,
    dim: int = 6,
    regions: int = 0,
    captions: int = 5,
    repeat: bool = False,
    ids: str | None = None,
) -> Path:
    """Write ``{prefix}_ims.npy`` and ``{prefix}_caps.txt``.

    Args:
        folder: Where to.
        counts: Images by prefix: train, dev, test, testall.
        dim: Width of a feature.
        regions: Regions an image; 0 writes one vector an image.
        captions: Captions an image.
        repeat: Repeat an image's row for each of its captions.
        ids: Write ``{prefix}_ids.txt`` with a line per ``image`` or per ``caption``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (counts or {"train": 8, "dev": 4, "test": 4}).items():
        rng = np.random.default_rng(len(prefix))
        features = rng.normal(size=(count, regions, dim) if regions else (count, dim)).astype(np.float32)
        np.save(folder / f"{prefix}_ims.npy", features.repeat(captions, axis=0) if repeat else features)
        lines = [
            f"{_COLOURS[i % 5]} {_THINGS[i // 5 % 5]} view{j} of item{i}" for i in range(count) for j in range(captions)
        ]
        (folder / f"{prefix}_caps.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if ids is not None:
            each = captions if ids == "caption" else 1
            (folder / f"{prefix}_ids.txt").write_text("".join(f"{1000 + i}\n" * each for i in range(count)))
    return folder


def write_table(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``, by the suffix."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif file.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(list(rows)), file)
    else:
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return file


def write_wikipedia(folder: Path, n_train: int = 20, n_test: int = 12, compressed: bool = True) -> Path:
    """Write the lists, the authors' ``raw_features.mat`` and an archive of features of Wikipedia.

    Document k is ``t-k`` with photograph ``ik`` and category k % 2; the archive is that of
    :func:`write_wikipedia_archive`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"t-{k}\ti{k}\t{k % 2 + 1}\n" for k in range(n_train + n_test)]
    (folder / "trainset_txt_img_cat.list").write_text("".join(lines[:n_train]))
    (folder / "testset_txt_img_cat.list").write_text("".join(lines[n_train:]))
    (folder / "categories.list").write_text("art\nbiology\n")
    halves = {"I_tr": made_up(4, n_train, 3), "I_te": made_up(5, n_test, 3)}
    halves |= {"T_tr": made_up(6, n_train, 2), "T_te": made_up(7, n_test, 2)}
    savemat(folder / "raw_features.mat", halves)
    write_wikipedia_archive(folder, n_train, n_test, compressed)
    return folder


def write_wikipedia_archive(
    folder: Path, n_train: int = 20, n_test: int = 12, compressed: bool = True, **change: Any
) -> None:
    """Write ``wikipedia_features.npz``, whose test documents are split into validation, a third, and test."""
    n, n_val = n_train + n_test, n_test // 3
    content: dict[str, Any] = {
        "img_cnnpca128": made_up(1, n, 6),
        "txt_tfidf1000": np.abs(made_up(2, n, 5)).astype(np.float16),
        "txt_lda10": made_up(3, n, 4),
        "labels": (np.arange(n) % 2).astype(np.int16),
        "text_id": np.array([f"t-{k}" for k in range(n)]),
        "image_id": np.array([f"i{k}" for k in range(n)]),
        "val_rows": np.arange(n_train, n_train + n_val),
        "test_rows": np.arange(n_train + n_val, n),
        **change,
    }
    (np.savez_compressed if compressed else np.savez)(folder / "wikipedia_features.npz", **content)


def write_wikipedia_articles(folder: Path, n: int = 32) -> None:
    """Write the articles and photographs of n documents."""
    (folder / "texts").mkdir()
    for k in range(n):
        (folder / "texts" / f"t-{k}.xml").write_text(
            f'<?xml version="1.0"?>\n<document><category>{k % 2}</category>\n'
            f"<text>\nArticle number{k} on Tom &amp; Jerry, a <b>bold</b>\nstory & more </text></document>"
        )
        photo = folder / "images" / ("art", "biology")[k % 2] / f"i{k}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), (k, 0, 0)).save(photo)


def write_pascal(
    folder: Path,
    per_category: int = 10,
    photos: bool = True,
    lists: Mapping[str, Iterable[int]] | None = None,
    categories: Sequence[str] = ("bird", "cow"),
) -> Path:
    """Write Pascal Sentence: three sentences an image and four for every number 3.

    Args:
        folder: Where to.
        per_category: Images of each category.
        photos: Write the photographs too.
        lists: Numbers of the images in ``train.txt``, ``val.txt``, ``test.txt``; birds are listed as files.
        categories: Names of the categories.
    """
    for c, category in enumerate(categories):
        for k in range(per_category):
            photo = folder / "dataset" / category / f"2008_{k}.jpg"
            sentences = folder / "sentence" / category / f"2008_{k}.txt"
            sentences.parent.mkdir(parents=True, exist_ok=True)
            if photos:
                photo.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (10, 8), (20 * k, 100 * c % 256, 0)).save(photo)
            lines = [f"A {category} number {k}.", "Sentence two here", "And a third one. "]
            sentences.write_text("\n".join(lines + (["A fourth."] if k == 3 else [])) + "\n\n")
    for name, numbers in (lists or {}).items():
        listed = [line for k in numbers for line in (f"cow/2008_{k}", f"bird/2008_{k}.jpg")]
        (folder / f"{name}.txt").write_text("\n".join(listed) + "\n")
    return folder


def write_cuhk_pedes(folder: Path, counts: Mapping[str, int] | None = None, photos: bool = True) -> Path:
    """Write CUHK-PEDES: ``reid_raw.json`` and ``imgs/``, two photographs a person with two sentences each.

    The first person of a split has a third photograph, with three sentences.

    Args:
        folder: Where to.
        counts: People by split, train, val and test; nobody is in two.
        photos: Write the photographs too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    person = 0
    for part, count in (counts or {"train": 6, "val": 2, "test": 3}).items():
        for first in range(count):
            person += 1
            for view in range(3 if first == 0 else 2):
                path = f"{('cam_a', 'CUHK01', 'test_query')[view]}/p{person:04d}_{view}.{('png', 'png', 'jpg')[view]}"
                wears = f"The {_THINGS[person % 5]} owner number{person} wears {_COLOURS[person % 5]} trousers"
                captions = [f"{wears} .", f"{wears} and walks, seen from view{view}."]
                captions += ["A third sentence. "] if view == 2 else []
                tokens = [caption.lower().replace(".", "").split() for caption in captions]
                entry = {
                    "split": part,
                    "captions": captions,
                    "file_path": path,
                    "processed_tokens": tokens,
                    "id": person,
                }
                entries.append(entry)
                if photos:
                    write_photo(folder / "imgs" / path, seed=person, size=(12, 36))
    (folder / "reid_raw.json").write_text(json.dumps(entries))
    return folder


def write_recipe1m(folder: Path, counts: Mapping[str, int] | None = None, photos: bool = True) -> Path:
    """Write Recipe1M: ``layer1.json``, ``layer2.json``, ``det_ingrs.json`` and ``images/a/b/c/d/abcd….jpg``.

    The id of recipe k is k in ten hexadecimal digits; it has one image, or two where k is odd. Training also has four
    recipes that are not used: without an image, with 20 instructions, with 19 detected ingredients, with none.

    Args:
        folder: Where to.
        counts: Recipes by partition that are used.
        photos: Write the photographs too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [part for part, count in (counts or {"train": 8, "val": 3, "test": 4}).items() for _ in range(count)]
    unused = {"no image": (0, 2, 2), "long": (1, 20, 2), "rich": (1, 2, 19), "bare": (1, 2, 0)}
    recipes = [(part, 1 + k % 2, 2, 1 + k % 3) for k, part in enumerate(kinds)]
    recipes += [("train", *numbers) for numbers in unused.values()]
    layers: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for k, (part, n_images, n_steps, n_detected) in enumerate(recipes):
        name = f"{k:010x}"
        written = [f"{j + 1} cups of {_THINGS[(j + k) % 5]}{j}" for j in range(max(1, n_detected))]
        layers[0].append({
            "id": name,
            "title": f"{_COLOURS[k % 5]} {_THINGS[k // 5 % 5]} number{k}",
            "ingredients": [{"text": text} for text in written],
            "instructions": [{"text": f"Stir step{j}."} for j in range(n_steps)],
            "partition": part,
            "url": f"http://example.org/{name}",
        })  # fmt: skip
        # what was recognised stands beside what was not
        names = [f"{_THINGS[(j + k) % 5]}{j}" for j in range(n_detected)] + ["cups"]
        valid = [True] * n_detected + [False]
        layers[2].append({"id": name, "ingredients": [{"text": text} for text in names], "valid": valid})
        images = [f"{k * 16 + j:x}".rjust(4, "0")[::-1] + f"{k:06x}.jpg" for j in range(n_images)]
        if images:
            layers[1].append({"id": name, "images": [{"id": i, "url": f"http://example.org/{i}"} for i in images]})
        for image in images if photos else ():
            write_photo(folder.joinpath("images", *image[:4], image), seed=k)
    for file, content in zip(("layer1", "layer2", "det_ingrs"), layers, strict=True):
        (folder / f"{file}.json").write_text(json.dumps(content))
    return folder


def write_store(folder: Path, ids: Sequence[str], features: npt.NDArray[Any], **changes: Any) -> Path:
    """Write stored image features with a manifest that says they are complete, unless ``changes`` say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "features.npy", features)
    manifest: dict[str, Any] = {
        "data": "flickr8k", "encoder": "timm:x", "layer": "pool", "weights": "random", "weights_sha256": "0",
        "preprocessing": {}, "ids": list(ids), "shape": list(features.shape), "dtype": str(features.dtype),
        "grid": None, "skipped": [], "rows_done": len(features), "complete": True, "command": "", "schema": 1,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    return folder


def made_up(seed: int, rows: int, width: int) -> npt.NDArray[np.float32]:
    """Return random features, (rows, width)."""
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
