"""`benchmark.py gpu`: what a GPU makes of ResNet-50 on JAX, beside PyTorch's compiler and beside the GPU's own limits.

Each measurement runs in a process of its own, so that none finds memory taken or kernels chosen by another. Images are
drawn at random and lie on the GPU: no input is part of it. The limits are measured, too: a large matrix product in
bfloat16 and a copy of a large array. The roofline (Williams et al. 2009) of a network lets each convolution take the
longer of its arithmetic and of moving its input, output and kernel once in bfloat16, and everything else no time; a
training step has three such passes.

This module imports no framework: the measurements' processes do.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from keras_resnet.backends import JAX, backend, require_backend
from keras_resnet.errors import UserError
from keras_resnet.progress import ProgressBar

MODEL, SIDE, CLASSES = "resnet50", 224, 1000
BATCHES = (64, 128, 256, 512)
COMPARED = 256  # the batch that PyTorch trains and inference takes: each size is minutes of its compiler's search
WARMUPS, STEPS = 4, 20
LIMIT_SECONDS = 460.0
PASSES = {"training": 3, "inference": 1}

Row = dict[str, Any]


def benchmark_gpu(*, limit_seconds: float = LIMIT_SECONDS, progress: ProgressBar | None = None) -> list[Row]:
    """Measures training at several batch sizes, inference with folded batch norms, and PyTorch's training.

    Args:
        limit_seconds: For all measurements together. Those that do not fit get a row that says so.
        progress: Takes one step a measurement.

    Returns:
        A row each: contestant, batch size, images per second, peak memory in GB (10⁹ bytes), the share of the roofline
        that is reached, and a note where there is no figure.

    Raises:
        UserError: There is no GPU, or Keras does not run on JAX.
    """
    require_backend()
    if backend() != JAX:
        raise UserError(f"This benchmark runs on JAX, got the backend {backend()!r}. Set KERAS_BACKEND=jax.")
    ends = time.monotonic() + limit_seconds
    limits = _measure("limits", None, limit_seconds)
    if "error" in limits:
        raise UserError(limits["error"])
    # What is compared comes first.
    plan = [("training", COMPARED), ("torch", COMPARED), ("inference", COMPARED)]
    plan += [("training", batch) for batch in BATCHES if batch != COMPARED]
    progress = progress or ProgressBar(show=False)
    progress.begin(f"{MODEL} on {limits['gpu']}", len(plan), "measurements")
    rows = []
    for task, batch in plan:
        found = _measure(task, batch, ends - time.monotonic())
        rows.append(_row(task, batch, found, limits))
        progress.step()
    progress.end()
    return sorted(rows, key=lambda row: (row["contestant"], row["batch_size"]))


def roofline_seconds(model: Any, batch: int, *, passes: int, flops: float, bandwidth: float) -> float:
    """Returns the least time of a step: every convolution and dense layer as fast as the GPU can.

    Args:
        model: A flat functional Keras model with known sides.
        batch: Images.
        passes: 1 for inference; 3 for training, whose two gradients are such products as well.
        flops: Operations a second, two for a multiply-add.
        bandwidth: Bytes a second.

    Returns:
        Seconds.
    """
    total = 0.0
    for layer in model.layers:
        if not hasattr(layer, "kernel"):
            continue
        kernel = math.prod(layer.kernel.shape)
        outputs, inputs = (math.prod(tensor.shape[1:]) for tensor in (layer.output, layer.input))
        operations = 2 * batch * kernel * math.prod(layer.output.shape[1:-1])
        moved = 2 * (batch * (inputs + outputs) + kernel)
        total += max(operations / flops, moved / bandwidth)
    return passes * total


def _row(task: str, batch: int, found: Row, limits: Row) -> Row:
    names = {"training": "keras-resnet, training", "inference": "keras-resnet, inference", "torch": "PyTorch, training"}
    row = {
        "contestant": names[task],
        "gpu": limits["gpu"],
        "batch_size": batch,
        "images_per_second": "",
        "memory_gb": "",
        "share_of_roofline": "",
        "note": found.get("error", found.get("note", "")),
    }
    if "seconds" not in found:
        return row
    least = limits["roofline_seconds"]["inference" if task == "inference" else "training"][str(batch)]
    return row | {
        "images_per_second": round(batch / found["seconds"], 1),
        "memory_gb": round(found["peak_bytes"] / 1e9, 2),
        "share_of_roofline": round(least / found["seconds"], 3),
    }


def _measure(task: str, batch: int | None, seconds: float) -> Row:
    """Runs a measurement in a process of its own; what it found, or {"error": why there is nothing}."""
    if seconds < 1:
        return {"error": "no time was left"}
    command = [sys.executable, "-m", "keras_resnet.benchmarks.gpu", task, *([] if batch is None else [str(batch)])]
    environment = {**os.environ, "KERAS_BACKEND": JAX, "TF_CPP_MIN_LOG_LEVEL": "2"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {seconds:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return {"error": f"failed: {last[:200]}"}
    return json.loads(lines[-1])


def _limits() -> Row:
    from keras_resnet.distribution import gpu_names

    names = gpu_names()
    if not names:
        return {"error": "This benchmark needs a GPU, and JAX sees none. Run it on a machine with one."}
    import jax
    from jax import numpy as jnp

    from keras_resnet.applications import create_model

    side, count = 8192, 1 << 29
    matrix = jnp.ones((side, side), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    values = jnp.ones(count, jnp.bfloat16)
    copied = jax.jit(lambda a: a + 1)
    flops = 2 * side**3 / _seconds(lambda: product(matrix))
    bandwidth = 4 * count / _seconds(lambda: copied(values))
    model = create_model(MODEL, num_classes=CLASSES, input_shape=(SIDE, SIDE, 3))
    return {
        "gpu": names[0],
        "flops": flops,
        "bandwidth": bandwidth,
        "roofline_seconds": {
            kind: {
                str(batch): roofline_seconds(model, batch, passes=passes, flops=flops, bandwidth=bandwidth)
                for batch in BATCHES
            }
            for kind, passes in PASSES.items()
        },
    }


def _seconds(call: Callable[[], Any]) -> float:
    """The mean time of a call whose result JAX computes in its own time."""
    import jax

    for _ in range(WARMUPS):
        jax.block_until_ready(call())
    began = time.perf_counter()
    for _ in range(STEPS):
        last = call()
    jax.block_until_ready(last)  # one behind the other
    return (time.perf_counter() - began) / STEPS


def _training(batch: int) -> Row:
    import keras

    from keras_resnet.applications import create_model
    from keras_resnet.benchmarks.training import StepClock
    from keras_resnet.data.array_batches import Batches
    from keras_resnet.distribution import create_strategy, jit_compile, peak_gpu_memory
    from keras_resnet.training.fused_normalization import training_twin
    from keras_resnet.training.networks import compile_twin
    from keras_resnet.training.recipes import Recipe

    strategy = create_strategy("one_gpu")
    recipe = Recipe(model=MODEL, batch_size=batch, precision="mixed_bfloat16")
    model = create_model(MODEL, num_classes=CLASSES, input_shape=(SIDE, SIDE, 3))
    twin = training_twin(model, precision=recipe.precision)
    compile_twin(twin, recipe, steps=1000, jit_compile=jit_compile(recipe.xla, strategy))
    images = keras.random.normal((batch, SIDE, SIDE, 3), seed=0)
    labels = keras.ops.arange(batch, dtype="int32") % CLASSES
    batches = Batches(lambda number: (images, labels), None)
    for steps in (WARMUPS, STEPS + 1):
        clock = StepClock(steps)
        twin.fit(batches, steps_per_epoch=steps, callbacks=[clock], shuffle=False, verbose=0)
    return {"seconds": clock.seconds.wall / STEPS, "peak_bytes": peak_gpu_memory()}


def _inference(batch: int) -> Row:
    import keras

    from keras_resnet.applications import create_model
    from keras_resnet.backends import compiled
    from keras_resnet.distribution import create_strategy, peak_gpu_memory
    from keras_resnet.graphs.folding import fold_batch_norms
    from keras_resnet.graphs.precision import to_bfloat16

    create_strategy("one_gpu")
    model = create_model(MODEL, num_classes=CLASSES, input_shape=(SIDE, SIDE, 3))
    network = to_bfloat16(fold_batch_norms(model))
    shape = (batch, SIDE, SIDE, 3)
    answer = compiled(lambda images: network(images, training=False), lambda: network.variables, [(shape, "float32")])
    images = keras.random.normal(shape, seed=0)
    return {"seconds": _seconds(lambda: answer(images)), "peak_bytes": peak_gpu_memory()}


def _torch(batch: int) -> Row:
    library = next((name for name in ("timm", "torchvision") if importlib.util.find_spec(name)), None)
    if importlib.util.find_spec("torch") is None or library is None:
        return {"error": "PyTorch with timm or torchvision is not installed"}
    import torch

    if not torch.cuda.is_available():
        return {"error": "PyTorch sees no GPU"}
    if library == "timm":
        import timm

        network = timm.create_model(MODEL, num_classes=CLASSES)
    else:
        import torchvision

        network = torchvision.models.resnet50(num_classes=CLASSES)
    torch.set_float32_matmul_precision("high")
    network = network.cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )
    network = torch.compile(network, mode="max-autotune")
    images = torch.randn(batch, 3, SIDE, SIDE, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.arange(batch, device="cuda") % CLASSES

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()

    for _ in range(WARMUPS):
        step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    return {
        "seconds": (time.perf_counter() - began) / STEPS,
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "note": f"{library}, torch.compile(mode='max-autotune'), channels last, autocast",
    }


_TASKS: dict[str, Callable[..., Row]] = {
    "limits": _limits,
    "training": _training,
    "inference": _inference,
    "torch": _torch,
}

if __name__ == "__main__":
    print(json.dumps(_TASKS[sys.argv[1]](*map(int, sys.argv[2:]))))
