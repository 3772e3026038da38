"""Runs one artifact by its users' runtime, in a process of its own: `python runner.py REQUEST.json`.

For an artifact this file uses `runtimes` alone of the project, and Keras is made impossible to import: what answers
here answers wherever the runtime alone is installed. The source network is run by Keras. The process also gives peak
memory a meaning, and threads a number.

The request: kind, path, images (an .npy file of uint8 images at the network's size), answers (the .npz file to write),
threads, repeats (timed calls of batch 1), warmup, seconds (after which no further images are begun), batch. Lines
`done N` on standard output report progress.
"""

import importlib.util
import json
import pathlib
import sys
import time

import numpy as np


def open_source(path, threads):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1 if threads == 1 else 2)
    from keras_resnet.data.transforms import normalize
    from keras_resnet.storage import load_model

    model, preprocessing = load_model(path)

    @tf.function(reduce_retracing=True, autograph=False)
    def answer(images):
        return model(normalize(images, preprocessing), training=False)

    return lambda images: {"scores": answer(tf.constant(images)).numpy()}


def peak_memory():
    """Bytes. Not getrusage: what it calls the peak begins with the memory of the process that forked this one."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):  # not Linux
        return 0


def open_artifact(kind, path, threads):
    # By its path, because the package may not be importable here.
    place = pathlib.Path(__file__).parents[1] / "runtimes.py"
    spec = importlib.util.spec_from_file_location("runtimes", place)
    runtimes = sys.modules["runtimes"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runtimes)
    return runtimes.OPENERS[kind](path, threads).answer


def main(request_path):
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    if request["kind"] == "source":
        run = open_source(request["path"], request["threads"])
    else:
        sys.modules["keras"] = None  # an import of Keras from here on raises
        run = open_artifact(request["kind"], request["path"], request["threads"])
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
