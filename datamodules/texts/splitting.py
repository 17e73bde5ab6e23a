"""How a text becomes words: two ways to split, and the signs of its start and end."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

import regex

WordSplit = Literal["words", "treebank"]
_ASCII_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
# Scripts written without blanks between words. Their prolonged-sound and iteration marks are common to several scripts,
# so that Script_Extensions has to be asked for Chinese and Japanese.
_UNSPACED = r"[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
# Variation selectors only choose a glyph, as for emoji.
_MARK = r"[[\p{Mn}\p{Mc}]--[\uFE00-\uFE0F\U000E0100-\U000E01EF]]"
# Joiners shape letters of Indic and Arabic words; elsewhere they glue pictures together.
_JOINER = r"(?<=[[\p{L}\p{Mn}\p{Mc}]--[\p{Latin}\p{Greek}\p{Cyrillic}]])[\u200C\u200D](?=\p{L})"
_SPACED = rf"[[\p{{L}}\p{{N}}]--{_UNSPACED}]"
_RUN = rf"{_SPACED}(?:{_SPACED}|{_MARK}|{_JOINER})*+"
_CHARACTER = regex.compile(rf"[[\p{{L}}\p{{N}}]&&{_UNSPACED}]{_MARK}*+", regex.VERSION1)
_WORD = regex.compile(rf"{_CHARACTER.pattern}|{_RUN}(?:'{_RUN})*+", regex.VERSION1)
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

    A word is a run of letters and digits of any script with their combining marks, such as the vowel signs of Hindi and
    Tamil; apostrophes inside it stay (``dog's``), every other sign, the hyphen and the underscore included, separates
    words. Chinese, Japanese, Thai, Lao, Khmer and Burmese have no blanks between words: each of their characters, with
    its marks, is a word, as in BERT's tokenizer for Chinese. Compatibility forms are unified first (Unicode NFKC, curly
    apostrophes become straight), so the same sentence typed in two ways gives the same words.
    """
    plain = _plain(text)
    if plain.isascii():
        return _ASCII_WORD.findall(plain)
    words: list[str] = _WORD.findall(plain)
    return words


def treebank(text: str) -> list[str]:
    """Split a text into lower-case words and punctuation, nearly as the Penn Treebank does.

    Punctuation marks are words of their own, contractions are taken apart (``dog's`` gives ``dog`` and ``'s``) and
    hyphens stay inside a word; each character of a script without blanks is a word. The programs of VSE++ and SCAN use
    NLTK, which also finds the ends of sentences inside a text by a trained model; here a full stop after two letters
    and before a space ends one.
    """
    plain = _plain(text).replace("\u201c", '"').replace("\u201d", '"').replace("\u2018", "'")
    for pattern, put in _APART:
        plain = pattern.sub(put, plain)
    return (plain if plain.isascii() else _CHARACTER.sub(r" \g<0> ", plain)).split()


SPLITS: dict[WordSplit, Callable[[str], list[str]]] = {"words": tokenize, "treebank": treebank}
