"""Text vectors: what is fitted on the training texts, and sentence encoders."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmr_bench.datamodules.texts.splitting import tokenize
from cmr_bench.datamodules.views import Origin
from cmr_bench.support import sentences
from cmr_bench.support.errors import DataError, first_line
from cmr_bench.support.hub import load_text_encoder, load_tokenizer

FITTED = ("doc2vec", "tfidf", "lsa")
ENCODERS = ("hf:", sentences.PREFIX)
DEFAULT_DIM = {"doc2vec": 300, "tfidf": 2000, "lsa": 300}
CHUNK = 1024
SHOWN = 256

Vectors = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]


@dataclass(frozen=True)
class Fitted:
    """What a method learned from the training texts: enough to turn any text into the same vector without them.

    Attributes:
        name: doc2vec, tfidf or lsa.
        dim: Width asked for.
        seed: Random seed.
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


@functools.lru_cache(maxsize=1)
def fit(name: str, train: tuple[str, ...], dim: int, seed: int) -> Fitted:
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
        raise DataError(f"tf-idf finds no words in the {len(train)} training texts: {first_line(error)}") from error


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

    return _by_lines(encode_lines)


def _by_lines(encode_lines: Callable[[Sequence[str]], Tensor]) -> Encode:
    """Return the encoder of texts that takes the mean over the lines of each, at unit length."""

    def encode(texts: Sequence[str]) -> Vectors:
        lines = [[line for line in text.splitlines() if line.strip()] for text in texts]
        vectors = encode_lines([line for text in lines for line in text])
        means = torch.stack([part.mean(0) for part in vectors.split([len(text) for text in lines])])
        return np.asarray(torch.nn.functional.normalize(means, dim=1).numpy(), dtype=np.float32)

    return encode


def sentence_transformer(name: str) -> Encode:
    """Return the function that turns texts into vectors by a model of sentence-transformers."""
    model = sentences.load(name)
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    def encode_lines(texts: Sequence[str]) -> Tensor:
        with torch.inference_mode():
            vectors: Tensor = model.encode(list(texts), batch_size=64, convert_to_tensor=True, show_progress_bar=False)
        return vectors.float().cpu()

    return _by_lines(encode_lines)


def pretrained(name: str) -> Encode:
    """Return the function that turns texts into vectors by ``hf:NAME_OR_FOLDER`` or ``st:NAME_OR_FOLDER``."""
    if name.startswith(sentences.PREFIX):
        return sentence_transformer(name)
    return transformer(name.removeprefix("hf:"))
