"""All checks of one data set."""

from __future__ import annotations

from cmr_bench.datamodules.doctor.features import check_features
from cmr_bench.datamodules.doctor.findings import LEVELS, Finding
from cmr_bench.datamodules.doctor.items import check_captions, check_counts, check_ids, check_labels
from cmr_bench.datamodules.doctor.leaks import check_leaks
from cmr_bench.datamodules.doctor.photos import check_files, check_photos
from cmr_bench.datamodules.module import RetrievalDataModule
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
        splits = {name: split for name, split in datamodule.read().items() if split.n_images or split.n_texts}
    except CmrBenchError as error:
        return [Finding("error", str(error), 1)]
    found = [
        *check_counts(splits, datamodule.expected_counts()),
        *check_ids(splits),
        *check_captions(splits),
        *check_labels(splits),
        *check_files(datamodule, splits),
        *(check_photos(splits, progress) if decode else ()),
        *check_features(datamodule, splits, thorough=decode),
        *check_leaks(datamodule, splits),
    ]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))
