"""Short names of methods and data sets; importing this imports none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cmr_bench.data_sets import DATASETS as DATASETS
from cmr_bench.data_sets import DataSet as DataSet
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
