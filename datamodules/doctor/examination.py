"""All checks of one data set."""

from __future__ import annotations

from collections.abc import Mapping

from cmr_bench.datamodules.doctor.ceilings import NO_TWINS, check_ceilings
from cmr_bench.datamodules.doctor.features import check_features
from cmr_bench.datamodules.doctor.findings import LEVELS, Finding
from cmr_bench.datamodules.doctor.items import check_captions, check_counts, check_identities, check_ids, check_labels
from cmr_bench.datamodules.doctor.leaks import check_leaks
from cmr_bench.datamodules.doctor.needs import check_needs
from cmr_bench.datamodules.doctor.photos import check_files, check_photos
from cmr_bench.datamodules.doctor.words import check_words
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.readers.report import InvalidRowsError
from cmr_bench.datamodules.split import Split
from cmr_bench.support.errors import CmrBenchError


def check(datamodule: RetrievalDataModule, decode: bool = True, progress: bool = False) -> list[Finding]:
    """Examine a data set.

    Args:
        datamodule: The data set; nothing is trained or written.
        decode: Decode every photograph and compare their contents; only look for the files otherwise.
        progress: Show a progress bar on the terminal while photographs are decoded.

    Returns:
        What was found, errors first.
    """
    try:
        content, said = _read(datamodule)
    except CmrBenchError as error:
        return [Finding("error", str(error), 1)]
    if not content and any(finding.level == "error" for finding in said):
        return said
    splits = {name: split for name, split in content.items() if split.n_images or split.n_texts}
    twins, photos = check_photos(splits, progress) if decode else (NO_TWINS, [])
    found = [
        *said,
        *check_counts(splits, datamodule.expected_counts()),
        *check_ids(splits),
        *check_identities(splits, datamodule.expected_identities),
        *check_captions(splits),
        *check_ceilings(splits, twins),
        *check_words(datamodule, splits),
        *check_labels(splits),
        *check_files(datamodule, splits),
        *photos,
        *check_features(datamodule, splits, thorough=decode),
        *check_leaks(datamodule, splits),
        *check_needs(datamodule, splits),
    ]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _read(datamodule: RetrievalDataModule) -> tuple[Mapping[str, Split], list[Finding]]:
    """Read the splits, and what reading has to say; where rows cannot be read, the rest is examined all the same."""
    try:
        splits = datamodule.read()
        wrong = datamodule.report.problems
        return splits, [
            Finding("error", line, 1) if line in wrong else Finding("info", line) for line in datamodule.report.lines()
        ]
    except InvalidRowsError as error:
        what = f"{error.count:,} row(s) cannot be read; correct them, or pass --data.skip_invalid true to skip them"
        found = [Finding("error", what, error.count, error.rows)]
    chosen, datamodule.skip_invalid = datamodule.skip_invalid, True
    try:
        splits = datamodule.read()
    except CmrBenchError:
        return {}, found
    finally:
        datamodule.skip_invalid = chosen
    return splits, [*found, *(Finding("info", note) for note in datamodule.report.notes)]
