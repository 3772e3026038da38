"""`keras-resnet pack SOURCE OUT`: a data set as record files that `records:OUT` reads."""

import argparse
import json
from collections.abc import Sequence

from keras_resnet.choices import BAD_IMAGES
from keras_resnet.cli import script


def build_parser() -> script.Parser:
    """Returns the parser."""
    parser = script.Parser(
        prog="keras-resnet pack",
        description="Writes a data set as TFRecord files with an index and a manifest, for disks and networks on which "
        "many small files are slow. Interrupted, the same command goes on. Train with --dataset records:OUT.",
    )
    parser.add_argument("source", metavar="SOURCE", help="data set, as train.py --dataset takes it: folder:PATH, …")
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument("--shards", type=script.positive_int, default=16, metavar="N", help="files of each split")
    parser.add_argument("--data-dir", metavar="FOLDER", help="where TensorFlow Datasets keeps its data")
    parser.add_argument("--bad-images", choices=BAD_IMAGES, default="stop", help="unreadable images")
    parser.add_argument("--seed", type=int, default=0, help="seed of drawn images")
    parser.add_argument("--rescan", action="store_true", help="check every file of a folder anew")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Packs and returns the exit code."""
    return script.run(_pack, build_parser(), argv)


def _pack(arguments: argparse.Namespace) -> None:
    script.check_data_set(arguments.source)

    from keras_resnet.data.folder import forget_scan
    from keras_resnet.data.sources import load_source
    from keras_resnet.packing import pack
    from keras_resnet.progress import ProgressBar

    if arguments.rescan:
        forget_scan(arguments.source)
    data = load_source(
        arguments.source, data_dir=arguments.data_dir, seed=arguments.seed, bad_images=arguments.bad_images
    )
    counts = {split: len(getattr(data, split)) for split in ("train", "validation", "test")}
    progress = ProgressBar()
    progress.begin("packing", sum(counts.values()))
    manifest = pack(data, arguments.out, shards=arguments.shards, step=progress.step)
    progress.end()
    if arguments.json:
        print(json.dumps({"manifest": str(manifest), "images": counts, "fingerprint": data.fingerprint}))
    else:
        print(f"{sum(counts.values()):,} images. Train with --dataset records:{arguments.out}")
