"""Short names of methods and data sets; importing this imports none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from cmr_bench.support.errors import UsageError, did_you_mean
from cmr_bench.support.loading import checksums as checksums
from cmr_bench.support.loading import is_own as is_own
from cmr_bench.support.loading import load as _load
from cmr_bench.support.loading import resume_command as resume_command
from cmr_bench.support.loading import trust as trust

if TYPE_CHECKING:
    from cmr_bench.datamodules.module import RetrievalDataModule
    from cmr_bench.models.base import RetrievalModule

Base = TypeVar("Base")
FAMILIES = ("pairwise", "adversarial", "interaction", "attributes", "subspace")


@dataclass(frozen=True)
class Method:
    """A method of the suite.

    Attributes:
        target: Where the class is, ``module:Class``.
        family: Family of the survey, one of :data:`FAMILIES`.
        paper: The paper, as one would cite it in a table.
        views: Image views, then text views that it reads, ``a|b, c``, for `cmr-bench list`.
        labels: Whether it uses category labels: ignored, optional or required.
    """

    target: str
    family: str
    paper: str
    views: str
    labels: str = "ignored"


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


def _captioned_layout(file: str) -> str:
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
_TAGGED_LAYOUT = (
    "image features (IAll, images), tag vectors (YAll, tags) and labels (LAll, labels), in one file or several"
)

METHODS: dict[str, Method] = {
    "vsepp": Method(
        "cmr_bench.models.pairwise.vsepp:VSEPP",
        "pairwise",
        "Faghri et al., BMVC 2018",
        "vector|regions|pixels, tokens",
    ),
    "cmpm": Method(
        "cmr_bench.models.pairwise.cmpm:CMPM",
        "pairwise",
        "Zhang and Lu, ECCV 2018",
        "vector|regions|pixels, tokens|vector",
        labels="optional",
    ),
    "cmpm_cmpc": Method(
        "cmr_bench.models.pairwise.cmpm:CMPMCMPC",
        "pairwise",
        "Zhang and Lu, ECCV 2018",
        "vector|regions|pixels, tokens|vector",
        labels="optional",
    ),
    "dscmr": Method(
        "cmr_bench.models.pairwise.dscmr:DSCMR",
        "pairwise",
        "Zhen et al., CVPR 2019",
        "vector|regions|pixels, vector|tokens",
        labels="optional",
    ),
    "drsl": Method(
        "cmr_bench.models.pairwise.drsl:DRSL",
        "pairwise",
        "Wang et al., Inf. Sci. 2021",
        "vector|regions|pixels, vector|tokens",
        labels="optional",
    ),
    "knn_margin": Method(
        "cmr_bench.models.pairwise.knn_margin:KNNMargin",
        "pairwise",
        "Liu and Ye, ACL workshop 2019",
        "vector|regions|pixels, tokens",
    ),
    "nan": Method("cmr_bench.models.pairwise.nan:NAN", "pairwise", "Liu et al., ICASSP 2019", "regions|pixels, tokens"),
    "dprcm": Method(
        "cmr_bench.models.pairwise.dprcm:DPRCM",
        "pairwise",
        "Jian et al., ICME 2019",
        "vector|regions|pixels, vector|tokens",
        labels="optional",
    ),
    "clip": Method(
        "cmr_bench.models.pairwise.clip:CLIP",
        "pairwise",
        "Radford et al., ICML 2021; SigLIP: Zhai et al., ICCV 2023",
        "pixels, subwords",
    ),
    "adv_subspace": Method(
        "cmr_bench.models.adversarial.adv_subspace:AdvSubspace",
        "adversarial",
        "Ma et al., JAIMLD 2023",
        "vector|regions|pixels, vector|tokens",
        labels="optional",
    ),
    "acmr": Method(
        "cmr_bench.models.adversarial.acmr:ACMR",
        "adversarial",
        "Wang et al., ACM MM 2017",
        "vector|regions|pixels, vector|tokens",
        labels="optional",
    ),
    "timam": Method(
        "cmr_bench.models.adversarial.timam:TIMAM",
        "adversarial",
        "Sarafianos et al., ICCV 2019",
        "vector|regions|pixels, subwords|tokens|vector",
        labels="optional",
    ),
    "a_ganet": Method(
        "cmr_bench.models.adversarial.a_ganet:AGANet",
        "adversarial",
        "Liu et al., ACM MM 2019",
        "regions|pixels, tokens",
        labels="optional",
    ),
    "can": Method(
        "cmr_bench.models.adversarial.can:CAN",
        "adversarial",
        "Hu et al., Pattern Recognit. 2021",
        "vector|regions|pixels, vector|tokens",
        labels="required",
    ),
    "daml": Method(
        "cmr_bench.models.adversarial.daml:DAML",
        "adversarial",
        "Xu et al., World Wide Web 2019",
        "vector|regions|pixels, vector|tokens",
        labels="optional",
    ),
    "acme": Method(
        "cmr_bench.models.adversarial.acme:ACME",
        "adversarial",
        "Wang et al., CVPR 2019",
        "vector|regions|pixels, vector|tokens",
        labels="optional",
    ),
    "agnet": Method(
        "cmr_bench.models.attributes.agnet:AgNet",
        "attributes",
        "Ji et al., TNNLS 2020",
        "vector|regions|pixels, vector|tokens",
        labels="optional",
    ),
    "gvse": Method(
        "cmr_bench.models.attributes.gvse:GVSE", "attributes", "Huang et al., AAAI 2019", "regions|pixels, tokens"
    ),
    "acmm": Method(
        "cmr_bench.models.attributes.acmm:ACMM", "attributes", "Huang and Wang, ICCV 2019", "regions|pixels, tokens"
    ),
    "scan": Method(
        "cmr_bench.models.interaction.scan:SCAN", "interaction", "Lee et al., ECCV 2018", "regions|pixels, tokens"
    ),
    "bfan": Method(
        "cmr_bench.models.interaction.bfan:BFAN", "interaction", "Liu et al., ACM MM 2019", "regions|pixels, tokens"
    ),
    "pfan": Method(
        "cmr_bench.models.interaction.pfan:PFAN", "interaction", "Wang et al., IJCAI 2019", "regions|pixels, tokens"
    ),
    "saem": Method(
        "cmr_bench.models.interaction.saem:SAEM",
        "interaction",
        "Wu et al., ACM MM 2019",
        "regions|pixels, subwords|tokens",
    ),
    "mfm": Method(
        "cmr_bench.models.interaction.mfm:MFM", "interaction", "Ma et al., TCSVT 2019", "regions|pixels, tokens"
    ),
    "mtfn_rr": Method(
        "cmr_bench.models.interaction.mtfn_rr:MTFNRR",
        "interaction",
        "Wang et al., ACM MM 2019",
        "vector|regions|pixels, tokens|vector",
    ),
    "camp": Method(
        "cmr_bench.models.interaction.camp:CAMP", "interaction", "Wang et al., ICCV 2019", "regions|pixels, tokens"
    ),
    "mcitr": Method(
        "cmr_bench.models.interaction.mcitr:MCITR", "interaction", "Luo et al., CIKM 2019", "vector|regions, vector"
    ),
    "cca": Method(
        "cmr_bench.models.subspace.cca:CCA", "subspace", "Hotelling, Biometrika 1936", "vector|regions, vector"
    ),
    "kcca": Method(
        "cmr_bench.models.subspace.kcca:KCCA",
        "subspace",
        "Akaho, IMPS 2001; Hardoon et al., Neural Comput. 2004",
        "vector|regions, vector",
    ),
    "gma": Method(
        "cmr_bench.models.subspace.gma:GMA",
        "subspace",
        "Sharma et al., CVPR 2012",
        "vector|regions, vector",
        labels="optional",
    ),
    "lcfs": Method(
        "cmr_bench.models.subspace.lcfs:LCFS",
        "subspace",
        "Wang et al., ICCV 2013",
        "vector|regions, vector",
        labels="required",
    ),
    "jrl": Method(
        "cmr_bench.models.subspace.jrl:JRL",
        "subspace",
        "Zhai et al., TCSVT 2014",
        "vector|regions, vector",
        labels="required",
    ),
    "dcca": Method(
        "cmr_bench.models.subspace.dcca:DCCA",
        "subspace",
        "Andrew et al., ICML 2013",
        "vector|regions|pixels, vector|tokens",
    ),
    "dccae": Method(
        "cmr_bench.models.subspace.dccae:DCCAE",
        "subspace",
        "Wang et al., ICML 2015",
        "vector|regions, vector",
    ),
    "s2mc": Method(
        "cmr_bench.models.subspace.s2mc:S2MC",
        "subspace",
        "Li et al., ICIP 2020",
        "vector|regions|pixels, vector|tokens",
        labels="optional",
    ),
}

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
        layout=_captioned_layout("dataset_flickr8k.json"),
    ),
    "flickr30k": DataSet(
        "cmr_bench.datamodules.flickr30k:Flickr30k",
        "29,000 / 1,014 / 1,000 images, five captions each",
        _captioned(("flickr30k",), ("images", "Images", "flickr30k-images", "flickr30k_images"), "f30k"),
        needs=("annotations", "precomputed arrays"),
        layout=_captioned_layout("dataset_flickr30k.json"),
    ),
    "mscoco": DataSet(
        "cmr_bench.datamodules.mscoco:MSCOCO",
        "113,287 / 5,000 / 5,000 images, five or more captions each",
        _captioned(("coco", "mscoco"), ("*2014", "images/*2014", "images", "Images"), "coco"),
        needs=("annotations", "precomputed arrays"),
        layout=_captioned_layout("dataset_coco.json"),
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
    "nuswide": DataSet(
        "cmr_bench.datamodules.nuswide:NUSWide",
        "10,500 / 2,000 / 2,000 image features and tag vectors of 186,577, 10 or 21 labels, several an image",
        {"feature files": _ARRAYS},
        needs=("feature files",),
        layout=_TAGGED_LAYOUT,
    ),
    "mirflickr": DataSet(
        "cmr_bench.datamodules.mirflickr:MIRFlickr",
        "10,000 / 2,000 / 2,000 image features and tag vectors of 20,015, 24 labels, several an image",
        {"feature files": _ARRAYS},
        needs=("feature files",),
        layout=_TAGGED_LAYOUT,
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


def _checked(name: str, found: type, base: type[Base]) -> type[Base]:
    if not issubclass(found, base):
        raise UsageError(f"{name} is not a {base.__name__}: inherit from {base.__module__}.{base.__name__}")
    return found


def method_entry(name: str) -> Method:
    """Return the registry entry of a method, made up for a user's own ``FILE.py:Class``."""
    if name in METHODS:
        return METHODS[name]
    if ":" in name:
        return Method(name, "own", "", "")
    raise UsageError(f"unknown method '{name}'.{did_you_mean(name, METHODS)} See `cmr-bench list`")


def method(name: str) -> type[RetrievalModule]:
    """Import the class of a method by short name, ``module:Class`` or ``FILE.py:Class``."""
    found = _load(method_entry(name).target)
    return _checked(name, found, _load("cmr_bench.models.base:RetrievalModule"))


def dataset(name: str) -> type[RetrievalDataModule]:
    """Import the class of a data set by short name, ``module:Class`` or ``FILE.py:Class``."""
    if name not in DATASETS and ":" not in name:
        raise UsageError(f"unknown data set '{name}'.{did_you_mean(name, DATASETS)} See `cmr-bench list`")
    found = _load(DATASETS[name].target if name in DATASETS else name)
    return _checked(name, found, _load("cmr_bench.datamodules.module:RetrievalDataModule"))


def family(name: str) -> str:
    """Return the family of a method; a user's own class may say it as class attribute ``family``."""
    entry = method_entry(name)
    return str(getattr(_load(entry.target), "family", entry.family)) if entry.family == "own" else entry.family
