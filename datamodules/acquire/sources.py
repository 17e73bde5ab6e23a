"""Where the data sets are to be had, under which terms, and whom to ask for what may not be downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
_FLICKR = "the photographs belong to their authors on Flickr: non-commercial research and education only"

_HASHING = (
    "The pairs with tag vectors and labels come with programs of hashing, see "
    "https://github.com/jiangqy/DCMH-CVPR2017. Wanted are image features, tag vectors and labels in the same "
    "order; of files with pixels make features first"
)


@dataclass(frozen=True)
class Archive:
    """A zip file that its host offers to everybody.

    Attributes:
        part: What is in it, ``annotations`` or ``photos``.
        url: Its address.
        terms: Under which terms, in a line.
        members: Folders or files of the archive that are unpacked, and what they are called here; empty unpacks all of
            it as it is.
        checksum: ``md5:...`` or ``sha256:...``; empty where the host publishes none, and then what comes first is
            remembered.
        size: About how many bytes it has, for the user to know.
    """

    part: str
    url: str
    terms: str
    members: Mapping[str, str] = field(default_factory=dict)
    checksum: str = ""
    size: int = 0


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        archives: What can be downloaded.
        ask: What cannot, and whom to ask for it; empty where everything can.
    """

    archives: tuple[Archive, ...] = ()
    ask: str = ""


def _karpathy(member: str) -> Archive:
    return Archive(
        "annotations",
        _KARPATHY,
        "sentences and splits as Karpathy and Fei-Fei (CVPR 2015) distribute them, for research",
        {member: member},
        size=36_700_000,
    )


SOURCES: dict[str, Source] = {
    "flickr8k": Source(
        (_karpathy("dataset_flickr8k.json"),),
        "the photographs are sent to those who fill in the form of the authors (Hodosh, Young and Hockenmaier), "
        f"https://forms.illinois.edu/sec/1713398; {_FLICKR}. Unpack Flickr8k_Dataset.zip beside the JSON",
    ),
    "flickr30k": Source(
        (_karpathy("dataset_flickr30k.json"),),
        "the photographs are sent to those who fill in the form of the authors (Young, Lai, Hodosh and Hockenmaier), "
        f"https://shannon.cs.illinois.edu/DenotationGraph/; {_FLICKR}. Unpack flickr30k-images.tar.gz beside the JSON",
    ),
    "mscoco": Source(
        (
            _karpathy("dataset_coco.json"),
            *(
                Archive(
                    "photos",
                    f"http://images.cocodataset.org/zips/{name}.zip",
                    "COCO: annotations CC BY 4.0, photographs under Flickr's terms, cocodataset.org/#termsofuse",
                    checksum=checksum,
                    size=size,
                )
                for name, checksum, size in (
                    ("train2014", "md5:0da8c0bd3d6becc4dcb32757491aca88", 13_510_573_713),
                    ("val2014", "md5:a3d79f5ed8d289b7a7554ce06a5782b3", 6_645_013_297),
                )
            ),
        )
    ),
    "wikipedia": Source(
        (
            Archive(
                "annotations",
                "http://www.svcl.ucsd.edu/projects/crossmodal/wikipedia_dataset.zip",
                "articles of Wikipedia (CC BY-SA) and pictures of Wikimedia Commons under their own terms",
                {"wikipedia_dataset/": ""},
            ),
        )
    ),
    "nuswide": Source(
        ask="the authors' page (Chua, Tang, Hong, Li, Luo and Zheng, 2009), https://lms.comp.nus.edu.sg/wp-content/"
        "uploads/2019/research/nuswide/NUS-WIDE.html, has tags, concepts and low-level features, and the photographs "
        f"for those who sign its agreement; {_FLICKR}. {_HASHING}",
    ),
    "mirflickr": Source(
        ask="the authors' page (Huiskes and Lew, 2008), http://press.liacs.nl/mirflickr/, has photographs, tags and "
        "annotations; the photographs are under Creative Commons licences, named in files beside them, and their "
        f"photographers are to be credited. {_HASHING}",
    ),
    "pascal": Source(
        ask="UIUC Pascal Sentence is on the page of its authors (Rashtchian, Young, Hodosh and Hockenmaier, 2010), "
        "http://vision.cs.uiuc.edu/pascal-sentences/, or ask the group of Julia Hockenmaier at Illinois; the "
        "photographs are those of PASCAL VOC 2008 under Flickr's terms. Wanted are dataset/<category>/<image>.jpg and "
        "sentence/<category>/<image>.txt",
    ),
    "cuhk_pedes": Source(
        ask="CUHK-PEDES is sent by its authors (Li, Xiao, Li, Zhou, Yue and Wang, CVPR 2017) to those who ask by "
        "e-mail, https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description; it shows people in "
        "public places: for academic research only. Wanted are reid_raw.json and imgs/",
    ),
    "recipe1m": Source(
        ask="Recipe1M is given to those who fill in the form of its authors (Salvador et al., CVPR 2017), "
        "http://im2recipe.csail.mit.edu; recipes and photographs belong to the cooking sites they come from: for "
        "research only. Wanted are layer1.json, layer2.json, det_ingrs.json and the images; remove1M.txt comes with "
        "https://github.com/torralba-lab/im2recipe-Pytorch, and train.txt, val.txt and test.txt are in the data of "
        "https://github.com/amzn/image-to-recipe-transformers",
    ),
}
