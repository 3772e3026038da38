"""`benchmark.py WHAT`: how many images per second, measured on the spot."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from keras_resnet import provenance
from keras_resnet.cli import script
from keras_resnet.errors import UserError
from keras_resnet.models.registry import get_config
from keras_resnet.progress import ProgressBar
from keras_resnet.storage import append_row

VERBS = {
    "input": ("keras_resnet.cli.benchmark:benchmark_input", "the input pipeline beside the training step"),
    "train": ("keras_resnet.cli.benchmark:benchmark_train", "training beside the same network in plain Keras"),
    "explain": ("keras_resnet.cli.benchmark:benchmark_explain", "heat maps beside the forward pass and tf-keras-vis"),
    "export": ("keras_resnet.cli.benchmark:benchmark_export", "exported formats beside plain model.export"),
}

Rows = list[dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark that the first argument names and returns the exit code."""
    return script.dispatch("benchmark.py", VERBS, argv)


def benchmark_train(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py train`."""
    parser = _parser(
        "train",
        "Trains on random images, in turns: with this project (input pipeline, augmentation and checks included), "
        "and the same layers in plain Keras with model.fit on arrays in memory.",
    )
    parser.add_argument("--model", default="resnet20", help="network, a name of the model table")
    parser.add_argument("--batch-size", type=script.positive_int, default=128, help="images per step")
    parser.add_argument("--image-size", type=script.positive_int, help="side of the images; default: the network's")
    parser.add_argument("--steps", type=script.at_least(3), default=12, help="steps per round; the first is not timed")
    parser.add_argument("--rounds", type=script.positive_int, default=5, help="rounds; the median counts")
    parser.add_argument("--precision", default="float32", help="precision of our training")

    def measure(arguments: argparse.Namespace) -> Rows:
        get_config(arguments.model)
        _require_tensorflow()
        from keras_resnet.benchmarks.training import benchmark_training
        from keras_resnet.training.recipes import Recipe

        recipe = Recipe(model=arguments.model, batch_size=arguments.batch_size, precision=arguments.precision)
        return benchmark_training(
            recipe, image_size=arguments.image_size, steps=arguments.steps, rounds=arguments.rounds
        )

    return _run("train", measure, parser, argv)


def benchmark_input(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py input`."""
    parser = _parser(
        "input",
        "Measures the input pipeline alone (decoding, augmentation, batches) and the training step alone, in turns, "
        "for digits, a folder of 32×32 JPEGs and a folder of photographs at 224.",
    )
    parser.add_argument("--small-folder", metavar="FOLDER", help="folder of small images; default: drawn ones")
    parser.add_argument("--photo-folder", metavar="FOLDER", help="folder of photographs; default: drawn ones")
    parser.add_argument("--small-model", default="resnet20", help="network for the small images")
    parser.add_argument("--photo-model", default="resnet18", help="network for the photographs")
    parser.add_argument("--seconds", type=float, default=5.0, help="least time that each of the two is measured for")

    def measure(arguments: argparse.Namespace) -> Rows:
        for model in (arguments.small_model, arguments.photo_model):
            get_config(model)
        if not arguments.seconds > 0:
            raise UserError(f"--seconds must be above 0, got {arguments.seconds}.")
        _require_tensorflow()
        from keras_resnet.benchmarks.inputs import benchmark_inputs

        return benchmark_inputs(
            small_folder=arguments.small_folder,
            photo_folder=arguments.photo_folder,
            small_model=arguments.small_model,
            photo_model=arguments.photo_model,
            seconds=arguments.seconds,
        )

    return _run("input", measure, parser, argv)


def benchmark_explain(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py explain`."""
    parser = _parser(
        "explain",
        "Draws Grad-CAM for the same batch in turns: in closed form, by gradients and with tf-keras-vis, beside the "
        "plain forward pass, each from arrays to arrays. Weights and images are random: neither changes what a map "
        "costs.",
    )
    parser.add_argument("--model", default="resnet50", help="network, a name of the model table")
    parser.add_argument("--image-size", type=script.positive_int, help="side of the images; default: the network's")
    parser.add_argument("--batch-size", type=script.positive_int, default=32, help="images in the batch")
    parser.add_argument("--rounds", type=script.positive_int, default=7, help="rounds; the median counts")

    def measure(arguments: argparse.Namespace) -> Rows:
        get_config(arguments.model)
        _require_tensorflow()
        from keras_resnet.benchmarks.heatmaps import benchmark_heatmaps

        return benchmark_heatmaps(
            arguments.model,
            image_size=arguments.image_size,
            batch_size=arguments.batch_size,
            rounds=arguments.rounds,
        )

    return _run("explain", measure, parser, argv)


def benchmark_export(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py export`."""
    parser = _parser(
        "export",
        "Times every exported format in turns: SavedModel beside plain model.export, keras predict, ONNX Runtime and "
        "OpenVINO (where installed), and .tflite files beside the one that from_keras_model writes. Weights are "
        "random.",
    )
    parser.add_argument("--models", nargs="+", default=["resnet50", "resnet20"], help="networks of the model table")
    parser.add_argument(
        "--batches", nargs="+", type=script.positive_int, default=[1, 32], help="batches of the server formats"
    )
    parser.add_argument("--turns", type=script.positive_int, default=15, help="turns; medians count")
    parser.add_argument("--threads", type=script.positive_int, default=2, help="threads of the .tflite files")

    def measure(arguments: argparse.Namespace) -> Rows:
        for model in arguments.models:
            get_config(model)
        _require_tensorflow()
        from keras_resnet.benchmarks.exports import benchmark_exports

        progress = ProgressBar(len(arguments.models) * (len(arguments.batches) + 1))
        options = {"turns": arguments.turns, "threads": arguments.threads, "progress": progress}
        return [
            row
            for model in arguments.models
            for row in benchmark_exports(model, batches=tuple(arguments.batches), **options)
        ]

    return _run("export", measure, parser, argv)


def _parser(verb: str, description: str) -> script.Parser:
    parser = script.Parser(prog=f"benchmark.py {verb}", description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--results", metavar="FILE.csv", help="append the figures as rows to this file")
    return parser


def _require_tensorflow() -> None:
    from keras_resnet.distribution import require_tensorflow

    require_tensorflow()


def _run(
    verb: str, measure: Callable[[argparse.Namespace], Rows], parser: script.Parser, argv: Sequence[str] | None
) -> int:
    return script.run(lambda arguments: _report(verb, measure(arguments), arguments, argv), parser, argv)


def _report(verb: str, rows: Rows, arguments: argparse.Namespace, given: Sequence[str] | None) -> None:
    """Prints the rows, which have the same columns, and appends them to the file of `--results`."""
    if arguments.json:
        print(json.dumps({"benchmark": verb, "rows": rows, **provenance.result_row()}))
    else:
        cells = [[str(value) for value in row.values()] for row in rows]
        heads = [column.replace("_", " ") for column in rows[0]]
        widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
        for line in (heads, *cells):
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if arguments.results:
        command = provenance.command("benchmark.py", [verb, *(sys.argv[2:] if given is None else given)])
        for row in rows:
            append_row(arguments.results, {"command": command, **row, **provenance.result_row()})
