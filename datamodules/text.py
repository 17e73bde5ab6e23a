"""Words, vocabularies and text vectors."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from cmr_bench.datamodules.base import ArrayView, Origin, Rows, View, ViewSpec
from cmr_bench.errors import DataError, UsageError, did_you_mean
from cmr_bench.files import replacing, write_atomic
from cmr_bench.hub import load_text_encoder, load_tokenizer

PAD, UNKNOWN = 0, 1
FITTED = ("doc2vec", "tfidf", "lsa")
DEFAULT_DIM = {"doc2vec": 300, "tfidf": 2000, "lsa": 300}

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_CHUNK = 1024
_SHOWN = 256

Vectors = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]


def tokenize(text: str) -> list[str]:
    """Split a text into lower-case words.

    A word is a run of letters and digits of any script; apostrophes inside it stay (``dog's``), every other sign,
    the hyphen and the underscore included, separates words. Compatibility forms are unified first (Unicode NFKC,
    curly apostrophes become straight), so the same sentence typed in two ways gives the same words.
    """
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return _WORD.findall(plain.replace("\u2019", "'"))


class Vocabulary:
    """Words of the training captions and their ids: 0 is padding, 1 any other word, then the words by frequency.

    Args:
        words: The words, without repeats; word k has id k + 2.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = list(words)
        self._ids = {word: row for row, word in enumerate(self.words, start=2)}
        if len(self._ids) != len(self.words):
            raise DataError("vocabulary: a word is listed twice")

    @classmethod
    def fit(cls, captions: Sequence[str], min_count: int) -> Vocabulary:
        """Collect the words that occur at least ``min_count`` times in the training captions."""
        counts = Counter(word for caption in captions for word in tokenize(caption))
        kept = [(-count, word) for word, count in counts.items() if count >= min_count]
        return cls(word for _, word in sorted(kept))

    def __len__(self) -> int:
        return len(self.words) + 2

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    __hash__ = None  # type: ignore[assignment]

    def encode(self, text: str, max_words: int) -> list[int]:
        """Return the ids of the first ``max_words`` words, at least one: a text of signs only is one unknown word."""
        return [self._ids.get(word, UNKNOWN) for word in tokenize(text)[:max_words]] or [UNKNOWN]

    def save(self, file: Path) -> None:
        """Write the words to a JSON file."""
        write_atomic(file, json.dumps({"format": 1, "words": self.words}, ensure_ascii=False, indent=1))

    @classmethod
    def load(cls, file: Path) -> Vocabulary:
        """Read a file written by :meth:`save`; raises DataError where it is none."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return cls([str(word) for word in content["words"]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"no vocabulary in {file}: {_first_line(error)}") from error


class _Ragged:
    """Sequences of ids of different length, kept in one array."""

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        lengths: list[int] = []
        flat: list[npt.NDArray[np.int32]] = []
        for ids in sequences:
            lengths.append(len(ids))
            flat.append(np.asarray(ids, dtype=np.int32))
        self.flat = np.concatenate(flat) if flat else np.zeros(0, np.int32)
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def longest(self) -> int:
        return int(np.diff(self.starts).max(initial=1))

    def padded(self, rows: Rows, fill: int) -> tuple[Tensor, Tensor]:
        """Return ids (b, W), filled up on the right, and lengths (b,)."""
        start = self.starts[rows]
        lengths = self.starts[rows + 1] - start
        place = np.arange(lengths.max(initial=1))
        real = place < lengths[:, None]
        ids = np.full(real.shape, fill, dtype=np.int64)
        ids[real] = self.flat[(start[:, None] + place)[real]]
        return torch.from_numpy(ids), torch.from_numpy(lengths)


class TokenView(View):
    """Texts as word ids of a vocabulary.

    Args:
        captions: The texts, (n_texts,).
        vocabulary: Words of the training captions; other words become the unknown word.
        max_words: Longer texts are cut here.
    """

    def __init__(self, captions: Sequence[str], vocabulary: Vocabulary, max_words: int) -> None:
        _refuse_empty(captions)
        self.vocabulary, self.max_words = vocabulary, max_words
        self.ids = _Ragged(vocabulary.encode(caption, max_words) for caption in captions)
        self.spec = ViewSpec("tokens", (self.ids.longest,), "words", len(vocabulary))

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Return ``tokens`` (b, W), padded with 0 to the longest of the batch, and ``lengths`` (b,)."""
        tokens, lengths = self.ids.padded(rows, PAD)
        return {"tokens": tokens, "lengths": lengths}

    def origin(self) -> Origin:
        """Return the words and the length at which texts are cut."""
        return Origin("tokens", {"words": self.vocabulary.words, "max_words": self.max_words})


class SubwordView(View):
    """Texts as subword ids of a transformers tokenizer.

    Args:
        captions: The texts, (n_texts,).
        tokenizer: Name on the Hugging Face hub or a local folder.
        max_words: Longer texts are cut to this many subwords, the tokenizer's own start and end signs included, or to
            as many as its model reads where that is fewer.
    """

    def __init__(self, captions: Sequence[str], tokenizer: str, max_words: int) -> None:
        _refuse_empty(captions)
        encode = load_tokenizer(tokenizer)
        self.max_words = max_words
        # A tokenizer without a padding sign (GPT-2) pads with anything: the attention mask hides it.
        self.fill = int(encode.pad_token_id or 0)
        most = min(max_words, encode.model_max_length)
        self.ids = _Ragged(
            ids
            for start in range(0, len(captions), _CHUNK)
            for ids in encode(list(captions[start : start + _CHUNK]), truncation=True, max_length=most)["input_ids"]
        )
        self.spec = ViewSpec("subwords", (self.ids.longest,), tokenizer, len(encode))

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask``, (b, W), padded to the longest of the batch."""
        ids, lengths = self.ids.padded(rows, self.fill)
        return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}

    def origin(self) -> Origin:
        """Return the tokenizer and the length at which texts are cut."""
        return Origin("subwords", {"tokenizer": self.spec.source, "max_words": self.max_words})


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

    def origin(self) -> Origin:
        """Return what was fitted, or the name of the transformers encoder."""
        if self.fit is None:
            return Origin("encoder", {"name": self.spec.source.removeprefix("hf:")})
        fitted = read_fit(self.fit)
        if fitted is None:
            raise DataError(f"the fit of text vectors '{self.spec.source}' is no longer in {self.fit}")
        return fitted.origin()


@dataclass(frozen=True)
class Fitted:
    """What a method learned from the training texts: enough to turn any text into the same vector without them.

    Attributes:
        name: doc2vec, tfidf or lsa.
        dim: Width asked for.
        seed: Seed of what is random.
        words: The words that count, in the order of the arrays.
        arrays: ``idf`` (n_words,) for tf-idf and lsa, ``components`` (d, n_words) for lsa; for doc2vec the output layer
            ``weights`` (n_words, d), the table that negatives are drawn by and how often each word is kept, (n_words,).
    """

    name: str
    dim: int
    seed: int
    words: Sequence[str]
    arrays: Mapping[str, npt.NDArray[Any]]

    def origin(self) -> Origin:
        """Return the same in the form that is stored with a run."""
        settings = {"name": self.name, "dim": self.dim, "seed": self.seed, "words": list(self.words)}
        return Origin("fitted", settings, dict(self.arrays))

    @classmethod
    def of(cls, origin: Origin) -> Fitted:
        """Return what :meth:`origin` was made from."""
        return cls(**origin.settings, arrays=origin.arrays)

    def encoder(self) -> Encode:
        """Return the function that turns texts into vectors."""
        makers: dict[str, Callable[[Fitted], Encode]] = {"doc2vec": _doc2vec_encoder, "lsa": _lsa_encoder}
        return makers.get(self.name, _tfidf_encoder)(self)


def text_vectors(name: str, train: Sequence[str], texts: Sequence[str], *, dim: int, seed: int, cache: Path) -> Vectors:
    """Turn texts into vectors by a method fitted on the training texts only.

    Every text, a training text too, goes through the same encoder: a document vector that Doc2Vec learnt while it
    was fitted is distributed otherwise than one inferred afterwards, and a method trained on the first kind would
    meet a shifted input at test.

    Args:
        name: ``doc2vec`` (Le and Mikolov 2014, arXiv:1405.4053, bag-of-words form), ``tfidf``, ``lsa`` (singular value
            decomposition of all tf-idf terms) or ``hf:NAME_OR_FOLDER`` (a transformers encoder, mean over the subwords,
            unit length; of a text of several lines the mean over its lines, which such encoders read one at a time).
        train: Texts of the training split; ``hf:`` does not look at them.
        texts: Texts to encode, (n_texts,).
        dim: Width of the vectors; 0 takes 300 for ``doc2vec`` and ``lsa`` and the 2,000 most frequent words for
            ``tfidf``; ``hf:`` has the width of its model.
        seed: Seed of what is random in the fit.
        cache: Folder in which the vectors are kept; equal arguments are computed once.

    Returns:
        Vectors (n_texts, d), memory-mapped.

    Raises:
        UsageError: If the name is unknown.
        DataError: If a text is empty or the encoder cannot be loaded.
    """
    if name not in FITTED and not name.startswith("hf:"):
        raise UsageError(
            f"unknown text vectors '{name}': choose {', '.join(FITTED)} or hf:NAME_OR_FOLDER"
            + did_you_mean(name, FITTED)
        )
    _refuse_empty(texts)
    model = name.removeprefix("hf:")
    fitted = name in FITTED
    if fitted:
        _refuse_empty(train)
        dim = dim or DEFAULT_DIM[name]
    made_by = {"name": name, "dim": dim if fitted else 0, "seed": seed if fitted else 0, "software": _software(name)}
    file = _cache_file(cache, made_by, train if fitted else (), texts, "npy")
    # Processes of one run ask for the same vectors at the same time: one computes, the others wait and read.
    with _alone_at(file):
        kept = _read_vectors(file, len(texts))
        if kept is not None:
            return kept
        encode = fitted_on(name, train, dim=dim, seed=seed, cache=cache).encoder() if fitted else transformer(model)
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
            kept = _fit(name, tuple(train), dim, seed)
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
            "name another folder by CMR_BENCH_CACHE"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _refuse_empty(texts: Sequence[str]) -> None:
    for row, text in enumerate(texts):
        if not text.strip():
            raise DataError(f"text {row} of {len(texts)} is empty (counted from 0); give it words or take it out")


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
        starts = range(0, len(texts), _SHOWN)
        for start in track(starts, title, console=console, transient=True, disable=not console.is_terminal):
            part = np.ascontiguousarray(encode(texts[start : start + _SHOWN]), dtype=np.dtype("<f4"))
            if not shape:
                shape = [len(texts), part.shape[1]]
                header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
                np.lib.format.write_array_header_1_0(stream, header)
            stream.write(part.tobytes())
    # The manifest comes last: without it the array counts as unfinished.
    content = {**made_by, "shape": shape, "dtype": "float32"}
    write_atomic(file.with_suffix(".json"), json.dumps(content, ensure_ascii=False, indent=1))


def _software(name: str) -> str:
    """Version of what computes the vectors, or the state of a local model folder: either changes the values."""
    from importlib.metadata import version

    if name in FITTED:
        package = "gensim" if name == "doc2vec" else "scikit-learn"
        return f"2 {package} {version(package)}"
    folder = Path(name.removeprefix("hf:")).expanduser()
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    return "2 " + " ".join(f"{f.name}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files if f.is_file())


@functools.lru_cache(maxsize=1)
def _fit(name: str, train: tuple[str, ...], dim: int, seed: int) -> Fitted:
    """Fit on the training texts; the last fit is kept, since the splits of a data set are encoded one by one."""
    if name == "doc2vec":
        return _fit_doc2vec(train, dim, seed)
    terms = _tfidf_terms(train, dim if name == "tfidf" else None)
    arrays = {"idf": terms.idf_}
    if name == "lsa":
        from sklearn.decomposition import TruncatedSVD

        weights = terms.transform(train)
        width = max(1, min(dim, min(weights.shape) - 1))
        arrays["components"] = TruncatedSVD(width, random_state=seed).fit(weights).components_
    return Fitted(name, dim, seed, terms.get_feature_names_out().tolist(), arrays)


def _term_weights(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(tokenizer=tokenize, token_pattern=None, lowercase=False, sublinear_tf=True, **options)


def _tfidf_terms(train: Sequence[str], limit: int | None) -> Any:
    try:
        return _term_weights(max_features=limit).fit(train)
    except ValueError as error:
        raise DataError(f"tf-idf finds no words in the {len(train)} training texts: {_first_line(error)}") from error


def _terms_of(fitted: Fitted) -> Any:
    terms = _term_weights(vocabulary=list(fitted.words))
    terms.idf_ = fitted.arrays["idf"]
    return terms


def _tfidf_encoder(fitted: Fitted) -> Encode:
    terms = _terms_of(fitted)
    return lambda texts: np.asarray(terms.transform(texts).toarray(), dtype=np.float32)


def _lsa_encoder(fitted: Fitted) -> Encode:
    terms, components = _terms_of(fitted), fitted.arrays["components"]
    return lambda texts: np.asarray(terms.transform(texts) @ components.T, dtype=np.float32)


def _doc2vec_model(dim: int, seed: int, **options: Any) -> Any:
    from gensim.models import doc2vec

    # Passes and down-sampling as selected on folds of Pascal's training and validation documents, where CCA on these
    # vectors reached an mAP of .58; with 40 passes and 1e-3 it fell to .44. Two workers would update the weights in an
    # order that differs from run to run.
    return doc2vec.Doc2Vec(
        vector_size=dim, dm=0, negative=5, sample=3e-4, epochs=20, workers=1, seed=seed, hashfxn=_stable_hash, **options
    )


def _fit_doc2vec(train: Sequence[str], dim: int, seed: int) -> Fitted:
    from gensim.models import doc2vec

    documents = [doc2vec.TaggedDocument(tokenize(text), [row]) for row, text in enumerate(train)]
    if not any(document.words for document in documents):
        raise DataError(f"doc2vec finds no words in the {len(train)} training texts")
    model = _doc2vec_model(dim, seed, documents=documents, min_count=2 if len(train) > 100 else 1)
    arrays = {"weights": model.syn1neg, "negatives": model.cum_table, "kept": model.wv.expandos["sample_int"]}
    return Fitted("doc2vec", dim, seed, list(model.wv.index_to_key), arrays)


def _doc2vec_encoder(fitted: Fitted) -> Encode:
    from gensim.models import doc2vec

    dim, seed = fitted.dim, fitted.seed
    model = _doc2vec_model(dim, seed)
    model.wv.index_to_key = list(fitted.words)
    model.wv.key_to_index = {word: row for row, word in enumerate(fitted.words)}
    model.wv.expandos["sample_int"] = np.ascontiguousarray(fitted.arrays["kept"])
    model.syn1neg = np.ascontiguousarray(fitted.arrays["weights"])
    model.cum_table = np.ascontiguousarray(fitted.arrays["negatives"])
    # Neither is read while a document vector is inferred, but the compiled code takes their addresses.
    model.wv.vectors, model.wv.vectors_lockf = np.zeros((1, dim), np.float32), np.ones(1, np.float32)

    # Without a buffer of the caller's, the compiled code points to one that is freed before it is used.
    work, unlocked = np.zeros(model.layer1_size, np.float32), np.ones(1, np.float32)

    def infer(text: str) -> Vectors:
        # Doc2Vec.infer_vector starts from hash(text), which Python salts anew in every process.
        words = tokenize(text)
        start = np.random.default_rng([seed, _stable_hash(" ".join(words))]).random(dim)
        vector = ((start - 0.5) / dim).astype(np.float32)[None]
        model.random.seed(seed)
        for alpha in np.linspace(0.025, 1e-4, 100):
            doc2vec.train_document_dbow(
                model,
                words,
                [0],
                float(alpha),
                work=work,
                learn_words=False,
                learn_hidden=False,
                doctag_vectors=vector,
                doctags_lockf=unlocked,
            )
        return np.asarray(vector[0])

    return lambda texts: np.stack([infer(text) for text in texts])


def _stable_hash(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def transformer(name: str) -> Encode:
    """Return the function that turns texts into vectors by a transformers encoder, see :func:`text_vectors`."""
    tokenizer = load_tokenizer(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_text_encoder(name).to(device).eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    @torch.inference_mode()
    def encode_lines(texts: Sequence[str]) -> Tensor:
        # Neighbours in length share a batch, which spares most of the padding.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        parts: list[Tensor] = []
        for start in range(0, len(order), 64):
            batch = tokenizer(
                [texts[row] for row in order[start : start + 64]],
                padding=True,
                truncation=True,
                max_length=min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512)),
                return_tensors="pt",
            ).to(device)
            hidden = model(**batch).last_hidden_state.float()
            real = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * real).sum(1) / real.sum(1)
            parts.append(torch.nn.functional.normalize(mean, dim=1).cpu())
        return torch.cat(parts)[np.argsort(order)]

    def encode(texts: Sequence[str]) -> Vectors:
        lines = [[line for line in text.splitlines() if line.strip()] for text in texts]
        vectors = encode_lines([line for text in lines for line in text])
        means = torch.stack([part.mean(0) for part in vectors.split([len(text) for text in lines])])
        return np.asarray(torch.nn.functional.normalize(means, dim=1).numpy(), dtype=np.float32)

    return encode
