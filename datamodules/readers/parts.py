"""Names of splits, as the field writes them in files and in the names of files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from cmr_bench.datamodules.split import SPLITS
from cmr_bench.support.errors import DataError, UsageError, did_you_mean

_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    "restval": "restval",
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def part_named(text: str) -> str | None:
    """Return train, restval, val or test for a split as it is written anywhere in the field; None for other names."""
    return _NAMES.get(text.strip().casefold())


def part_of_file(path: Path) -> str | None:
    """Return the split that the name of a file says, such as ``coco_karpathy_train.json``, else that of its folder.

    Args:
        path: The file, relative to the folder of the data set.

    Returns:
        train, restval, val or test; None where none or more than one is named.
    """
    for name in reversed(path.parts):
        found = {part for word in _WORD.findall(name) if (part := part_named(word)) is not None}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


class Parts:
    """Which split the images of a file belong to.

    Args:
        chosen: For train, val and test the names in the file, several joined by ``+``; others keep their usual names.
        restval: Whether Karpathy's ``restval`` belongs to the training split.
        option: Whether the user can choose names by ``--data.splits``, for messages.

    Attributes:
        skipped: Number of skipped images per name.
    """

    def __init__(self, chosen: Mapping[str, str] | None = None, restval: bool = True, option: bool = False) -> None:
        self.restval, self.option = restval, option
        self.skipped: Counter[str] = Counter()
        self._ours: dict[str, str] = {}
        self._chosen = dict(chosen or {})
        for ours, names in self._chosen.items():
            if ours not in SPLITS:
                raise UsageError(f"--data.splits: '{ours}' is none of {', '.join(SPLITS)}.{did_you_mean(ours, SPLITS)}")
            for name in str(names).split("+"):
                self._ours[name.strip().casefold()] = ours

    def split_of(self, name: str, count: bool = True) -> str | None:
        """Return train, val or test for the name of a split in a file; None if it is skipped, and count that."""
        ours = self._ours.get(name.strip().casefold())
        if ours is None:
            usual = part_named(name)
            if usual == "restval" and not self.restval:
                return None
            ours = "train" if usual == "restval" else usual
            if ours in self._chosen:
                ours = None
        if ours is None and count:
            self.skipped[name] += 1
        return ours

    def lines(self, source: str) -> list[str]:
        """Say which images are skipped, one line per name."""
        advice = "; pass --data.splits '{test: %s}' to use them as test" if self.option else ""
        return [
            f"{source}: {count:,} image(s) of split {name!r} skipped{advice % name if advice else ''}"
            for name, count in sorted(self.skipped.items())
        ]

    def require_some(self, n_images: int, source: str) -> None:
        """Raise DataError where every image is of a split with another name."""
        if n_images == 0 and self.skipped:
            names = ", ".join(f"{name!r} ({count:,})" for name, count in self.skipped.most_common(5))
            how = ""
            if self.option:
                how = "; pass --data.splits '{train: NAME, val: NAME, test: NAME}'"
            raise DataError(f"{source}: no split is called {', '.join(SPLITS)} or the like, only {names}{how}")
