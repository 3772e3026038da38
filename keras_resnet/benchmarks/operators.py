"""`benchmark.py operators`: where the time of a training step goes, operator by operator.

TensorFlow's profiler notes when each kernel ran and on which thread. Kernels that run at the same time each count in
full, so that together they may take longer than the step.
"""

import glob
import tempfile
import time
from collections import Counter
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.benchmarks.training import compiled_twin
from keras_resnet.data.dataset import DatasetSpec
from keras_resnet.distribution import keras_precision
from keras_resnet.models.registry import get_config
from keras_resnet.progress import ProgressBar
from keras_resnet.training.recipes import Recipe

SMALLEST_SHARE = 0.005  # of all kernels' time; those below it are one row
OTHERS = "others"
_WARMUP = 3  # steps: the first traces, and oneDNN chooses its kernels in it


def benchmark_operators(
    recipe: Recipe, *, image_size: int | None = None, steps: int = 5, progress: ProgressBar | None = None
) -> list[dict[str, Any]]:
    """Profiles training steps on one batch of random images that is in memory, without augmentation.

    Args:
        recipe: Its model, batch size and precision count.
        image_size: Side of the images; without it the network's.
        steps: How many steps are profiled; their mean counts.
        progress: Told of each step.

    Returns:
        One row per kind of operator, the costliest first: how often a step runs it, its milliseconds a step over all
        threads and its share of all operators, 0..1, beside the milliseconds that a step takes without the profiler.
    """
    step, images = _step(recipe, image_size)
    progress = progress or ProgressBar()
    progress.begin(f"profile {recipe.model}", _WARMUP + 2 * steps, "steps")

    def run(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            loss = step(*images)
            float(loss)  # waits for the step
            progress.step()
        return (time.perf_counter() - began) / count

    run(_WARMUP)
    step_ms = 1000 * run(steps)
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        run(steps)
        tf.profiler.experimental.stop()
        kernels = kernel_times(folder)
    progress.end()
    total = sum(picoseconds for _, picoseconds in kernels.values())
    shown, others = {}, [0, 0]
    for operator, (calls, picoseconds) in sorted(kernels.items(), key=lambda item: -item[1][1]):
        if picoseconds >= SMALLEST_SHARE * total:
            shown[operator] = (calls, picoseconds)
        else:
            others = [others[0] + calls, others[1] + picoseconds]
    if others[0]:
        shown[OTHERS] = tuple(others)
    return [
        {
            "model": recipe.model,
            "batch_size": recipe.batch_size,
            "precision": keras_precision(recipe.precision),
            "step_ms": round(step_ms, 2),
            "operator": operator,
            "calls": round(calls / steps, 1),
            "operator_ms": round(picoseconds / 1e9 / steps, 2),
            "share": round(picoseconds / total, 4),
        }
        for operator, (calls, picoseconds) in shown.items()
    ]


def kernel_times(folder: str) -> dict[str, tuple[int, int]]:
    """Reads what `tf.profiler.experimental` wrote.

    Args:
        folder: Where it wrote.

    Returns:
        Kind of operator → (how often it ran, picoseconds), over all threads of the processor.
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    calls, picoseconds = Counter(), Counter()
    for path in glob.glob(f"{folder}/**/*.xplane.pb", recursive=True):
        space = xplane_pb2.XSpace()
        with open(path, "rb") as file:
            space.ParseFromString(file.read())
        for plane in space.planes:
            names = {key: metadata.name for key, metadata in plane.event_metadata.items()}
            for line in plane.lines:
                for event in line.events:
                    # A kernel is called "node:Operator"; what surrounds kernels has other names, as "Executor::Run".
                    node, _, operator = names[event.metadata_id].rpartition(":")
                    if node and not node.endswith(":") and operator.isidentifier() and not node.startswith("$"):
                        calls[operator] += 1
                        picoseconds[operator] += event.duration_ps
    return {operator: (calls[operator], picoseconds[operator]) for operator in calls}


def _step(recipe: Recipe, image_size: int | None) -> tuple[Any, tuple[tf.Tensor, tf.Tensor]]:
    """The compiled step of a recipe's training, and a batch for it."""
    side = image_size or get_config(recipe.model).input_shape[0]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (recipe.batch_size, side, side, 3), np.uint8)
    labels = (np.arange(recipe.batch_size) % min(10, recipe.batch_size)).astype("int32")
    data = DatasetSpec.from_arrays(pixels, labels, pixels, labels, x_validation=pixels, y_validation=labels)
    keras.utils.set_random_seed(0)
    twin, _ = compiled_twin(recipe, data)
    images = tf.constant(rng.normal(size=pixels.shape), tf.float32)

    @tf.function(reduce_retracing=True)
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return twin.train_step((x, y))["loss"]

    return step, (images, tf.constant(labels))
