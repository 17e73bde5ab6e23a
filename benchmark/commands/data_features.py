"""`cmr-bench data features`: extract image features of a data set by a pretrained encoder."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from pathlib import Path

from cmr_bench import registry
from cmr_bench.support.devices import choose_device
from cmr_bench.support.errors import UsageError

_EPILOG = """\
examples:
  cmr-bench data features flickr8k --data.root DIR --encoder timm:tf_efficientnet_lite0 --weights FILE
  cmr-bench data features pascal --data.root DIR --encoder torchvision:vgg19 --layer fc7
  cmr-bench data features flickr30k --data.root DIR --encoder hf:openai/clip-vit-base-patch32 --layer grid

The data set's options are those of `cmr-bench run`: --data.root DIR, --data.file FILE.
Repeat an interrupted command to resume it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench data features`."""
    parser.epilog = _EPILOG
    parser.add_argument("data", metavar="DATA", help="name of a data set from `cmr-bench list`")
    parser.add_argument(
        "--root", metavar="DIR", help="folder that contains one folder per data set (default: $CMR_BENCH_DATA)"
    )
    parser.add_argument(
        "--encoder",
        required=True,
        metavar="NAME",
        help="timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER or open_clip:NAME/PRETRAINED",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="local safetensors or .pth file, or 'random' (default: download the library's pretrained weights)",
    )
    parser.add_argument(
        "--layer", choices=("fc7", "pool", "grid"), help="layer of the features (default: fc7 of VGG, else pool)"
    )
    parser.add_argument(
        "--name", metavar="NAME", help="name of the features (default: MODEL-LAYER, with -SIZE where one is given)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: NAME in the user's cache)")
    parser.add_argument(
        "--size", type=int, default=0, metavar="PIXELS", help="input size in pixels (default: the encoder's)"
    )
    parser.add_argument(
        "--resize",
        choices=("squash", "crop"),
        default="squash",
        help="resize to a square ignoring the aspect ratio, or resize and centre-crop (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        help="data type of the stored array (default: float16 for grid, else float32)",
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="batch size (default: %(default)s)")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="number of decoding threads (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: a GPU if available)")
    parser.add_argument("--skip-missing", action="store_true", help="skip images that are missing or cannot be decoded")
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing features in the folder")


def run(args: argparse.Namespace) -> int:
    """Extract the features and print how to use them."""
    if args.root is not None:
        args.data_options = [f"--data.root={args.root}", *args.data_options]
    for option in ("batch_size", "workers"):
        if getattr(args, option) < 1:
            raise UsageError(f"--{option.replace('_', '-')} must be at least 1")
    if args.size < 0:
        raise UsageError("--size must not be negative")
    # Imported here, not above: help and wrong usage must not wait for torch.
    from cmr_bench.experiment import recipe

    registry.trust(args.data)
    module = recipe.data_module(args.data, args.data_options)
    import torch

    from cmr_bench.datamodules.images import backbones, extract

    device = choose_device(args.device)
    name = args.name or backbones.store_name(args.encoder, args.layer, args.size)
    splits = module.read()
    torch.manual_seed(0)  # for --weights random, so that a resumed extraction uses the same network
    encoder = backbones.load_backbone(args.encoder, args.weights, args.layer)
    folder = args.out or module.cache() / "features" / name
    options = extract.Extraction(
        size=args.size,
        resize=args.resize,
        dtype=args.dtype,
        batch_size=args.batch_size,
        workers=args.workers,
        device=device,
        skip_missing=args.skip_missing,
        overwrite=args.overwrite,
    )
    start = time.monotonic()
    store = extract.extract(encoder, module.data_name, splits, folder, options, resume_command(args))
    left_out = f", {len(store.manifest.skipped)} images skipped" if store.manifest.skipped else ""
    print(
        f"{folder}: {len(store.manifest.ids)} images{left_out}, {store.array.dtype} {store.array.shape}, "
        f"{time.monotonic() - start:.0f} s\nuse with --data.image_features {args.out or name}"
    )
    return 0


def resume_command(args: argparse.Namespace) -> str:
    """Return the command line that resumes an interrupted extraction."""
    words = ["cmr-bench", "data", "features", args.data, *args.data_options, "--encoder", args.encoder]
    for option in ("weights", "layer", "name", "out", "dtype"):
        if getattr(args, option) is not None:
            words += [f"--{option}", str(getattr(args, option))]
    for option, default in (("size", 0), ("resize", "squash")):
        if getattr(args, option) != default:
            words += [f"--{option}", str(getattr(args, option))]
    return shlex.join([*words, *(["--skip-missing"] if args.skip_missing else [])])
