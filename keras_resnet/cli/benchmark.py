"""`benchmark.py WHAT`: speed, and the accuracy of a training time, measured on the spot."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from keras_resnet import provenance
from keras_resnet.cli import script
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.models.registry import get_config
from keras_resnet.progress import ProgressBar
from keras_resnet.storage import append_rows, read_rows

VERBS = {
    "input": ("keras_resnet.cli.benchmark:benchmark_input", "the input pipeline beside the training step"),
    "train": ("keras_resnet.cli.benchmark:benchmark_train", "training beside the same network in plain Keras"),
    "operators": ("keras_resnet.cli.benchmark:benchmark_operators", "where the time of a training step goes"),
    "explain": ("keras_resnet.cli.benchmark:benchmark_explain", "heat maps beside the forward pass and tf-keras-vis"),
    "export": ("keras_resnet.cli.benchmark:benchmark_export", "exported formats beside plain model.export"),
    "serve": (
        "keras_resnet.cli.benchmark:benchmark_serve",
        "the server beside one image at a time and a plain handler",
    ),
    "budget": ("keras_resnet.cli.benchmark:benchmark_budget", "test accuracy within the same training time"),
    "pieces": ("keras_resnet.cli.benchmark:benchmark_pieces", "what augmentation, averaging and the like are worth"),
    "gpu": ("keras_resnet.cli.benchmark:benchmark_gpu", "ResNet-50 on a GPU by JAX, beside PyTorch's compiler"),
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
        from keras_resnet.backends import require_backend

        require_backend()
        from keras_resnet.benchmarks.training import benchmark_training
        from keras_resnet.training.recipes import Recipe

        recipe = Recipe(model=arguments.model, batch_size=arguments.batch_size, precision=arguments.precision)
        return benchmark_training(
            recipe, image_size=arguments.image_size, steps=arguments.steps, rounds=arguments.rounds
        )

    return _run("train", measure, parser, argv)


def benchmark_operators(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py operators`."""
    parser = _parser(
        "operators",
        "Profiles training steps on a batch in memory and lists the operators, the costliest first. Operators may run "
        "at the same time, so that together they may take longer than the step.",
    )
    parser.add_argument("--model", default="resnet20", help="network, a name of the model table")
    parser.add_argument("--batch-size", type=script.positive_int, default=128, help="images per step")
    parser.add_argument("--image-size", type=script.positive_int, help="side of the images; default: the network's")
    parser.add_argument("--steps", type=script.positive_int, default=5, help="steps that are profiled")
    parser.add_argument("--precision", default="float32", help="precision of the training")

    def measure(arguments: argparse.Namespace) -> Rows:
        get_config(arguments.model)
        _require_tensorflow()
        from keras_resnet.benchmarks.operators import benchmark_operators
        from keras_resnet.training.recipes import Recipe

        recipe = Recipe(model=arguments.model, batch_size=arguments.batch_size, precision=arguments.precision)
        return benchmark_operators(recipe, image_size=arguments.image_size, steps=arguments.steps)

    return _run("operators", measure, parser, argv)


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
    parser.add_argument(
        "--augmentation",
        metavar="STEPS",
        nargs="+",
        default=[],
        help="measure these augmentations instead, a row each, beside no augmentation and decoding alone",
    )

    def measure(arguments: argparse.Namespace) -> Rows:
        for model in (arguments.small_model, arguments.photo_model):
            get_config(model)
        if not arguments.seconds > 0:
            raise UserError(f"--seconds must be above 0, got {arguments.seconds}.")
        _require_tensorflow()
        from keras_resnet.benchmarks.inputs import benchmark_augmentations, benchmark_inputs

        options = {
            "small_folder": arguments.small_folder,
            "photo_folder": arguments.photo_folder,
            "seconds": arguments.seconds,
        }
        if arguments.augmentation:
            return benchmark_augmentations(arguments.augmentation, **options)
        return benchmark_inputs(
            small_model=arguments.small_model,
            photo_model=arguments.photo_model,
            **options,
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


def benchmark_serve(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py serve`."""
    parser = _parser(
        "serve",
        "Asks servers on this machine by several numbers of clients at once: serve.py, the same with one image at a "
        "time, and a FastAPI handler that calls model.predict. Weights and images are random; each answer is compared "
        "with the one that its image must have.",
    )
    parser.add_argument("--model", default="resnet20", help="network, a name of the model table")
    parser.add_argument("--clients", nargs="+", type=script.positive_int, default=[1, 8, 64], help="clients at once")
    parser.add_argument("--seconds", type=_positive, default=5.0, help="length of each measurement")
    parser.add_argument("--backend", default="auto", help="what answers, as for serve.py")

    def measure(arguments: argparse.Namespace) -> Rows:
        from keras_resnet.server.settings import BACKENDS

        get_config(arguments.model)
        if arguments.backend not in BACKENDS:
            raise unknown_name("value of --backend", arguments.backend, BACKENDS)
        _require_tensorflow()
        from keras_resnet.benchmarks.serving import benchmark_serving

        return benchmark_serving(
            arguments.model,
            clients=tuple(arguments.clients),
            seconds=arguments.seconds,
            backend=arguments.backend,
            progress=ProgressBar(),
        )

    return _run("serve", measure, parser, argv)


def benchmark_budget(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py budget`."""
    from keras_resnet.benchmarks.budget import CONTESTANTS

    parser = _parser(
        "budget",
        "Trains the contestants one after the other, each in a process of its own, on the same images for the same "
        "time, and tests each at evenly spaced marks. The clock stands still during the tests, and schedules run over "
        "the budget: every recipe has as many epochs as fit. All training images count, those for validation included. "
        f"Contestants: {', '.join(CONTESTANTS)}. plain_keras is the same network in model.fit with Adam and Keras' "
        "defaults, pytorch is he2015 in PyTorch.",
    )
    parser.add_argument("--dataset", default="digits", help="data set, as for train.py")
    parser.add_argument("--model", default="resnet20", help="network, a name of the model table")
    parser.add_argument(
        "--contestants", nargs="+", metavar="NAME", default=["he2015", "pytorch"], help="who trains, in this order"
    )
    parser.add_argument("--minutes", type=_positive, default=15.0, help="training time of each")
    parser.add_argument("--marks", type=script.positive_int, default=15, help="evenly spaced times of the tests")
    _add_seeds(parser, default=1)

    def measure(arguments: argparse.Namespace) -> Rows:
        from keras_resnet.benchmarks.budget import benchmark_budget, recipe_of

        get_config(arguments.model)
        script.check_data_set(arguments.dataset)
        for name in arguments.contestants:
            recipe_of(name, model=arguments.model, dataset=arguments.dataset, seed=0)
        _require_tensorflow()
        return benchmark_budget(
            arguments.contestants,
            dataset=arguments.dataset,
            model=arguments.model,
            seconds=60 * arguments.minutes,
            marks=arguments.marks,
            seeds=arguments.seeds,
            **_file(arguments, "budget", argv),
        )

    return _run("budget", measure, parser, argv, saves=True)


def benchmark_pieces(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py pieces`."""
    parser = _parser(
        "pieces",
        "Trains a network with each piece alone added to the shifts and mirror images of crop_flip, everything else "
        "being equal, as train.py does. A piece is one of none, crop_flip, randaugment, mixup_cutmix, label_smoothing "
        "and ema, or any augmentation as train.py takes it.",
    )
    parser.add_argument("--dataset", default="digits", help="data set, as for train.py")
    parser.add_argument("--model", default="resnet20", help="network, a name of the model table")
    parser.add_argument("--pieces", nargs="+", metavar="PIECE", help="which ones; default: all")
    parser.add_argument("--epochs", type=script.positive_int, default=30, help="epochs of each training")
    parser.add_argument("--batch-size", type=script.positive_int, default=128, help="images per step")
    _add_seeds(parser, default=3)

    def measure(arguments: argparse.Namespace) -> Rows:
        get_config(arguments.model)
        script.check_data_set(arguments.dataset)
        _require_tensorflow()
        from keras_resnet.benchmarks.pieces import PIECES, benchmark_pieces

        return benchmark_pieces(
            arguments.pieces or list(PIECES),
            dataset=arguments.dataset,
            model=arguments.model,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            seeds=arguments.seeds,
            **_file(arguments, "pieces", argv),
        )

    return _run("pieces", measure, parser, argv, saves=True)


def benchmark_gpu(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py gpu`."""
    parser = _parser(
        "gpu",
        "Trains ResNet-50 at 224 in bfloat16 on random images that lie on the GPU, at several batch sizes, on JAX "
        "(KERAS_BACKEND=jax); beside it timm's or torchvision's under torch.compile(mode='max-autotune') where PyTorch "
        "is installed, and inference with folded batch norms. Figures are images per second, memory, and the share of "
        "what the GPU allows. Takes less than eight minutes and downloads nothing.",
    )
    parser.add_argument("--seconds", type=_positive, default=460.0, help="for all measurements together")

    def measure(arguments: argparse.Namespace) -> Rows:
        from keras_resnet.benchmarks.gpu import benchmark_gpu

        return benchmark_gpu(limit_seconds=arguments.seconds, progress=ProgressBar())

    return _run("gpu", measure, parser, argv)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return number


def _add_seeds(parser: script.Parser, *, default: int) -> None:
    parser.add_argument("--seeds", type=script.positive_int, default=default, help="how often each trains")


def _file(arguments: argparse.Namespace, verb: str, given: Sequence[str] | None) -> dict[str, Callable]:
    """`is_known` and `save` of a long benchmark, which continues where the file of `--results` ends."""
    known = read_rows(arguments.results) if arguments.results else []

    def is_known(row: dict[str, Any]) -> bool:
        found = any(all(old.get(key) == str(value) for key, value in row.items()) for old in known)
        if found:
            print(f"{arguments.results} has it already: {', '.join(map(str, row.values()))}.", file=sys.stderr)
        return found

    return {"is_known": is_known, "save": lambda rows: _save(verb, rows, arguments, given)}


def _parser(verb: str, description: str) -> script.Parser:
    parser = script.Parser(prog=f"benchmark.py {verb}", description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--results", metavar="FILE.csv", help="append the figures as rows to this file")
    return parser


def _require_tensorflow() -> None:
    from keras_resnet.backends import require_tensorflow

    require_tensorflow("This benchmark")


def _run(
    verb: str,
    measure: Callable[[argparse.Namespace], Rows],
    parser: script.Parser,
    argv: Sequence[str] | None,
    *,
    saves: bool = False,
) -> int:
    """Runs a benchmark; `saves` says that it saves its rows by itself, as they come."""

    def command(arguments: argparse.Namespace) -> None:
        try:
            rows = measure(arguments)
        except KeyboardInterrupt as interrupt:
            if not (saves and arguments.results):
                raise
            kept = f"Interrupted. Run it again: what {arguments.results} has is not measured anew."
            raise type(interrupt)(kept) from None
        _report(verb, rows, arguments)
        if not saves:
            _save(verb, rows, arguments, argv)

    return script.run(command, parser, argv)


def _report(verb: str, rows: Rows, arguments: argparse.Namespace) -> None:
    """Prints the rows, which have the same columns."""
    if arguments.json:
        print(json.dumps({"benchmark": verb, "rows": rows, **provenance.result_row()}))
    elif rows:
        cells = [[str(value) for value in row.values()] for row in rows]
        heads = [column.replace("_", " ") for column in rows[0]]
        widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
        for line in (heads, *cells):
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _save(verb: str, rows: Rows, arguments: argparse.Namespace, given: Sequence[str] | None) -> None:
    """Appends rows to the file of `--results`."""
    if arguments.results:
        command = provenance.command("benchmark.py", [verb, *(sys.argv[2:] if given is None else given)])
        append_rows(arguments.results, [{"command": command, **row, **provenance.result_row()} for row in rows])
