"""Runs one artifact by its users' runtime, in a process of its own: `python runner.py REQUEST.json`.

For an artifact this file imports nothing of the project, and Keras is made impossible to import: what answers here
answers wherever the runtime alone is installed. The source network is run by Keras. The process also gives peak memory
a meaning, and threads a number.

The request: kind, path, images (an .npy file of uint8 images at the network's size), answers (the .npz file to write),
threads, repeats (timed calls of batch 1), warmup, seconds (after which no further images are begun), batch. Lines
`done N` on standard output report progress.
"""

import json
import sys
import time

import numpy as np


def open_source(path, threads):
    tf = tensorflow_with(threads)
    from keras_resnet.data.transforms import normalize
    from keras_resnet.storage import load_model

    model, preprocessing = load_model(path)

    @tf.function(reduce_retracing=True)
    def answer(images):
        return model(normalize(images, preprocessing), training=False)

    return lambda images: {"scores": answer(tf.constant(images)).numpy()}


def open_saved_model(path, threads):
    tf = tensorflow_with(threads)
    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]

    def run(images, keep=loaded):
        outputs = serve(images=tf.constant(images, tf.float32))
        return {key: value.numpy() for key, value in outputs.items() if key in ("probabilities", "heatmap")}

    return run


def open_tflite(path, threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    serve = interpreter.get_signature_runner("serving_default")
    inputs, outputs = serve.get_input_details(), serve.get_output_details()

    def run(images):
        given = {"images": quantized(images, inputs["images"])}
        if "target" in inputs:
            given["target"] = np.full(len(images), -1, np.int32)
        answers = serve(**given)
        return {key: dequantized(value, outputs[key]) for key, value in answers.items()}

    return run


def open_onnx(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = [entry.name for entry in session.get_inputs()]
    outputs = [entry.name for entry in session.get_outputs()]

    def run(images):
        given = {}
        for name in inputs:
            is_target = "target" in name
            given[name] = np.full(len(images), -1, np.int32) if is_target else images.astype(np.float32)
        return by_rank(dict(zip(outputs, session.run(None, given), strict=True)))

    return run


def open_openvino(path, threads):
    import openvino

    # The default on processors with bfloat16 is that: other numbers than the file's.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    model = openvino.Core().compile_model(path, "CPU", settings)

    def run(images):
        given = []
        for port in model.inputs:
            is_target = len(port.partial_shape) == 1
            given.append(np.full(len(images), -1, np.int32) if is_target else images.astype(np.float32))
        answers = model(given)
        return by_rank({str(index): answers[index] for index in range(len(model.outputs))})

    return run


def tensorflow_with(threads):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1 if threads == 1 else 2)
    return tf


def by_rank(outputs):
    """Names outputs by their shape where a format loses the names: (batch, classes) and (batch, rows, columns)."""
    return {"probabilities" if value.ndim == 2 else "heatmap": np.asarray(value) for value in outputs.values()}


def quantized(values, details):
    """Pixels as the tensor takes them."""
    if details["dtype"] == np.float32:
        return values.astype(np.float32)
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(details["dtype"])


def dequantized(values, details):
    """What a quantised tensor stands for."""
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale)


def peak_memory():
    """Bytes. Not getrusage: what it calls the peak begins with the memory of the process that forked this one."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):  # not Linux
        return 0


OPENERS = {
    "source": open_source,
    "saved_model": open_saved_model,
    "tflite": open_tflite,
    "onnx": open_onnx,
    "openvino": open_openvino,
}


def main(request_path):
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    if request["kind"] != "source":
        sys.modules["keras"] = None  # an import of Keras from here on raises
    run = OPENERS[request["kind"]](request["path"], request["threads"])
    images = np.load(request["images"])
    batch = request["batch"]
    latencies = []
    one = images[: max(1, request["static_batch"])]
    one = np.resize(one, (max(1, request["static_batch"]), *images.shape[1:]))
    for turn in range(request["warmup"] + request["repeats"]):
        began = time.perf_counter()
        run(one)
        if turn >= request["warmup"]:
            latencies.append(time.perf_counter() - began)
    answers = {}
    done = 0
    began = time.perf_counter()
    while done < request["count"] and (done == 0 or time.perf_counter() - began < request["seconds"]):
        chunk = images[done : done + batch]
        # A file of one fixed batch is given a whole one; what fills it up is cut off again.
        whole = np.resize(chunk, (batch, *chunk.shape[1:])) if request["static_batch"] > 1 else chunk
        for key, value in run(whole).items():
            answers.setdefault(key, []).append(value[: len(chunk)])
        done += len(chunk)
        print(f"done {done}", flush=True)
    np.savez(
        request["answers"],
        latencies=np.array(latencies),
        peak_bytes=peak_memory(),
        **{key: np.concatenate(values) for key, values in answers.items()},
    )


if __name__ == "__main__":
    sys.path = sys.path[1:]  # this folder's modules are not for import by name
    main(sys.argv[1])
