"""`benchmark.py WHAT`: how many images a second, measured on the spot.

Machines that are shared make wall time jump: contestants take turns, medians are shown, and processor time beside them.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from keras_resnet import provenance
from keras_resnet.cli import script
from keras_resnet.errors import UserError
from keras_resnet.models.registry import get_config
from keras_resnet.progress import Progress
from keras_resnet.storage import append_row

VERBS = {
    "input": ("keras_resnet.cli.benchmark:benchmark_input", "the input pipeline beside the training step"),
    "train": ("keras_resnet.cli.benchmark:benchmark_training", "training beside the same network in plain Keras"),
    "explain": ("keras_resnet.cli.benchmark_explain:main", "heat maps beside the forward pass and tf-keras-vis"),
    "export": ("keras_resnet.cli.benchmark:benchmark_export", "exported formats beside plain model.export"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark that the first argument names and returns the exit code."""
    return script.dispatch("benchmark.py", VERBS, argv)


def build_parser(verb: str, description: str) -> script.Parser:
    """Returns the parser of one benchmark, with the flags that all of them have."""
    parser = script.Parser(prog=f"benchmark.py {verb}", description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--results", metavar="FILE.csv", help="append the figures as rows to this file")
    return parser


def report(verb: str, rows: list[dict[str, Any]], arguments: argparse.Namespace, given: Sequence[str] | None) -> None:
    """Prints the rows of a benchmark and appends them to the file of `--results`.

    Args:
        verb: The benchmark.
        rows: Column → value, the same columns in each.
        arguments: The parsed arguments.
        given: The arguments as typed, behind the verb.
    """
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


def benchmark_training(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py train`: our training beside the same network in plain Keras, fitted with `model.fit`."""
    parser = build_parser(
        "train",
        "Trains on random images, in turns: with this project (input pipeline, augmentation and checks included), "
        "and the same layers in plain Keras with model.fit on arrays in memory.",
    )
    parser.add_argument("--model", default="resnet20", help="network, a name of the model table")
    parser.add_argument("--batch-size", type=script.positive_int, default=128, help="images a step")
    parser.add_argument("--image-size", type=script.positive_int, help="side of the images; default: the network's")
    parser.add_argument("--steps", type=script.at_least(3), default=12, help="steps a round; the first is not timed")
    parser.add_argument("--rounds", type=script.positive_int, default=5, help="rounds; the median counts")
    parser.add_argument("--precision", default="float32", help="precision of our training")
    return script.run(lambda arguments: _benchmark_training(arguments, argv), parser, argv)


def _benchmark_training(arguments: argparse.Namespace, given: Sequence[str] | None) -> None:
    config = get_config(arguments.model)

    from keras_resnet.distribution import require_tensorflow

    require_tensorflow()
    import keras
    import numpy as np

    from keras_resnet.data.dataset import DatasetSpec
    from keras_resnet.training.recipes import Recipe

    side = arguments.image_size or config.input_shape[0]
    count = arguments.batch_size * arguments.steps
    random = np.random.default_rng(0)
    classes = min(10, count)
    images = random.integers(0, 256, (count, side, side, 3), np.uint8)
    labels = (np.arange(count) % classes).astype("int32")
    data = DatasetSpec.from_arrays(images, labels, images, labels, x_validation=images, y_validation=labels)
    recipe = Recipe(model=arguments.model, batch_size=arguments.batch_size, precision=arguments.precision)
    keras.utils.set_random_seed(0)
    contestants = {
        "keras_resnet": _our_round(recipe, data),
        "plain_keras": _plain_round(recipe, data),
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    progress = Progress()
    progress.begin(f"train {arguments.model}", (arguments.rounds + 1) * len(contestants), "rounds")
    for turn in range(arguments.rounds + 1):
        for name, fit in contestants.items():
            measured = fit()
            progress.step()
            if turn:  # the first round traces and warms up
                rates[name].append(measured)
    progress.end()
    wall = {name: median(rate for rate, _ in pairs) for name, pairs in rates.items()}
    cpu = {name: median(rate for _, rate in pairs) for name, pairs in rates.items()}
    row = {
        "model": arguments.model,
        "image_size": side,
        "batch_size": arguments.batch_size,
        "images_per_second": round(wall["keras_resnet"], 1),
        "plain_keras_images_per_second": round(wall["plain_keras"], 1),
        "ratio": round(wall["keras_resnet"] / wall["plain_keras"], 3),
        "images_per_cpu_second": round(cpu["keras_resnet"], 1),
        "plain_keras_images_per_cpu_second": round(cpu["plain_keras"], 1),
        "cpu_ratio": round(cpu["keras_resnet"] / cpu["plain_keras"], 3),
        "rounds": arguments.rounds,
    }
    report("train", [row], arguments, given)


def _our_round(recipe: Any, data: Any) -> Callable[[], tuple[float, float]]:
    from keras_resnet.data.batches import steps_per_epoch, training_batches
    from keras_resnet.distribution import create_strategy, jit_compile
    from keras_resnet.training.callbacks import StopOnLostLoss
    from keras_resnet.training.checkpoints import TrainingState
    from keras_resnet.training.fused_normalization import training_twin
    from keras_resnet.training.runs import RunDirectory
    from keras_resnet.training.trainer import compile_twin, create_network

    steps = steps_per_epoch(data.train, recipe.batch_size)
    model, preprocessing = create_network(recipe, data)
    twin = training_twin(model, precision=recipe.precision)
    compile_twin(twin, recipe, steps=steps, jit_compile=jit_compile(recipe.xla, create_strategy(recipe.devices)))
    epochs = iter(range(recipe.epochs * 1000))

    def one_round() -> tuple[float, float]:
        epoch = next(epochs)
        batches = training_batches(
            data.train,
            preprocessing,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            first_epoch=epoch,
            epochs=epoch + 1,
            augmentation=data.augmentation,
        )
        clock = _step_clock(recipe.batch_size, steps)
        guard = StopOnLostLoss(RunDirectory(Path()), TrainingState)
        twin.fit(batches, steps_per_epoch=steps, callbacks=[guard, clock], shuffle=False, verbose=0)
        return clock.rates

    return one_round


def _plain_round(recipe: Any, data: Any) -> Callable[[], tuple[float, float]]:
    import keras
    import numpy as np

    from keras_resnet.data.transforms import normalize
    from keras_resnet.training.trainer import create_network

    model, preprocessing = create_network(recipe, data)  # nothing but layers of keras.layers
    optimizer = keras.optimizers.SGD(
        recipe.learning_rate, momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    images, labels = np.asarray(normalize(data.train.images, preprocessing)), data.train.labels

    def one_round() -> tuple[float, float]:
        clock = _step_clock(recipe.batch_size, len(labels) // recipe.batch_size)
        model.fit(images, labels, batch_size=recipe.batch_size, callbacks=[clock], verbose=0)
        return clock.rates

    return one_round


def _step_clock(batch_size: int, steps: int) -> Any:
    import keras

    class StepClock(keras.callbacks.Callback):
        """Times the steps behind the first one, so that starting the input is not counted for anybody."""

        rates = (0.0, 0.0)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch in (0, steps - 1):
                float(logs["loss"])  # waits for the step
                now = time.perf_counter(), time.process_time()
                if batch == 0:
                    self._began = now
                else:
                    images = batch_size * (steps - 1)
                    self.rates = tuple(images / (b - a) for a, b in zip(self._began, now, strict=True))

    return StepClock()


def benchmark_input(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py input`: the input pipeline alone beside the training step that it feeds."""
    parser = build_parser(
        "input",
        "Measures the input pipeline alone (decoding, augmentation, batches) and the training step alone, for digits, "
        "a folder of 32×32 JPEGs and a folder of photographs at 224.",
    )
    parser.add_argument("--small-folder", metavar="FOLDER", help="folder of small images; default: drawn ones")
    parser.add_argument("--photo-folder", metavar="FOLDER", help="folder of photographs; default: drawn ones")
    parser.add_argument("--small-model", default="resnet20", help="network for the small images")
    parser.add_argument("--photo-model", default="resnet18", help="network for the photographs")
    parser.add_argument("--seconds", type=float, default=5.0, help="least time that a training step is measured for")
    return script.run(lambda arguments: _benchmark_input(arguments, argv), parser, argv)


def _benchmark_input(arguments: argparse.Namespace, given: Sequence[str] | None) -> None:
    for model in (arguments.small_model, arguments.photo_model):
        get_config(model)
    if not arguments.seconds > 0:
        raise UserError(f"--seconds must be above 0, got {arguments.seconds}.")

    from keras_resnet.distribution import require_tensorflow

    require_tensorflow()
    with tempfile.TemporaryDirectory() as drawn:
        small = arguments.small_folder or _draw_folder(Path(drawn) / "small", 1500, (32, 32))
        photos = arguments.photo_folder or _draw_folder(Path(drawn) / "photos", 150, (375, 500))
        cases = (
            ("digits", "digits", "resnet8", 64, None),
            ("32×32 JPEGs", f"folder:{small}", arguments.small_model, 128, 32),
            ("photographs at 224", f"folder:{photos}", arguments.photo_model, 16, 224),
        )
        progress = Progress()
        progress.begin("measure inputs", len(cases), "inputs")
        rows = []
        for case in cases:
            rows.append(_input_row(*case, seconds=arguments.seconds))
            progress.step()
        progress.end()
    report("input", rows, arguments, given)


def _input_row(
    case: str, dataset: str, model: str, batch_size: int, image_size: int | None, *, seconds: float
) -> dict[str, Any]:
    from keras_resnet.data.batches import steps_per_epoch, training_batches
    from keras_resnet.data.sources import load_source
    from keras_resnet.data.throughput import pipeline_images_per_second
    from keras_resnet.distribution import create_strategy, jit_compile
    from keras_resnet.training.fused_normalization import training_twin
    from keras_resnet.training.recipes import Recipe
    from keras_resnet.training.trainer import compile_twin, create_network

    data = load_source(dataset, image_size=image_size)
    recipe = Recipe(dataset=dataset, model=model, batch_size=min(batch_size, len(data.train)))
    steps = steps_per_epoch(data.train, recipe.batch_size)
    network, preprocessing = create_network(recipe, data)
    twin = training_twin(network)
    compile_twin(twin, recipe, steps=steps, jit_compile=jit_compile(recipe.xla, create_strategy(recipe.devices)))
    options = {"batch_size": recipe.batch_size, "augmentation": data.augmentation}
    first = pipeline_images_per_second(data.train, preprocessing, warmup_epochs=0, repeats=1, seconds=1e-3, **options)
    later = pipeline_images_per_second(data.train, preprocessing, **options)
    images, labels = next(iter(training_batches(data.train, preprocessing, seed=0, epochs=1, **options)))
    twin.train_on_batch(images, labels)
    step = recipe.batch_size / median(_step_times(lambda: twin.train_on_batch(images, labels), seconds))
    return {
        "case": case,
        "images": len(data.train),
        "augmentation": data.augmentation,
        "pipeline_images_per_second": round(later, 1),
        "in_the_first_epoch": round(first, 1),
        "model": model,
        "image_size": preprocessing.height,
        "batch_size": recipe.batch_size,
        "training_step_images_per_second": round(step, 1),
        "ratio": round(later / step, 2),
    }


def benchmark_export(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py export`: our artifacts beside what Keras and TensorFlow write by themselves."""
    parser = build_parser(
        "export",
        "Times every exported format in turns: SavedModel beside plain model.export, keras predict, ONNX Runtime and "
        "OpenVINO (where installed), and .tflite files beside the one that from_keras_model writes. Weights are drawn.",
    )
    parser.add_argument("--models", nargs="+", default=["resnet50", "resnet20"], help="networks of the model table")
    parser.add_argument(
        "--batches", nargs="+", type=script.positive_int, default=[1, 32], help="batches of the server formats"
    )
    parser.add_argument("--turns", type=script.positive_int, default=15, help="turns; medians count")
    parser.add_argument("--threads", type=script.positive_int, default=2, help="threads of the .tflite files")
    return script.run(lambda arguments: _benchmark_export(arguments, argv), parser, argv)


def _benchmark_export(arguments: argparse.Namespace, given: Sequence[str] | None) -> None:
    configs = [get_config(model) for model in arguments.models]

    from keras_resnet.distribution import require_tensorflow

    require_tensorflow()
    import keras
    import numpy as np

    from keras_resnet.data.preprocessing import Preprocessing
    from keras_resnet.export.benchmark import measure
    from keras_resnet.models.resnet import build_model

    rows = []
    progress = Progress(len(configs) * (len(arguments.batches) + 1))
    for config in configs:
        keras.utils.set_random_seed(0)
        model = build_model(config)
        random = np.random.default_rng(0)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                # As drawn at first a normalisation does nothing, and optimisers would find that out.
                for variable in layer.weights:
                    low, high = (0.5, 1.0) if variable.name in ("gamma", "moving_variance") else (-0.2, 0.2)
                    variable.assign(random.uniform(low, high, variable.shape))
        channels = config.input_shape[2]
        preprocessing = Preprocessing(*config.input_shape, (0.45,) * channels, (0.22,) * channels)
        measured = measure(
            model,
            preprocessing,
            batches=tuple(arguments.batches),
            turns=arguments.turns,
            threads=arguments.threads,
            progress=progress,
        )
        rows += [{"model": config.name, **row} for row in measured]
    report("export", rows, arguments, given)


def _step_times(step: Callable[[], Any], seconds: float) -> list[float]:
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return times


def _draw_folder(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Writes JPEGs of smooth random colours, in three classes."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8))
        coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(place / f"{number:05d}.jpg", quality=90)
    return folder
