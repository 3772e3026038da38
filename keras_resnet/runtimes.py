"""Runs exported files by their users' runtimes. Imports nothing of the project, and no runtime before one is opened.

`artifact` opens files with it, and `export.runner` loads it by its path in a process that must not know Keras: what
answers there answers wherever the runtime alone is installed.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Runtime:
    """A file that is ready to answer.

    Attributes:
        answer: Images [n, height, width, channels], uint8 or float32, 0..255, at the network's size → "probabilities",
            float32 [n, classes], and "heatmap", float32 [n, rows, columns], where the file has one.
        output_shape: Shape of the probabilities; what is open in it is None.
        has_heatmap: Whether `answer` returns a heat map.
        takes_target: Whether `answer` takes, behind the images, the classes whose heat maps it returns, int32 [n]; -1,
            and without them: the most probable one.
        explain_files: Bytes of n image files and classes, int32 [n] → as `answer`, with the heat maps of those classes;
            None where the file has no such signature.
    """

    answer: Callable[..., dict[str, np.ndarray]]
    output_shape: tuple[int | None, ...]
    has_heatmap: bool = False
    takes_target: bool = False
    explain_files: Callable[[list[bytes], np.ndarray], dict[str, np.ndarray]] | None = None


def open_saved_model(path: str, threads: int | None = None) -> Runtime:
    """Opens a SavedModel's signature `serving_default`; ValueError where it has none, or no output to take."""
    import tensorflow as tf

    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1 if threads == 1 else 2)
    loaded = tf.saved_model.load(path)
    if "serving_default" not in loaded.signatures:
        raise ValueError("it has no signature 'serving_default'")
    serve = loaded.signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]
    outputs = serve.structured_outputs
    scores = "probabilities" if "probabilities" in outputs or len(outputs) != 1 else next(iter(outputs))
    if scores not in outputs:
        raise ValueError(f"it must return 'probabilities', its outputs are {', '.join(outputs)}")

    def answer(
        images: np.ndarray, keep: Any = loaded
    ) -> dict[str, np.ndarray]:  # the signature alone frees the weights
        found = serve(**{name: tf.constant(images, tf.float32)})
        wanted = {"probabilities": scores, "heatmap": "heatmap"}
        return {key: found[output].numpy() for key, output in wanted.items() if output in found}

    explain_files = None
    if "explain_class_bytes" in loaded.signatures:
        explain = loaded.signatures["explain_class_bytes"]

        def explain_files(files: list[bytes], target: np.ndarray) -> dict[str, np.ndarray]:
            found = explain(images=tf.constant(files), target=tf.constant(target, tf.int32))
            return {name: found[name].numpy() for name in RANKS}

    return Runtime(answer, tuple(outputs[scores].shape), has_heatmap="heatmap" in outputs, explain_files=explain_files)


