"""Texts as vectors, fitted once and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from rich.console import Console
from rich.progress import track

from cmr_bench.datamodules.texts.fitting import (
    DEFAULT_DIM,
    ENCODERS,
    FITTED,
    SHOWN,
    Encode,
    Fitted,
    Vectors,
    fit,
    pretrained,
)
from cmr_bench.datamodules.texts.words import refuse_empty
from cmr_bench.datamodules.views import ArrayView, Origin, View
from cmr_bench.support.errors import DataError, UsageError, did_you_mean
from cmr_bench.support.files import replacing, write_atomic
from cmr_bench.support.hub import model_checksum


class VectorView(ArrayView):
    """Texts as the vectors of :func:`text_vectors`.

    Args:
        vectors: The vectors, (n_texts, d).
        name: Name of the method that made them.
        fit: File with what was fitted on the training texts; None where nothing was.
    """

    def __init__(self, vectors: Vectors, name: str, fit: Path | None) -> None:
        super().__init__(vectors, name)
        self.fit = fit

    def content(self) -> str:
        """Checksum of the pretrained encoder; what is fitted follows from the captions."""
        return "" if self.fit is not None else model_checksum(self.spec.source)

    def origin(self) -> Origin:
        """Return what was fitted, or the name of the pretrained encoder."""
        if self.fit is None:
            name = self.spec.source.removeprefix("hf:")
            return Origin("encoder", {"name": name, "checksum": model_checksum(name)})
        fitted = read_fit(self.fit)
        if fitted is None:
            raise DataError(f"the fit of text vectors '{self.spec.source}' is no longer in {self.fit}")
        return fitted.origin()


def text_vectors(name: str, train: Sequence[str], texts: Sequence[str], *, dim: int, seed: int, cache: Path) -> Vectors:
    """Turn texts into vectors by a method fitted on the training texts only.

    Every text, a training text too, goes through the same encoder: a document vector that Doc2Vec learnt while it
    was fitted is distributed otherwise than one inferred afterwards, and a method trained on the first kind would
    meet a shifted input at test.

    Args:
        name: ``doc2vec`` (Le and Mikolov 2014, arXiv:1405.4053, bag-of-words form), ``tfidf``, ``lsa`` (singular value
            decomposition of all tf-idf terms) or ``hf:NAME_OR_FOLDER`` (a transformers encoder, mean over the subwords,
            unit length; of a text of several lines the mean over its lines, which such encoders read one at a time) or
            ``st:NAME_OR_FOLDER`` (a model of sentence-transformers with its own pooling, likewise by lines).
        train: Texts of the training split; ``hf:`` and ``st:`` do not look at them.
        texts: Texts to encode, (n_texts,).
        dim: Width of the vectors; 0 takes 300 for ``doc2vec`` and ``lsa`` and the 2,000 most frequent words for
            ``tfidf``; ``hf:`` and ``st:`` have the width of their model.
        seed: Random seed in the fit.
        cache: Folder in which the vectors are kept; equal arguments are computed once.

    Returns:
        Vectors (n_texts, d), memory-mapped.

    Raises:
        UsageError: If the name is unknown.
        DataError: If a text is empty or the encoder cannot be loaded.
    """
    if name not in FITTED and not name.startswith(ENCODERS):
        raise UsageError(
            f"unknown text vectors '{name}': choose {', '.join(FITTED)} hf:NAME_OR_FOLDER or st:NAME_OR_FOLDER"
            + did_you_mean(name, FITTED)
        )
    refuse_empty(texts)
    fitted = name in FITTED
    if fitted:
        refuse_empty(train)
        dim = dim or DEFAULT_DIM[name]
    made_by = {"name": name, "dim": dim if fitted else 0, "seed": seed if fitted else 0, "software": _software(name)}
    file = _cache_file(cache, made_by, train if fitted else (), texts, "npy")
    # Processes of one run ask for the same vectors at the same time: one computes, the others wait and read.
    with _alone_at(file):
        kept = _read_vectors(file, len(texts))
        if kept is not None:
            return kept
        encode = fitted_on(name, train, dim=dim, seed=seed, cache=cache).encoder() if fitted else pretrained(name)
        _write_vectors(file, encode, texts, f"text vectors {name}", made_by)
    kept = _read_vectors(file, len(texts))
    if kept is None:
        raise DataError(f"text vectors just written to {file} cannot be read back; is the disk full?")
    return kept


def vector_view(name: str, train: Sequence[str], texts: Sequence[str], *, dim: int, seed: int, cache: Path) -> View:
    """Return texts as a view of :func:`text_vectors`, which takes the same arguments."""
    vectors = text_vectors(name, train, texts, dim=dim, seed=seed, cache=cache)
    if name not in FITTED:
        return VectorView(vectors, name, None)
    fit = _fit_file(name, train, dim or DEFAULT_DIM[name], seed, cache)
    if not fit.is_file():
        fitted_on(name, train, dim=dim, seed=seed, cache=cache)
    return VectorView(vectors, name, fit)


def fitted_on(name: str, train: Sequence[str], *, dim: int, seed: int, cache: Path) -> Fitted:
    """Fit a method of :data:`FITTED` on the training texts, or read the fit that the cache holds."""
    dim = dim or DEFAULT_DIM[name]
    file = _fit_file(name, train, dim, seed, cache)
    with _alone_at(file):
        kept = read_fit(file)
        if kept is None:
            kept = fit(name, tuple(train), dim, seed)
            write_atomic(file, kept.origin().to_bytes())
    return kept


def read_fit(file: Path) -> Fitted | None:
    """Read a fit from the cache; None where it is not there or damaged."""
    try:
        return Fitted.of(Origin.from_bytes(file.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fit_file(name: str, train: Sequence[str], dim: int, seed: int, cache: Path) -> Path:
    made_by = {"name": name, "dim": dim, "seed": seed, "software": _software(name)}
    return _cache_file(cache, made_by, train, (), "fit.safetensors")


def _cache_file(
    cache: Path, made_by: Mapping[str, Any], train: Sequence[str], texts: Sequence[str], suffix: str
) -> Path:
    digest = hashlib.sha256(json.dumps(made_by).encode())
    for part in (train, texts):
        digest.update(b"\1")
        for text in part:
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    short = re.sub(r"\W+", "-", str(made_by["name"]).rstrip("/")).strip("-")[-40:]
    return cache / "text" / f"{short}-{digest.hexdigest()[:20]}.{suffix}"


@contextmanager
def _alone_at(file: Path) -> Iterator[None]:
    lock = filelock.FileLock(f"{file}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise DataError(
            f"cannot keep text vectors in {file.parent}: {error.strerror or error}; "
            "set another folder by CMR_BENCH_CACHE"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _read_vectors(file: Path, n_texts: int) -> Vectors | None:
    """Map a cached array; None where it is not there, cut short or not what its manifest says."""
    try:
        manifest = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        array: Vectors = np.load(file, mmap_mode="r", allow_pickle=False)
        if list(array.shape) != manifest["shape"] or array.dtype != np.float32 or len(array) != n_texts:
            return None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return array


def _write_vectors(file: Path, encode: Encode, texts: Sequence[str], title: str, made_by: dict[str, Any]) -> None:
    if not texts:
        raise DataError(f"{title}: there are no texts to encode")
    shape: list[int] = []
    # Not through a memory map: on a full disk that ends the process without a word.
    with replacing(file) as stream:
        console = Console(stderr=True)
        starts = range(0, len(texts), SHOWN)
        for start in track(starts, title, console=console, transient=True, disable=not console.is_terminal):
            part = np.ascontiguousarray(encode(texts[start : start + SHOWN]), dtype=np.dtype("<f4"))
            if not shape:
                shape = [len(texts), part.shape[1]]
                header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
                np.lib.format.write_array_header_1_0(stream, header)
            stream.write(part.tobytes())
    # The manifest comes last: without it the array counts as unfinished.
    content = {**made_by, "shape": shape, "dtype": "float32"}
    write_atomic(file.with_suffix(".json"), json.dumps(content, ensure_ascii=False, indent=1))


def _software(name: str) -> str:
    """Version of what computes the vectors, or the content of a transformers model: either changes the values."""
    from importlib.metadata import version

    if name in FITTED:
        package = "gensim" if name == "doc2vec" else "scikit-learn"
        return f"3 {package} {version(package)}"
    return f"3 {model_checksum(name)}"
