"""The page of the data sets: layout, counts, where they are to be had, under which terms."""

from __future__ import annotations

from html import escape

from cmr_bench import registry
from cmr_bench.datamodules.acquire.sources import SOURCES

_KARPATHY = "splits and captions, by Karpathy; also .json.gz"
_TAGGED = """Row k of every array is one pair. One file may hold all arrays; `X_tr` with `X_te` give the test split.
Test pairs are the queries of the literature; training pairs are drawn from the rest as there, and validation pairs,
which papers do not have, from what is left: by `--data.split_seed`, or named by `--data.indices`. Relevant is what
shares a label.

**Not the protocol of the papers:** test images and texts are ranked among each other, 2,000 against 2,000. Papers
search the retrieval set, all pairs but the queries, so mAP here does not compare with theirs."""


def _tagged_tree(name: str, pairs: str, tags: str, labels: str) -> str:
    return (
        f"{name}/\n    IAll.npy                   image features, ({pairs}, d); also I, images, img\n"
        f"    YAll.npy                   tag vectors, ({pairs}, {tags}); also T, tags, txt\n"
        f"    LAll.npy                   0 and 1, ({pairs}, {labels}); also L, labels\n"
        "    or one .mat, .npz or .h5 with arrays of these names"
    )


TREES = {
    "flickr8k": f"flickr8k/\n    dataset_flickr8k.json      {_KARPATHY}\n    images/*.jpg",
    "flickr30k": f"flickr30k/\n    dataset_flickr30k.json     {_KARPATHY}\n    images/*.jpg",
    "mscoco": f"mscoco/\n    dataset_coco.json          {_KARPATHY}\n"
    "    train2014/*.jpg  val2014/*.jpg      or train2017/ and val2017/",
    "wikipedia": "wikipedia/\n    trainset_txt_img_cat.list  testset_txt_img_cat.list  categories.list\n"
    "    raw_features.mat           or other arrays, .npz, .mat, .npy\n    texts/*.xml  images/*/*.jpg",
    "pascal": "pascal/\n    dataset/<category>/*.jpg\n    sentence/<category>/*.txt  five sentences a file\n"
    "    train.txt  val.txt  test.txt        optional",
    "cuhk_pedes": "cuhk_pedes/\n    reid_raw.json              list of {split, captions, file_path, id of the person}\n"
    "    imgs/cam_a/*.png  imgs/CUHK01/*.png  …",
    "recipe1m": "recipe1m/\n"
    "    layer1.json                list of {id, title, ingredients, instructions, partition, url}\n"
    "    layer2.json                list of {id, images: [{id, url}]}\n"
    "    det_ingrs.json             list of {id, ingredients, valid}\n"
    "    images/0/f/a/8/0fa8*.jpg   or images/train/0/f/a/8/, train/0/f/a/8/\n"
    "    remove1M.txt               optional: recipes that the authors' program leaves out\n"
    "    train.txt  val.txt  test.txt   optional: ids of the recipes to use, in place of the filter",
    "nuswide": _tagged_tree("nuswide", "186577", "1000", "10") + "\n    with 21 labels: 195,834 pairs",
    "mirflickr": _tagged_tree("mirflickr", "20015", "1386", "24"),
    "custom": "mydata/\n    captions.csv               image,caption and perhaps split, label\n    photos/*.jpg",
    "synthetic": "nothing: images and captions are drawn from a seed",
}
NOTES = dict.fromkeys(("nuswide", "mirflickr"), _TAGGED)
_HEAD = """# Data sets

A folder with one folder per data set is passed as `--data.root DIR` or named once by `CMR_BENCH_DATA`. `cmr-bench list`
shows what is found, `cmr-bench data check NAME` what is missing, corrupt, doubled or leaking, `cmr-bench data get NAME`
downloads what its host offers to everybody. Layouts of your own: [your data](data.md)."""


def page() -> str:
    """Return the page."""
    return "\n\n".join([_HEAD, *map(_section, registry.DATASETS)]) + "\n"


def _section(name: str) -> str:
    entry = registry.DATASETS[name]
    parts = [
        f"## {name}\n\n{entry.about[0].upper()}{entry.about[1:]}.",
        f"```text\n{TREES.get(name, entry.layout)}\n```",
    ]
    counts = registry.dataset(name).expected
    if counts:
        rows = [f"| {part} | {' | '.join(f'{n:,}' for n in sizes)} |" for part, sizes in counts.items()]
        columns = max(len(sizes) for sizes in counts.values())
        head = "| split | images | texts |" if columns > 1 else "| split | images |"
        parts.append("\n".join([head, "| --- |" + " ---: |" * columns, *rows]))
    identities = registry.dataset(name).expected_identities
    if identities:
        parts.append(
            "Identities: " + ", ".join(f"{n:,} in {part}" for part, n in identities.items()) + "; none is in two."
        )
    if name in NOTES:
        parts.append(NOTES[name])
    source = SOURCES.get(name)
    if source is not None:
        lines = [f"- {archive.part}: <{archive.url}>; {escape(archive.terms)}" for archive in source.archives]
        parts.append("\n".join(["Where to get it:", "", *lines, *([f"- {escape(source.ask)}"] if source.ask else [])]))
    return "\n\n".join(parts)
