"""``cmr-bench eval``: evaluate embeddings or a similarity matrix from any source."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmr_bench.support.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cmr_bench.evaluation.brought import Brought
    from cmr_bench.evaluation.protocol import Evaluation
    from cmr_bench.evaluation.qrels import Qrels
    from cmr_bench.evaluation.queries import Queries
    from cmr_bench.evaluation.scoring import Scored

_EXAMPLES = """\
files are NumPy arrays (.npy), read memory-mapped:
  I (n_images, d)   T (n_texts, d)   S (n_images, n_texts), higher is closer; -inf outside of a short list
  M (n_texts,) row of each text's image, or its id   L (n_images,) numbers or names, or multi-hot (n_images, n_classes)
  P (n_images,) numbers or names
  IDS one a line, or an array of numbers or texts

qrels are read by their suffix: .json {id: [ids]}, .csv with the columns image, text and perhaps grade, .npz with
arrays of these names, all else as TREC qrels (query 0 item grade). Ids are those of --image-ids and --text-ids, or row
numbers. `--qrels eccv` and `--qrels cxc` are the judgments of MSCOCO's 5,000 test images in the package eccv_caption,
by COCO's ids. Without --image-of-text nothing but the judgments is scored.

An image without a text stays in the gallery but is no query. Image rows that are repeated once per text are merged.

examples:
  cmr-bench eval --images I.npy --texts T.npy --image-of-text M.npy --folds 5 --json scores.json
  cmr-bench eval --similarity S.npy --image-of-text M.npy --labels L.npy --bootstrap 1000
  cmr-bench eval --similarity S.npy --image-of-text M.npy --name mymodel --data flickr30k
  cmr-bench eval --similarity S.npy --image-of-text M.npy --qrels i2t.json t2i.json
  cmr-bench eval --run runs/flickr8k/vsepp/RUN --export DIR       embeddings or scores of a run, for other programs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``cmr-bench eval``."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    scored = parser.add_argument_group("input: --images with --texts, or --similarity")
    scored.add_argument("--images", type=Path, metavar="I.npy", help="image embeddings, compared by cosine similarity")
    scored.add_argument("--texts", type=Path, metavar="T.npy", help="text embeddings")
    scored.add_argument("--similarity", type=Path, metavar="S.npy", help="similarity matrix, images x texts")
    scored.add_argument("--no-normalize", action="store_true", help="use the inner product instead of the cosine")
    truth = parser.add_argument_group("ground truth")
    truth.add_argument("--image-of-text", type=Path, metavar="M.npy", help="row or id of the image of each text")
    truth.add_argument("--labels", type=Path, metavar="L.npy", help="category labels of the images; reports mAP too")
    truth.add_argument(
        "--identities",
        type=Path,
        metavar="P.npy",
        help="whom each image shows, (n_images,): all of one match; reports mINP too",
    )
    truth.add_argument("--image-ids", type=Path, metavar="IDS", help="image ids that --image-of-text refers to")
    truth.add_argument("--text-ids", type=Path, metavar="IDS", help="text ids that --text-queries refers to")
    truth.add_argument(
        "--qrels",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="relevance judgments beyond the pairs: TREC qrels, JSON, CSV or npz; one file for both directions, or one "
        "for image queries and one for text queries",
    )
    truth.add_argument("--queries", type=Path, metavar="IDS", help="use only these images, and their texts, as queries")
    truth.add_argument("--text-queries", type=Path, metavar="IDS", help="use only these texts as queries")
    _add_protocol(parser.add_argument_group("protocol"))
    stored = parser.add_argument_group("export of a trained run")
    stored.add_argument("--run", type=Path, metavar="RUN", help="run folder, whose test split is encoded again")
    stored.add_argument("--export", type=Path, metavar="DIR", help="write its embeddings or scores there, with ids")
    stored.add_argument("--trust", action="store_true", help="run the code of a FILE.py:Class that the folder names")
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="OUT", help="write all metrics, unrounded, as JSON")
    output.add_argument("--name", help="add the result to the leaderboard under this name; needs --data")
    output.add_argument("--data", help="name of the data set in the leaderboard")
    output.add_argument("--family", default="", help="family of the method in the leaderboard")
    output.add_argument(
        "--flag",
        action="append",
        default=[],
        choices=("ensemble", "uses_test_groups", "unseen_classes"),
        help="flag the result in the leaderboard",
    )
    output.add_argument("--runs", type=Path, default=Path("runs"), help="folder of results (default: %(default)s)")


