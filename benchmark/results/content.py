"""The content that results, checkpoints and trained runs were made from, as checksums by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def other_content(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the parts in which two records of content differ; what only one of them knows tells nothing.

    Args:
        one: Checksums by part, such as ``train`` or ``test.images``.
        other: The same of another run.
    """
    return [part for part in one if part in other and one[part] != other[part]]


def by_content(contents: Sequence[Mapping[str, str]]) -> list[list[int]]:
    """Share records out to groups that are of the same content, as far as they say.

    A record without any, of an earlier version, belongs to the others where these are all of one content, and stands
    apart where it could belong to several.

    Args:
        contents: Checksums by part of each record.

    Returns:
        Places in ``contents`` by group, in order of the first of each.
    """
    groups: list[tuple[dict[str, str], list[int]]] = []
    silent = [place for place, content in enumerate(contents) if not content]
    for place, content in enumerate(contents):
        if not content:
            continue
        fitting = next((group for group in groups if not other_content(group[0], content)), None)
        if fitting is None:
            groups.append((dict(content), [place]))
        else:
            fitting[0].update(content)
            fitting[1].append(place)
    if silent and len(groups) == 1:
        groups[0][1].extend(silent)
    elif silent:
        groups.append(({}, silent))
    return sorted(sorted(members) for _, members in groups)
