"""Words, vocabularies, text views and text vectors."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cmr_bench.datamodules.texts import fitting, splitting, vectors, words
from cmr_bench.datamodules.texts.splitting import tokenize
from cmr_bench.datamodules.views import Origin
from cmr_bench.support.errors import DataError, UsageError

CAPTIONS = ["A dog's ball, two-tone.", "a DOG runs", "the cat sits on a mat", "Ünïcode words – 12 of them"]


@pytest.mark.parametrize(
    ("given_text", "words"),
    [
        ("A dog\u2019s ball.", ["a", "dog's", "ball"]),
        ("'quoted' t-shirt snake_case", ["quoted", "t", "shirt", "snake", "case"]),
        ("caf\u0065\u0301 CAF\u00c9", ["caf\u00e9", "caf\u00e9"]),
        ("rock 'n' roll 4x4!", ["rock", "n", "roll", "4x4"]),
        ("...", []),
        ("一只狗 在跑。", ["一", "只", "狗", "在", "跑"]),
        ("犬がラーメンを〇", ["犬", "が", "ラ", "ー", "メ", "ン", "を", "〇"]),
        ("T恤 2只", ["t", "恤", "2", "只"]),
        ("एक कुत्ता पानी में", ["एक", "कुत्ता", "पानी", "में"]),
        ("কুকুর দৌড়ায়", ["কুকুর", "দৌড়ায়"]),
        ("நாய் ஓடுகிறது", ["நாய்", "ஓடுகிறது"]),
        ("หมาวิ่ง", ["ห", "ม", "า", "วิ่", "ง"]),
        ("ສຸນັກ", ["ສຸ", "ນັ", "ກ"]),
        ("ឆ្កែ", ["ឆ្", "កែ"]),
        ("ခွေး", ["ခွေး"]),
        ("할머니가 개와", ["할머니가", "개와"]),
        ("می\u200cخواهم کتاب", ["می\u200cخواهم", "کتاب"]),
        ("1\ufe0f\u20e3 dog \u2764\ufe0f", ["1", "dog"]),
        ("dog\u200dcat", ["dog", "cat"]),
    ],
)
def test_tokenize(given_text: str, words: list[str]) -> None:
    assert tokenize(given_text) == [unicodedata.normalize("NFKC", word) for word in words]


def test_treebank_takes_scripts_without_blanks_apart_too() -> None:
    assert splitting.treebank("A 狗's ball, एक कुत्ता.") == ["a", "狗", "'s", "ball", ",", "एक", "कुत्ता", "."]


LATIN = st.characters(min_codepoint=32, max_codepoint=0x24F, categories=["L", "N", "P", "S", "Z"])


@given(st.text(LATIN | st.sampled_from(list("aabc '’-_,.éäßñ½²№")), max_size=60))
def test_european_words_are_runs_of_letters_and_digits(raw: str) -> None:
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", raw).lower()).replace("\u2019", "'")
    assume(not any(unicodedata.category(sign).startswith("M") for sign in plain))
    assert tokenize(raw) == re.findall(r"[^\W_]+(?:'[^\W_]+)*", plain)


SYLLABLE = st.builds(str.__add__, st.sampled_from("कखनदமবไทย中かラa1"), st.text(st.sampled_from("ि्ंุิா่้"), max_size=2))


@given(st.lists(SYLLABLE | st.just(" "), max_size=12).map("".join))
def test_no_letter_and_no_mark_is_lost(raw: str) -> None:
    assert "".join(tokenize(raw)) == unicodedata.normalize("NFKC", raw).replace(" ", "")


def test_share_of_unknown_words() -> None:
    vocabulary = words.Vocabulary.fit(["a dog runs"], 1)
    assert words.TokenView(["a cat", "a dog runs far", "?"], vocabulary, 8).unknown_share == pytest.approx(3 / 7)
    assert words.TokenView(["a dog runs far far far"], vocabulary, 3).unknown_share == 0
    with_signs = words.Vocabulary.fit(["a dog runs"], 1, start_end=True)
    assert words.TokenView(["a cat", "a dog runs far", "?"], with_signs, 8).unknown_share == pytest.approx(3 / 7)


@pytest.mark.parametrize(
    ("given_text", "words"),
    [
        ("A dog's ball, two-tone.", "a dog 's ball , two-tone ."),
        ("He doesn\u2019t like 1,000 dogs: they can't sit.", "he does n't like 1,000 dogs : they ca n't sit ."),
        ('A sign says "stop" (in red)!', "a sign says `` stop '' ( in red ) !"),
        ("A man runs. He is at 5 p.m. in the U.S.", "a man runs . he is at 5 p.m. in the u.s ."),
        ("dogs' bowls -- they're gonna eat...", "dogs ' bowls -- they 're gon na eat ..."),
        ("I cannot, i'll & he'd #1 50% @home", "i can not , i 'll & he 'd # 1 50 % @ home"),
        ("snake_case caf\u0065\u0301", "snake_case caf\u00e9"),
        ("?!", "? !"),
    ],
)
def test_treebank(given_text: str, words: str) -> None:
    assert " ".join(splitting.treebank(given_text)) == words


@given(st.text(max_size=60))
def test_treebank_loses_no_sign_but_blanks(raw: str) -> None:
    assert all(word and not any(sign.isspace() for sign in word) for word in splitting.treebank(raw))
    kept = "".join(splitting.treebank(raw)).replace("``", '"').replace("''", '"')
    plain = "".join(splitting._plain(raw).split()).replace("\u201c", '"').replace("\u201d", '"').replace("\u2018", "'")
    assert kept.replace("''", '"') == plain.replace("``", '"').replace("''", '"')


@given(st.text(max_size=60))
def test_words_survive_a_second_tokenisation(raw: str) -> None:
    words = tokenize(raw)
    assert all(words)
    assert tokenize(" ".join(words)) == words


def test_vocabulary_keeps_frequent_words_in_a_fixed_order() -> None:
    vocabulary = words.Vocabulary.fit(["b a a", "b c", "d"], 1)
    assert vocabulary.words == ["a", "b", "c", "d"]
    assert words.Vocabulary.fit(["c b", "b a a"], 2).words == ["a", "b"]
    assert len(vocabulary) == 6
    assert vocabulary.encode("B x a", 10) == [3, 1, 2]
    assert vocabulary.encode("a b c d", 2) == [2, 3]
    assert vocabulary.encode("?!", 2) == [words.UNKNOWN]


def test_start_and_end_go_around_a_cut_text() -> None:
    vocabulary = words.Vocabulary.fit(["a dog.", "a cat"], 1, "treebank", start_end=True)
    assert vocabulary.words == [splitting.START, splitting.END, "a", ".", "cat", "dog"]
    assert vocabulary.encode("a dog .", 2) == [2, 4, 7, 3]
    assert vocabulary.encode("<start>", 9) == [2, words.UNKNOWN, words.UNKNOWN, words.UNKNOWN, 3]
    view = words.TokenView(["a dog .", "a"], vocabulary, 2)
    assert view.spec.shape == (4,)
    assert words.Vocabulary.of(view.origin().settings) == vocabulary
    assert words.Vocabulary.of({"words": ["a"]}) == words.Vocabulary(["a"])


@pytest.mark.parametrize("options", [{}, {"split": "treebank", "start_end": True}])
def test_vocabulary_file(tmp_path: Path, options: dict[str, Any]) -> None:
    vocabulary = words.Vocabulary.fit(CAPTIONS, 1, **options)
    vocabulary.save(tmp_path / "words.json")
    assert words.Vocabulary.load(tmp_path / "words.json") == vocabulary
    assert [f.name for f in tmp_path.iterdir()] == ["words.json"]
    (tmp_path / "words.json").write_text("{}")
    with pytest.raises(DataError, match=r"no vocabulary in .*words\.json"):
        words.Vocabulary.load(tmp_path / "words.json")


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=8), st.data())
def test_padding_against_a_loop(sequences: list[list[int]], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(sequences) - 1), min_size=1, max_size=6))
    ids, lengths = words._Ragged(sequences).padded(np.asarray(rows), 0)
    width = max(len(sequences[row]) for row in rows)
    assert ids.tolist() == [sequences[row] + [0] * (width - len(sequences[row])) for row in rows]
    assert lengths.tolist() == [len(sequences[row]) for row in rows]


def test_token_view() -> None:
    vocabulary = words.Vocabulary.fit(CAPTIONS[:2], 1)
    view = words.TokenView(["a dog", "never seen words here", "a dog runs"], vocabulary, 3)
    assert (view.spec.kind, view.spec.shape, view.spec.vocab_size) == ("tokens", (3,), len(vocabulary))
    batch = view.fetch(np.array([1, 0]))
    assert batch["lengths"].tolist() == [3, 2]
    assert batch["tokens"][0].tolist() == [words.UNKNOWN] * 3
    assert batch["tokens"][1, 2] == words.PAD
    with pytest.raises(DataError, match="text 1 of 2 is empty"):
        words.TokenView(["a", " \n"], vocabulary, 3)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory, write_bert: Callable[..., Path]) -> Path:
    """A tiny BERT with random weights and a word tokenizer, saved as a folder."""
    return write_bert(tmp_path_factory.mktemp("bert"), ["a", "dog", "runs", "the", "cat", "sits", "on", "mat"])


def test_subword_view(bert: Path) -> None:
    view = words.SubwordView(["a dog runs", "the cat"], str(bert), 4)
    assert view.spec.shape == (4,)
    assert view.spec.vocab_size == 13
    batch = view.fetch(np.array([1, 0]))
    assert batch["input_ids"].tolist()[0] == [2, 8, 9, 3]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    longer = words.SubwordView(["a dog runs", "the"], str(bert), 64).fetch(np.array([0, 1]))
    assert longer["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_subwords_beyond_what_the_model_reads_are_cut(tmp_path: Path, write_bert: Callable[..., Path]) -> None:
    folder = write_bert(tmp_path, ["a", "dog"])
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 5}))
    assert words.SubwordView(["a dog a dog a dog"], str(folder), 64).spec.shape == (5,)


@pytest.mark.parametrize("name", ["./nowhere", ""])
def test_tokenizer_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(DataError, match="no such folder"):
        words.SubwordView(["a"], name, 4)


def test_name_on_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def no_address(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    for key in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(DataError, match="no tokenizer 'cmr-bench/none': pass a name on the Hugging Face Hub") as caught:
        words.SubwordView(["a"], "cmr-bench/none", 4)
    assert "\n" not in str(caught.value)


def test_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="save_pretrained") as caught:
        words.SubwordView(["a"], str(tmp_path), 4)
    assert "\n" not in str(caught.value)


def _vectors(name: str, tmp_path: Path, texts: list[str] = CAPTIONS, dim: int = 8, seed: int = 0) -> np.ndarray:
    return vectors.text_vectors(name, CAPTIONS, texts, dim=dim, seed=seed, cache=tmp_path)


@pytest.mark.parametrize("name", fitting.FITTED)
def test_vectors_do_not_depend_on_the_other_texts(name: str, tmp_path: Path) -> None:
    whole = _vectors(name, tmp_path)
    part = _vectors(name, tmp_path, [CAPTIONS[2], "words never seen", "a dog runs"])
    assert whole.dtype == np.float32
    assert np.isfinite(part).all()
    np.testing.assert_allclose(part[0], whole[2], atol=1e-6)
    assert np.abs(whole[0] - whole[2]).max() > 1e-3


def test_doc2vec_does_not_start_from_a_salted_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gensim.models import doc2vec

    monkeypatch.setattr(doc2vec, "pseudorandom_weak_vector", lambda *_, **__: pytest.fail("differs between processes"))
    first = np.array(_vectors("doc2vec", tmp_path / "a", seed=2))
    fitting.fit.cache_clear()
    np.testing.assert_allclose(_vectors("doc2vec", tmp_path / "b", seed=2), first, atol=1e-5)


@pytest.mark.slow
def test_doc2vec_is_the_same_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys, json, pathlib; from cmr_bench.datamodules.texts import vectors; c = json.loads(sys.argv[1]);"
        "print(vectors.text_vectors('doc2vec', c, c, dim=8, seed=3, cache=pathlib.Path(sys.argv[2])).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(CAPTIONS), str(tmp_path / "there")],
        env={"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    there = json.loads(done.stdout.splitlines()[-1])
    # BLAS sums in another order where an array happens to lie otherwise in memory: equal but for the last bits.
    np.testing.assert_allclose(there, _vectors("doc2vec", tmp_path, seed=3), atol=1e-5)
    assert not np.allclose(there, _vectors("doc2vec", tmp_path, seed=4))


def test_tfidf_against_the_definition(tmp_path: Path) -> None:
    train = ["a a b", "a c", "c c c c d"]
    got = vectors.text_vectors("tfidf", train, ["a b b", "zzz"], dim=3, seed=0, cache=tmp_path)
    # The three most frequent words: c (5), a (3), then b before d.
    idf = {w: np.log((1 + 3) / (1 + df)) + 1 for w, df in {"a": 2, "b": 1, "c": 2}.items()}
    expected = np.array([idf["a"], (1 + np.log(2)) * idf["b"], 0])
    np.testing.assert_allclose(got[0], expected / np.linalg.norm(expected), rtol=1e-5)
    assert not got[1].any()


def test_vectors_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = np.array(_vectors("tfidf", tmp_path))
    monkeypatch.setattr(vectors, "fit", lambda *_: pytest.fail("fitted again"))
    again = _vectors("tfidf", tmp_path)
    assert isinstance(again, np.memmap)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(_vectors("tfidf", tmp_path, texts=CAPTIONS[:2]), first[:2])
    for change in ({"dim": 9}, {"seed": 1}):
        with pytest.raises(pytest.fail.Exception):
            _vectors("tfidf", tmp_path, **change)


@pytest.mark.parametrize("name", fitting.FITTED)
def test_a_stored_fit_gives_the_same_vectors(name: str, tmp_path: Path) -> None:
    view = vectors.vector_view(name, CAPTIONS, CAPTIONS, dim=8, seed=1, cache=tmp_path)
    origin = Origin.from_bytes(view.origin().to_bytes())
    texts = ["a dog runs", "words never seen", CAPTIONS[0]]
    again = fitting.Fitted.of(origin).encoder()(texts)
    np.testing.assert_allclose(again, _vectors(name, tmp_path, texts, seed=1), atol=1e-6)


def test_vectors_of_a_cache_without_the_fit_are_fitted_again(tmp_path: Path) -> None:
    _vectors("tfidf", tmp_path)
    (fit,) = (tmp_path / "text").glob("*.fit.safetensors")
    before = vectors.read_fit(fit)
    assert before is not None
    fit.write_bytes(b"not a fit")
    fitting.fit.cache_clear()
    assert vectors.fitted_on("tfidf", CAPTIONS, dim=8, seed=0, cache=tmp_path).dim == 8
    again = vectors.read_fit(fit)
    assert again is not None
    assert again.words == before.words
    np.testing.assert_array_equal(again.arrays["idf"], before.arrays["idf"])
    fit.unlink()
    assert vectors.vector_view("tfidf", CAPTIONS, CAPTIONS, dim=8, seed=0, cache=tmp_path).origin() is not None


@pytest.mark.parametrize("damage", ["cut", "text", "manifest", "gone"])
def test_damaged_cache_is_computed_again(damage: str, tmp_path: Path) -> None:
    first = np.array(_vectors("tfidf", tmp_path))
    (array,) = (tmp_path / "text").glob("*.npy")
    if damage == "cut":
        array.write_bytes(array.read_bytes()[:-40])
    elif damage == "text":
        array.write_text("not an array")
    elif damage == "manifest":
        array.with_suffix(".json").write_text("[]")
    else:
        array.unlink()
    np.testing.assert_array_equal(_vectors("tfidf", tmp_path), first)
    assert not list(tmp_path.rglob("*.tmp"))


def test_transformer_vectors(bert: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["the cat sits on a mat", "a dog", "dog " * 40]
    got = vectors.text_vectors(f"hf:{bert}", [], texts, dim=0, seed=0, cache=tmp_path)
    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModel.from_pretrained(bert).eval()
    for row, one in enumerate(texts):
        ids = torch.tensor([tokenizer(one, truncation=True, max_length=12)["input_ids"]])
        with torch.no_grad():
            mean = model(ids).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(got[row], (mean / mean.norm()).numpy(), atol=1e-5)


def test_transformer_reads_the_lines_of_a_document_one_by_one(bert: Path, tmp_path: Path) -> None:
    lines = ["the cat sits on a mat", "a dog", "dog " * 40]
    alone = vectors.text_vectors(f"hf:{bert}", [], lines, dim=0, seed=0, cache=tmp_path)
    documents = [f"{lines[2]}\n\n{lines[0]}", lines[1], "\n".join(lines)]
    got = vectors.text_vectors(f"hf:{bert}", [], documents, dim=0, seed=0, cache=tmp_path)
    for row, members in enumerate(([2, 0], [1], [0, 1, 2])):
        mean = alone[members].mean(0)
        np.testing.assert_allclose(got[row], mean / np.linalg.norm(mean), atol=1e-5)


def test_folder_without_weights(bert: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bert, copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(DataError, match="no text encoder") as caught:
        vectors.text_vectors(f"hf:{copy}", [], CAPTIONS, dim=0, seed=0, cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_unknown_name_and_empty_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'doc2vec'"):
        _vectors("doc2vce", tmp_path)
    with pytest.raises(DataError, match="text 1 of 2 is empty"):
        _vectors("tfidf", tmp_path, ["a", ""])
    with pytest.raises(DataError, match="no words"):
        vectors.text_vectors("tfidf", ["?"], ["a"], dim=0, seed=0, cache=tmp_path)
