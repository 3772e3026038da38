"""How fast the exported formats are beside what one would write without this project.

Contestants take turns, each time in another order, so that a busy machine is busy for all of them and none always comes
behind the same one, whose weights fill the caches. A turn is a pause, in which the threads of the one before stop
waiting for work (they do so by spinning, and would take a core from the next), and as many calls as fit in a moment, of
which the median counts; at least a few, because the first finds the caches cold. Long calls come one a turn, and in
fewer turns. Ratios are medians of the ratios within a turn.
"""

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.export.formats import FORMATS
from keras_resnet.export.interchange import write_interchange
from keras_resnet.export.saved_model import write_saved_model
from keras_resnet.export.serving import serving_network
from keras_resnet.export.tflite import convert
from keras_resnet.export.tflite_metadata import add_metadata
from keras_resnet.progress import Progress

PAUSE, MOMENT, LONG = 0.05, 0.05, 0.2  # seconds
FEW, SHORT_TURNS = 5, 3
SERVER_BASE, PHONE_BASE = "plain model.export", "tflite float32, from_keras_model"


def measure(
    model: keras.Model,
    preprocessing: Preprocessing,
    *,
    batches: tuple[int, ...],
    turns: int,
    threads: int,
    progress: Progress,
) -> list[dict]:
    """Times every format of one network in turns.

    Args:
        model: A float32 network.
        preprocessing: How an image becomes its input.
        batches: The batches of the server formats; the .tflite files run with batch 1.
        turns: How often each contestant runs, three times as often where no call is long; the median counts.
        threads: Threads of the .tflite files.
        progress: Shows one stage a batch and one for the .tflite files.

    Returns:
        One row a contestant and batch: `contestant`, `batch`, `median_ms`, `cpu_ms` (processor time of all threads),
        `images_per_second`, `against` (what it is compared with) and `speedup` over that.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        servers = _servers(model, preprocessing, place)
        shape = (preprocessing.height, preprocessing.width, preprocessing.channels)
        random = np.random.default_rng(0)
        for batch in batches:
            images = random.uniform(0, 255, (batch, *shape)).astype(np.float32)
            calls = {name: call(images) for name, call in servers.items()}
            rows += _take_turns(calls, batch, turns, SERVER_BASE, progress, f"{model.name}, batch {batch}")
        phones = _phones(model, preprocessing, place, threads)
        images = random.integers(0, 256, (1, *shape)).astype(np.uint8)
        calls = {name: call(images) for name, call in phones.items()}
        rows += _take_turns(calls, 1, turns, PHONE_BASE, progress, f"{model.name}, .tflite")
    return rows


def _take_turns(
    contestants: dict[str, Callable[[], None]], batch: int, turns: int, base: str, progress: Progress, stage: str
) -> list[dict]:
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    took = {}
    for name, call in contestants.items():
        for _ in range(2):  # they trace, optimise and warm up
            call()
        began = time.perf_counter()
        call()
        took[name] = time.perf_counter() - began
    is_long = max(took.values()) > LONG
    calls = {name: 1 if is_long else max(FEW, min(200, int(MOMENT / seconds))) for name, seconds in took.items()}
    turns *= 1 if is_long else SHORT_TURNS
    progress.begin(stage, turns * len(contestants), "turns")
    random = np.random.default_rng(0)
    for _ in range(turns):
        for name in random.permutation(list(contestants)):
            call = contestants[name]
            time.sleep(PAUSE)
            used, times = time.process_time(), []
            for _ in range(calls[name]):
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
            wall[name].append(median(times))
            cpu[name].append((time.process_time() - used) / calls[name])
            progress.step()
    progress.end()
    rows = []
    for name in contestants:
        against = "tflite float32" if name == "tflite int8" else base
        against = name.removesuffix(" with heat map") if name.endswith(" with heat map") else against
        ratios = [theirs / own for theirs, own in zip(wall[against], wall[name], strict=True)]
        used = [theirs / max(own, 1e-9) for theirs, own in zip(cpu[against], cpu[name], strict=True)]
        rows.append(
            {
                "contestant": name,
                "batch": batch,
                "median_ms": round(1e3 * median(wall[name]), 3),
                "cpu_ms": round(1e3 * median(cpu[name]), 3),
                "images_per_second": round(batch / median(wall[name]), 1),
                "against": against,
                "speedup": round(median(ratios), 3),
                "cpu_speedup": round(median(used), 3),
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
    if _processor_has_bfloat16():
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


def _processor_has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; without, such a call takes several times as long."""
    with contextlib.suppress(OSError):  # not Linux
        return bool({"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split()))
    return False


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
    from keras_resnet.export.serving import check_exportable

    return check_exportable(model, preprocessing).dense is not None
