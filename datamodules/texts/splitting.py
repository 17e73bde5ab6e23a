"""How a text becomes words: two ways to split, and the signs of its start and end."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

WordSplit = Literal["words", "treebank"]
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
START, END = "<start>", "<end>"
# What the Penn Treebank sets apart, in the order in which it is looked for.
_APART = tuple(
    (re.compile(pattern), put)
    for pattern, put in (
        (r"(^|(?<=[\s(\[{<]))\"", " `` "),
        (r"\"", " '' "),
        (r"\.\.\.", " ... "),
        (r"[,:](?!\d)", r" \g<0> "),
        (r"[;@#$%&?!\[\](){}<>]", r" \g<0> "),
        (r"--", " -- "),
        (r"(?<!\.)\.(?=[\s'\])}>]*$)|(?<=[^\W_]{2})\.(?=\s)", " . "),
        (r"(?<=[^\W_])('(?:s|m|d|ll|re|ve)|n't)(?![^\W_])", r" \1 "),
        (r"(?<=[^'\s])'(?=\s|$)", " ' "),
        (r"\b(can)(not)\b|\b(gim|lem)(me)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b", r" \1\3\5\7 \2\4\6\8 "),
    )
)


def _plain(text: str) -> str:
    lower = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return lower.replace("\u2019", "'")


def tokenize(text: str) -> list[str]:
    """Split a text into lower-case words.

    A word is a run of letters and digits of any script; apostrophes inside it stay (``dog's``), every other sign,
    the hyphen and the underscore included, separates words. Compatibility forms are unified first (Unicode NFKC,
    curly apostrophes become straight), so the same sentence typed in two ways gives the same words.
    """
    return _WORD.findall(_plain(text))


def treebank(text: str) -> list[str]:
    """Split a text into lower-case words and punctuation, nearly as the Penn Treebank does.

    Punctuation marks are words of their own, contractions are taken apart (``dog's`` gives ``dog`` and ``'s``) and
    hyphens stay inside a word. The programs of VSE++ and SCAN split this way by NLTK, which also finds the ends of
    sentences inside a text by a trained model; here a full stop after two letters and before a space ends one.
    """
    plain = _plain(text).replace("\u201c", '"').replace("\u201d", '"').replace("\u2018", "'")
    for pattern, put in _APART:
        plain = pattern.sub(put, plain)
    return plain.split()


SPLITS: dict[WordSplit, Callable[[str], list[str]]] = {"words": tokenize, "treebank": treebank}
