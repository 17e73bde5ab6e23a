"""Words of validation and test that training does not teach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cmr_bench.datamodules.doctor.findings import Finding
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.texts.words import MANY_UNKNOWN, UNKNOWN, Vocabulary


def check_words(datamodule: RetrievalDataModule, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Count the words of validation and test that the vocabulary of the training captions lacks."""
    train = splits.get("train")
    if train is None or train.captions is None:
        return
    vocabulary = Vocabulary.fit(train.captions, datamodule.min_count, datamodule.word_split)
    for name in ("val", "test"):
        split = splits.get(name)
        if split is None or split.captions is None:
            continue
        texts = [vocabulary.encode(caption, datamodule.max_words) for caption in split.captions]
        n_words = sum(map(len, texts))
        share = sum(ids.count(UNKNOWN) for ids in texts) / max(1, n_words)
        lost = [caption for caption, ids in zip(split.captions, texts, strict=True) if set(ids) == {UNKNOWN}]
        what = (
            f"{name}: {100 * share:.1f} % of the words are not among the {len(vocabulary) - 2:,} that occur "
            f"{datamodule.min_count} times in the training captions"
        )
        if lost:
            what += f"; {len(lost):,} text(s) have no other"
        yield Finding("warning" if share > MANY_UNKNOWN else "info", what, len(lost), tuple(lost[:3]))
