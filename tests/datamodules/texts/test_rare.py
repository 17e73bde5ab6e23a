from __future__ import annotations

import pytest

from cmr_bench.datamodules.texts.rare import rare_texts

TRAIN = ["a dog, a cat", "a dog's ball", "A DOG"]


@pytest.mark.parametrize(
    ("below", "rare"), [(0, [0, 0, 0, 0]), (1, [0, 1, 0, 0]), (2, [0, 1, 1, 0]), (3, [1, 1, 1, 0]), (5, [1, 1, 1, 0])]
)
def test_texts_with_a_word_seen_too_seldom(below: int, rare: list[int]) -> None:
    # "dog" was seen twice, "dog's" is a word of its own; a text of signs has no word that could be rare.
    found = rare_texts(TRAIN, ["A dog!", "a bird", "dog and cat".replace("and", "a"), "?!"], below)
    assert found.astype(int).tolist() == rare
