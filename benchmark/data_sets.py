"""Short names of data sets, and what their folders hold; importing this imports none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DataSet:
    """A data set of the suite.

    Attributes:
        target: Where the class is, ``module:Class``.
        about: One line.
        parts: What `cmr-bench list` looks for: name of a part -> glob patterns below the data set's folder, of which
            the first that matches counts.
        needs: Parts of which one is enough to read the data set.
        layout: What its folder holds, in one line, for an error.
    """

    target: str
    about: str
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    layout: str = ""


def captioned_layout(file: str) -> str:
    """Return what the folder of a data set holds whose annotations are ``file``, in one line."""
    return f"{file} (or .json.gz) with a folder images/, or train/dev/test_ims.npy with _caps.txt"


def _captioned(names: tuple[str, ...], photos: tuple[str, ...], short: str) -> dict[str, tuple[str, ...]]:
    """Return the parts of a data set in Karpathy's layout or in that of the VSE++/SCAN lineage."""
    files = (*(f"dataset_{name}.json" for name in names), "dataset.json")
    folders = ("", *(f"{name}_precomp/" for name in (short, *names)))
    return {
        "annotations": tuple(f"{file}{end}" for file in files for end in ("", ".gz")),
        "photos": tuple(f"{folder}/*.jpg" for folder in photos),
        "precomputed arrays": tuple(f"{folder}*_ims.npy" for folder in folders),
    }


_ARRAYS = ("*.npz", "*.npy", "*.mat", "*.h5", "*.hdf5", "*.hdf", "*.pt", "*.pth")
TAGGED_LAYOUT = (
    "image features (IAll, images), tag vectors (YAll, tags) and labels (LAll, labels), in one file or several"
)


def _tagged(target: str, about: str) -> DataSet:
    return DataSet(target, about, {"feature files": _ARRAYS}, needs=("feature files",), layout=TAGGED_LAYOUT)


DATASETS: dict[str, DataSet] = {
    "synthetic": DataSet(
        "cmr_bench.datamodules.synthetic.module:Synthetic", "synthetic images with captions, no files needed"
    ),
    "flickr8k": DataSet(
        "cmr_bench.datamodules.flickr8k:Flickr8k",
        "6,000 / 1,000 / 1,000 images, five captions each",
        _captioned(
            ("flickr8k",), ("images", "Images", "flickr8k-images", "Flickr8k_Dataset", "Flicker8k_Dataset"), "f8k"
        ),
        needs=("annotations", "precomputed arrays"),
        layout=captioned_layout("dataset_flickr8k.json"),
    ),
    "flickr30k": DataSet(
        "cmr_bench.datamodules.flickr30k:Flickr30k",
        "29,000 / 1,014 / 1,000 images, five captions each",
        _captioned(("flickr30k",), ("images", "Images", "flickr30k-images", "flickr30k_images"), "f30k"),
        needs=("annotations", "precomputed arrays"),
        layout=captioned_layout("dataset_flickr30k.json"),
    ),
    "mscoco": DataSet(
        "cmr_bench.datamodules.mscoco:MSCOCO",
        "113,287 / 5,000 / 5,000 images, five or more captions each",
        _captioned(("coco", "mscoco"), ("*2014", "images/*2014", "images", "Images"), "coco"),
        needs=("annotations", "precomputed arrays"),
        layout=captioned_layout("dataset_coco.json"),
    ),
    "wikipedia": DataSet(
        "cmr_bench.datamodules.wikipedia:Wikipedia",
        "2,173 / 231 / 462 articles and images, 10 categories",
        {
            "split lists": ("*set_txt_img_cat.list",),
            "feature files": ("*.npz", "*.mat"),
            "texts": ("texts/*.xml",),
            "photos": ("images/*/*.jpg",),
        },
        needs=("split lists",),
        layout="trainset_txt_img_cat.list, testset_txt_img_cat.list, categories.list and feature arrays",
    ),
    "nuswide": _tagged(
        "cmr_bench.datamodules.nuswide:NUSWide",
        "10,500 / 2,000 / 2,000 image features and tag vectors of 186,577, 10 or 21 labels, several an image",
    ),
    "mirflickr": _tagged(
        "cmr_bench.datamodules.mirflickr:MIRFlickr",
        "10,000 / 2,000 / 2,000 image features and tag vectors of 20,015, 24 labels, several an image",
    ),
    "pascal": DataSet(
        "cmr_bench.datamodules.pascal:Pascal",
        "800 / 100 / 100 images, 20 categories",
        {
            "sentences": ("sentence/*/*.txt",),
            "photos": ("dataset/*/*.jpg",),
            "split lists": ("train.txt",),
        },
        needs=("sentences",),
        layout="dataset/<category>/<image>.jpg, sentence/<category>/<image>.txt and, optionally, train.txt, val.txt, "
        "test.txt",
    ),
    "cuhk_pedes": DataSet(
        "cmr_bench.datamodules.cuhk_pedes:CUHKPedes",
        "34,054 / 3,078 / 3,074 photographs of 13,003 people, two captions each, scored by person",
        {"annotations": ("reid_raw.json",), "photo folders": ("imgs/*/",)},
        needs=("annotations",),
        layout="reid_raw.json (caption_all.json has no splits) with the folder imgs/",
    ),
    "recipe1m": DataSet(
        "cmr_bench.datamodules.recipe1m:Recipe1M",
        "238,408 / 51,119 / 51,304 recipes with a photograph, also scored on draws of 1,000 and 10,000",
        {
            "recipes": ("layer1.json",),
            "images of recipes": ("layer2.json",),
            "detected ingredients": ("det_ingrs.json",),
            # every photograph lies four folders deep, in one of 65,536
            "photo folders": ("images/*/", "train/*/"),
        },
        needs=("recipes",),
        layout="layer1.json, layer2.json, det_ingrs.json and images/a/b/c/d/abcd*.jpg",
    ),
    "custom": DataSet(
        "cmr_bench.datamodules.custom:Custom",
        "your own images and captions",
        {
            "table": (
                *(f"*.{end}" for end in ("csv", "tsv", "token", "jsonl", "parquet", "tar", "json", "json.gz")),
                *("captions*.txt", "results*.txt", "*token*.txt"),
            )
        },
        needs=("table",),
        layout="a table of images and captions (CSV, JSONL, Parquet, tar or JSON), or one per split, and the images",
    ),
}
