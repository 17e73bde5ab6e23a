"""Records of content: which say that they differ, and which may stand together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cmr_bench.results.content import by_content, other_content

CONTENTS = st.dictionaries(st.sampled_from(["train", "test.images", "model.bert"]), st.sampled_from(["a", "b"]))


@given(CONTENTS, CONTENTS)
def test_only_what_both_know_can_differ(one: dict[str, str], other: dict[str, str]) -> None:
    differing = {part for part in one.keys() & other.keys() if one[part] != other[part]}
    assert set(other_content(one, other)) == set(other_content(other, one)) == differing


@given(st.lists(CONTENTS, max_size=8))
def test_groups_contradict_themselves_nowhere(contents: list[dict[str, str]]) -> None:
    groups = by_content(contents)
    assert sorted(place for group in groups for place in group) == list(range(len(contents)))
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)
    for group in groups:
        for one in group:
            assert not any(other_content(contents[one], contents[other]) for other in group)
    for one in range(len(contents)):
        for other in range(one):
            if contents[one] == contents[other]:
                assert any({one, other} <= set(group) for group in groups)


def test_a_record_that_says_nothing_joins_only_what_is_beyond_doubt() -> None:
    a, b, nothing = {"train": "a"}, {"train": "b"}, dict[str, str]()
    assert by_content([nothing, a, a]) == [[0, 1, 2]]
    assert by_content([a, nothing, b, nothing]) == [[0], [1, 3], [2]]
    assert by_content([nothing, nothing]) == [[0, 1]]