def open_tflite(path: str, threads: int | None = None, *, in_memory: bool = False) -> Runtime:
    """Opens a .tflite file; ValueError where it is not complete, or takes no images, or is not a classifier.

    Mapped, as phones do it, the process dies when the file is overwritten in place; `in_memory` reads it first.
    """
    from ai_edge_litert.interpreter import Interpreter

    with open(path, "rb") as file:
        contents = file.read() if in_memory else file.read(8)
        if contents[4:8] != b"TFL3":
            raise ValueError(f"its {os.path.getsize(path)} bytes do not carry the mark TFL3")
    source = {"model_content": contents} if in_memory else {"model_path": path}
    interpreter = Interpreter(**source, num_threads=threads or os.cpu_count())
    interpreter.allocate_tensors()
    # Told apart by rank: images have four dimensions, and a second input asks which class to explain; probabilities
    # have two, a heat map three.
    taken, returned = interpreter.get_input_details(), interpreter.get_output_details()
    images_in = next((entry for entry in taken if len(entry["shape"]) == 4), None)
    if images_in is None:
        raise ValueError("it takes no images: none of its inputs are [batch, height, width, channels]")
    outputs = {name: next((e for e in returned if len(e["shape"]) == rank), None) for name, rank in RANKS.items()}
    if outputs["probabilities"] is None:
        raise ValueError("it is not a classifier: none of its outputs are [batch, classes]")
    is_open, shaped = int(images_in["shape_signature"][0]) == -1, int(images_in["shape"][0])
    batch = OPEN_BATCH if is_open else shaped
    takes_target = len(taken) > 1

    def run(images: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal shaped
        count = len(images) if is_open else batch
        if count != shaped:
            for entry in taken:
                interpreter.resize_tensor_input(entry["index"], [count, *entry["shape"][1:]])
            interpreter.allocate_tensors()
            shaped = count
        filled = np.resize(images, (count, *images.shape[1:]))
        interpreter.set_tensor(images_in["index"], _quantized(filled, images_in))
        for entry in taken:
            if entry["index"] != images_in["index"]:
                interpreter.set_tensor(entry["index"], np.resize(target, count))
        interpreter.invoke()
        answers = {name: (interpreter.get_tensor(e["index"]), e) for name, e in outputs.items() if e is not None}
        return {name: _dequantized(value, entry)[: len(images)] for name, (value, entry) in answers.items()}

    def answer(images: np.ndarray, target: np.ndarray | None = None) -> dict[str, np.ndarray]:
        classes = np.full(len(images), -1, np.int32) if target is None else np.asarray(target, np.int32)
        # In the file's own batches, where it has a fixed one.
        starts = range(0, len(images), batch)
        parts = [run(images[start : start + batch], classes[start : start + batch]) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return Runtime(
        answer,
        (None, int(outputs["probabilities"]["shape"][-1])),
        has_heatmap=outputs["heatmap"] is not None,
        takes_target=takes_target,
    )


def open_onnx(path: str, threads: int | None = None) -> Runtime:
    """Opens an ONNX file with ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = [(entry.name, len(entry.shape)) for entry in session.get_inputs()]

    def answer(images: np.ndarray) -> dict[str, np.ndarray]:
        return _by_rank(session.run(None, {name: _given(images, rank) for name, rank in inputs}))

    shape = next((entry.shape for entry in session.get_outputs() if len(entry.shape) == RANKS["probabilities"]), ())
    return Runtime(answer, tuple(side if isinstance(side, int) else None for side in shape))


def open_openvino(path: str, threads: int | None = None) -> Runtime:
    """Opens an OpenVINO model on the CPU, in float32."""
    import openvino

    # The default on processors with bfloat16 is that: other numbers than the file's.
    settings = {"INFERENCE_PRECISION_HINT": "f32"} | ({} if threads is None else {"INFERENCE_NUM_THREADS": threads})
    model = openvino.Core().compile_model(path, "CPU", settings)

    def answer(images: np.ndarray) -> dict[str, np.ndarray]:
        found = model([_given(images, len(port.partial_shape)) for port in model.inputs])
        return _by_rank([found[index] for index in range(len(model.outputs))])

    shapes = [port.partial_shape for port in model.outputs]
    shape = next((shape for shape in shapes if len(shape) == RANKS["probabilities"]), ())
    return Runtime(answer, tuple(side.get_length() if side.is_static else None for side in shape))


OPENERS = {
    "saved_model": open_saved_model,
    "tflite": open_tflite,
    "onnx": open_onnx,
    "openvino": open_openvino,
}
# Images of a call of a .tflite file whose batch is open, at most.
OPEN_BATCH = 64
# Dimensions of each output, by which formats that lose the names are read.
RANKS = {"probabilities": 2, "heatmap": 3}


def _given(images: np.ndarray, rank: int) -> np.ndarray:
    """What an input takes: the images, or for the class to explain -1, the most probable one."""
    return images.astype(np.float32) if rank == 4 else np.full(len(images), -1, np.int32)


def _by_rank(values: list) -> dict[str, np.ndarray]:
    values = [np.asarray(value) for value in values]
    return {name: value for name, rank in RANKS.items() for value in values if value.ndim == rank}


def _quantized(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Pixels as the tensor takes them."""
    if details["dtype"] == np.float32:
        return values.astype(np.float32)
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(details["dtype"])


def _dequantized(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """What a quantised tensor stands for."""
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale)
