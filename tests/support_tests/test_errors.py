"""Messages of other programs within our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmr_bench.support.errors import brief


@given(st.lists(st.text("ab", min_size=1, max_size=300)))
def test_a_brief_message_is_whole_or_ends_between_words(words: list[str]) -> None:
    found = brief("\n ".join(words))
    whole = " ".join(words)
    assert len(found) <= 204
    if len(whole) <= 200:
        assert found == whole
    else:
        kept = found.removesuffix(" ...")
        assert found != kept
        assert whole.startswith(kept)
        assert kept in {whole[:200], *(" ".join(words[:n]) for n in range(1, len(words)))}


@pytest.mark.parametrize(
    ("text", "expected"), [("", ""), ("cannot\n  open", "cannot open"), ("x" * 201, "x" * 200 + " ...")]
)
def test_brief_messages(text: str, expected: str) -> None:
    assert brief(text) == expected