def _add_protocol(protocol: argparse._ArgumentGroup) -> None:
    protocol.add_argument(
        "--folds", type=int, metavar="N", help="also report the mean over N folds in file order (COCO: 5)"
    )
    protocol.add_argument(
        "--subsets",
        metavar="NxSIZE",
        help="also report the mean over N draws of SIZE random pairs (Recipe1M: 10x1000,10x10000)",
    )
    protocol.add_argument(
        "--bootstrap", type=int, metavar="N", default=0, help="confidence intervals from N bootstrap resamples"
    )
    protocol.add_argument(
        "--postprocess",
        choices=("csls", "inverted_softmax", "mtfn_rr", "mtfn_rr_groups"),
        help="correction of hubs or re-ranking; transductive",
    )
    protocol.add_argument("--seed", type=int, default=0, help="random seed of the bootstrap (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Score the files that ``args`` name, print a table, write and store what is asked for.

    Raises:
        UsageError: for options that do not go together.
        DataError: for files that are missing or malformed.
    """
    _check_options(args)
    if args.run is not None:
        return _export(args)
    from cmr_bench.evaluation.protocol import Protocol
    from cmr_bench.evaluation.scoring import score
    from cmr_bench.evaluation.subsets import read_subsets

    protocol = Protocol(
        folds=args.folds,
        subsets=read_subsets(args.subsets),
        bootstrap=args.bootstrap,
        instance=args.image_of_text is not None,
        postprocess=args.postprocess,
        seed=args.seed,
    )
    brought = _bring(args)
    scored = score(
        brought,
        protocol,
        normalize=not args.no_normalize,
        qrels=args.qrels or (),
        chosen=_chosen(args, brought),
        name=str(args.similarity),
    )
    result = scored.result
    result.flags = (*result.flags, *args.flag)
    told = list(scored.notes)
    # What is written comes first: a terminal may not be able to show a table.
    if args.json is not None:
        from cmr_bench.support.files import write_atomic

        write_atomic(args.json, json.dumps(report(result), indent=2, allow_nan=False) + "\n")
        told.append(f"written: {args.json}")
    if args.name is not None:
        told.append(f"stored: {_store(args, scored)}")
    _show(result)
    for line in told:
        print(line)
    return 0


def _export(args: argparse.Namespace) -> int:
    from cmr_bench.search.export import export

    words = export(args.run, args.export, trust=args.trust)
    print(f"written: {args.export}\nscore it with: {shlex.join(words)}")
    return 0


def _bring(args: argparse.Namespace) -> Brought:
    import numpy as np

    from cmr_bench.evaluation import brought as given
    from cmr_bench.evaluation.scoring import prepared

    matrix = args.similarity is not None
    found = given.Brought(
        images=given.read_array(*((args.similarity, "--similarity") if matrix else (args.images, "--images"))),
        texts=None if matrix else given.read_array(args.texts, "--texts"),
        image_of_text=np.zeros(0, dtype=np.int64)
        if args.image_of_text is None
        else given.read_array(args.image_of_text, "--image-of-text", "biufUS"),
    )
    if args.image_ids is not None:
        found = replace(found, image_ids=given.read_names(args.image_ids, "--image-ids"))
    if args.text_ids is not None:
        found = replace(found, text_ids=given.read_names(args.text_ids, "--text-ids"))
    if args.labels is not None:
        found = replace(found, labels=given.read_array(args.labels, "--labels", "biufUS"))
    if args.identities is not None:
        found = replace(found, identity=given.read_array(args.identities, "--identities", "biufUS"))
    return prepared(found, args.image_of_text is not None)


def report(result: Evaluation) -> dict[str, Any]:
    """Return what ``--json`` writes: the metrics by name, and what they mean."""
    return {
        **result.metrics,
        "n_images": result.n_images,
        "n_texts": result.n_texts,
        "queries": {"i2t": result.n_queries[0], "t2i": result.n_queries[1]},
        "tie_rate": result.tie_rate,
        "flags": list(result.flags),
        "protocol": _protocol(result),
        "units": result.units,
        "intervals": {key: list(interval) for key, interval in result.intervals.items()},
        "curves": result.curves,
    }


def _chosen(args: argparse.Namespace, brought: Brought) -> dict[str, NDArray[np.bool_]]:
    from cmr_bench.evaluation.brought import asked, read_names

    found = {}
    if args.queries is not None:
        names = read_names(args.queries, "--queries")
        found["images"] = asked(names, brought.image_ids, len(brought.images), "image", "--queries")
    if args.text_queries is not None:
        names = read_names(args.text_queries, "--text-queries")
        found["texts"] = asked(names, brought.text_ids, brought.n_texts, "text", "--text-queries")
    return found


def _check_options(args: argparse.Namespace) -> None:
    if args.run is not None or args.export is not None:
        given = [name for name in ("images", "texts", "similarity", "image_of_text", "name") if getattr(args, name)]
        if args.run is None or args.export is None or given:
            raise UsageError("--run RUN and --export DIR need each other, and take no other input")
        return
    if args.image_of_text is None:
        if args.qrels is None:
            raise UsageError("--image-of-text M.npy is missing: the row of each text's image")
        needing = ("labels", "identities", "queries", "text_queries", "folds", "subsets", "postprocess", "name")
        given = [f"--{name.replace('_', '-')}" for name in needing if getattr(args, name) is not None]
        if given:
            raise UsageError(f"{given[0]} needs --image-of-text M.npy, the row of each text's image")
    embeddings = (args.images is not None) + (args.texts is not None)
    if embeddings == 1:
        raise UsageError("--images and --texts must be passed together")
    if (embeddings == 2) == (args.similarity is not None):
        raise UsageError("pass either --images and --texts, or --similarity")
    if args.no_normalize and args.similarity is not None:
        raise UsageError("--no-normalize needs --images and --texts; a similarity matrix is never normalised")
    if args.name is not None and not args.data:
        raise UsageError("--name needs --data: the data set of the result in the leaderboard")
    if args.name is None and args.data:
        raise UsageError("--data needs --name: the name of the result in the leaderboard")
    if args.name is not None and not args.name.strip():
        raise UsageError("--name is empty")
    if args.qrels is not None and len(args.qrels) > 2:
        raise UsageError(f"--qrels takes one file, or one for each direction, not {len(args.qrels)}")
    if args.data and (Path(args.data).name != args.data or args.data in (".", "..")):
        raise UsageError(f"--data takes the short name of a data set, such as flickr30k, not '{args.data}'")


def _protocol(result: Evaluation) -> dict[str, Any]:
    protocol = result.protocol
    return {
        **result.record(),
        "confidence": protocol.confidence,
        "ties": "R@K and precision are expectations over all orders of tied items; MedR and MeanR take the mid-rank",
    }


def _store(args: argparse.Namespace, scored: Scored) -> Path:
    from cmr_bench.evaluation.judgments import named
    from cmr_bench.results.store import store_external

    result = scored.result
    protocol = _protocol(result)
    if args.qrels is not None:
        protocol["definitions"] = named(protocol["definitions"], args.qrels)
    return store_external(
        runs=args.runs,
        name=args.name,
        data=args.data,
        metrics=result.metrics,
        units=result.units,
        protocol=protocol,
        split_sizes={"test": [result.n_images, result.n_texts]},
        fingerprint=_fingerprint(scored.brought, scored.queries, scored.judged),
        intervals=result.intervals,
        tie_rate=result.tie_rate,
        flags=result.flags,
        family=args.family,
    )


def _fingerprint(brought: Brought, who: Queries | None, judged: Mapping[str, Qrels]) -> str:
    """Digest what is known of the split: which texts belong to which image, labels, identities, who asks, judgments."""
    import numpy as np

    digest = hashlib.sha256(np.asarray(brought.image_of_text, dtype="<i8").tobytes())
    if brought.labels is not None:
        digest.update(np.asarray(brought.labels, dtype="<i8").tobytes())
    if brought.identity is not None:
        digest.update(b"identity" + np.asarray(brought.identity, dtype="<i8").tobytes())
    if who is not None:
        digest.update(who.images.tobytes() + who.texts.tobytes())
    for way, given in judged.items():
        digest.update(way.encode() + np.stack([given.queries, given.items]).astype("<i8").tobytes())
    return f"links:{digest.hexdigest()[:16]}"


_ROWS = {
    "R@1": "r1",
    "R@5": "r5",
    "R@10": "r10",
    "MedR": "medr",
    "MeanR": "meanr",
    "mR": "mr",
    "rsum": "rsum",
    "mAP": "map",
    "mAP@50 retrieved": "map_at_50_retrieved",
    "mAP@R": "map_at_r",
    "R-Precision": "r_precision",
    "nDCG@10": "ndcg_at_10",
    "mINP": "minp",
}
_COLUMNS = {"i2t_": "image to text", "t2i_": "text to image", "": "both"}


def _show(result: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result.n_images:,} images, {result.n_texts:,} texts", caption=_caption(result))
    table.add_column("")
    for words in _COLUMNS.values():
        table.add_column(words, justify="right", overflow="fold")
    folds = result.protocol.folds
    shown = [("", ""), (f"fold{folds}_", f"{folds} folds: ")]
    shown += [(each.prefix, f"{each.count} x {each.size:,}: ") for each in result.protocol.subsets]
    for protocol, words in (*shown, ("identity_", "identity: "), ("qrels_", "qrels: ")):
        for title, name in _ROWS.items():
            cells = [_cell(result, protocol + direction + name) for direction in _COLUMNS]
            if any(cells):
                table.add_row(words + title, *cells)
        table.add_section()
    Console().print(table)


def _cell(result: Evaluation, key: str) -> str:
    if key not in result.metrics:
        return ""
    form = ".3f" if result.units[key] == "fraction" else ".1f"
    low_high = result.intervals.get(key)
    bounds = "" if low_high is None else f" ({low_high[0]:{form}}–{low_high[1]:{form}})"
    return f"{result.metrics[key]:{form}}{bounds}"


def _caption(result: Evaluation) -> str:
    parts = [f"{100 * result.tie_rate:.3g} % of queries tied"]
    parts += [f"{count} {way} queries have no relevant item" for way, count in result.excluded.items() if count]
    return "; ".join([*parts, *result.flags])
