"""`benchmark.py export`: how fast exported formats are beside what one would write without this project.

A turn is as many calls as fit in a moment; at least a few, because the first finds the caches cold. Long calls come one
a turn, and in fewer turns.
"""

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.benchmarks.turns import Contestant, take_turns
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.distribution import processor_has_bfloat16
from keras_resnet.export.formats import FORMATS
from keras_resnet.export.interchange import write_interchange
from keras_resnet.export.saved_model import write_saved_model
from keras_resnet.export.serving import check_exportable, serving_network
from keras_resnet.export.tflite import convert
from keras_resnet.export.tflite_metadata import add_metadata
from keras_resnet.models.registry import get_config
from keras_resnet.models.resnet import build_model
from keras_resnet.progress import ProgressBar

PAUSE, MOMENT, LONG = 0.05, 0.05, 0.2  # seconds
FEW, SHORT_TURNS = 5, 3
SERVER_BASE, PHONE_BASE = "plain model.export", "tflite float32, from_keras_model"


def benchmark_exports(
    name: str, *, batches: tuple[int, ...] = (1, 32), turns: int = 15, threads: int = 2, progress: ProgressBar
) -> list[dict[str, Any]]:
    """Times every format of one network in turns.

    Args:
        name: A name of the model table; its weights are random.
        batches: The batches of the server formats; the .tflite files run with batch 1.
        turns: How often each contestant runs, three times as often where no call is long.
        threads: Threads of the .tflite files.
        progress: Shows one stage per batch and one for the .tflite files.

    Returns:
        One row a contestant and batch: `contestant`, `batch`, `median_ms`, `cpu_ms` (processor time of all threads),
        `images_per_second`, `against` (what it is compared with) and `speedup` over that.
    """
    model, preprocessing = random_network(name)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        servers = _servers(model, preprocessing, place)
        shape = (preprocessing.height, preprocessing.width, preprocessing.channels)
        random = np.random.default_rng(0)
        for batch in batches:
            images = random.uniform(0, 255, (batch, *shape)).astype(np.float32)
            calls = {name: call(images) for name, call in servers.items()}
            rows += _rows(calls, batch, turns, SERVER_BASE, progress)
        phones = _phones(model, preprocessing, place, threads)
        images = random.integers(0, 256, (1, *shape)).astype(np.uint8)
        calls = {name: call(images) for name, call in phones.items()}
        rows += _rows(calls, 1, turns, PHONE_BASE, progress)
    return [{"model": name, **row} for row in rows]


def random_network(name: str) -> tuple[keras.Model, Preprocessing]:
    """Returns a network of the model table with random weights, no batch norm of it inert, and a preprocessing."""
    config = get_config(name)
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
    return model, Preprocessing(*config.input_shape, (0.45,) * channels, (0.22,) * channels)


def _rows(
    contestants: dict[str, Contestant], batch: int, turns: int, base: str, progress: ProgressBar
) -> list[dict[str, Any]]:
    took = {}
    for name, call in contestants.items():
        for _ in range(2):  # they trace, optimise and warm up
            call()
        began = time.perf_counter()
        call()
        took[name] = time.perf_counter() - began
    is_long = max(took.values()) > LONG
    turns *= 1 if is_long else SHORT_TURNS
    progress.begin(f"{base}, batch {batch}", turns * len(contestants), "turns")
    timings = take_turns(
        contestants,
        turns=turns,
        progress=progress,
        warmups=0,
        calls={name: 1 if is_long else max(FEW, min(200, int(MOMENT / seconds))) for name, seconds in took.items()},
        pause=PAUSE,
    )
    progress.end()
    rows = []
    for name, own in timings.items():
        against = "tflite float32" if name == "tflite int8" else base
        against = name.removesuffix(" with heat map") if name.endswith(" with heat map") else against
        rows.append(
            {
                "contestant": name,
                "batch": batch,
                "median_ms": round(1e3 * own.wall_median, 3),
                "cpu_ms": round(1e3 * own.cpu_median, 3),
                "images_per_second": round(batch / own.wall_median, 1),
                "against": against,
                "speedup": round(own.speedup_over(timings[against]), 3),
                "cpu_speedup": round(own.cpu_speedup_over(timings[against]), 3),
            }
        )
    return rows


def _servers(model: keras.Model, preprocessing: Preprocessing, place: Path) -> dict[str, Callable]:
    with contextlib.redirect_stdout(io.StringIO()):  # `verbose=False` still prints the endpoints
        model.export(os.fspath(place / "plain"), verbose=False)
    write_saved_model(model, preprocessing, place / "ours")
    found = {
        SERVER_BASE: _signature(place / "plain"),
        "SavedModel": _signature(place / "ours"),
        "keras predict": lambda images: lambda: model.predict(images, batch_size=len(images), verbose=0),
    }
    if processor_has_bfloat16():
        write_saved_model(model, preprocessing, place / "ours_bfloat16", precision="bfloat16")
        found["SavedModel bfloat16"] = _signature(place / "ours_bfloat16")
    if preprocessing.channels == 3 and _can_explain(model, preprocessing):
        write_saved_model(model, preprocessing, place / "ours_heat", with_heatmap=True)
        found["SavedModel with heat map"] = _signature(place / "ours_heat")
    network = serving_network(model, preprocessing)
    try:
        import onnxruntime

        file = place / "model.onnx"
        write_interchange(network, "onnx", file)
        session = onnxruntime.InferenceSession(os.fspath(file), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        found["ONNX Runtime"] = lambda images: lambda: session.run(None, {name: images})
    except ImportError:
        pass
    try:
        import openvino

        file = place / "model.xml"
        write_interchange(network, "openvino", file)
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(os.fspath(file), "CPU", settings)
        found["OpenVINO"] = lambda images: lambda: compiled([images])
    except ImportError:
        pass
    return found


def _signature(path: Path) -> Callable:
    loaded = tf.saved_model.load(os.fspath(path))
    serve = loaded.signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]

    def with_images(images, keep=loaded):
        tensor = tf.constant(images)
        return lambda: serve(**{name: tensor})

    return with_images


def _phones(model: keras.Model, preprocessing: Preprocessing, place: Path, threads: int) -> dict[str, Callable]:
    shape = (preprocessing.height, preprocessing.width, preprocessing.channels)
    noise = np.random.default_rng(0).uniform(0, 255, (8, *shape)).astype(np.float32)
    fixed = keras.Input(batch_shape=(1, *shape))
    with contextlib.redirect_stdout(io.StringIO()):
        files = {PHONE_BASE: tf.lite.TFLiteConverter.from_keras_model(keras.Model(fixed, model(fixed))).convert()}
    plain = serving_network(model, preprocessing)
    labels = preprocessing.labels or tuple(str(number) for number in range(plain.outputs[0].shape[-1]))
    networks = {f"tflite {variant}": (variant, plain) for variant in ("float32", "int8")}
    if _can_explain(model, preprocessing):
        for variant in ("float32", "int8"):
            classes = FORMATS[variant].reads_head_by
            explaining = serving_network(model, preprocessing, heatmap="top", classes=classes)
            networks[f"tflite {variant} with heat map"] = variant, explaining
    for name, (variant, network) in networks.items():
        contents = convert(network, variant, calibration=noise)
        files[name] = add_metadata(contents, preprocessing, labels, name=model.name)
    found = {}
    for number, (name, contents) in enumerate(files.items()):
        path = place / f"{number}.tflite"
        path.write_bytes(contents)
        found[name] = _interpreter(path, threads)
    return found


def _interpreter(path: Path, threads: int) -> Callable:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=os.fspath(path), num_threads=threads)
    interpreter.allocate_tensors()
    (inputs,) = interpreter.get_input_details()

    def with_images(images):
        interpreter.set_tensor(inputs["index"], images.astype(inputs["dtype"]))
        return interpreter.invoke

    return with_images


def _can_explain(model: keras.Model, preprocessing: Preprocessing) -> bool:
    return check_exportable(model, preprocessing).dense is not None
