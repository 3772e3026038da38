"""`benchmark.py scale`: one worker against two on JAX, with a core and a thread each, and a model of 64 GPUs.

Weak scaling: every worker has a batch of the same size. Two processes that train independently show what it costs to
run two at once on this machine; compared with them, two that train together show what communication costs. The bytes
that they send are counted at the loopback interface.

The model extrapolates from those bytes alone. It assumes a ring all-reduce (Patarasuk and Yuan 2009), first within a
machine, then between machines with one adapter per GPU, at the published rates, with no latency and no overlap with the
computation. Sources of the rates: NVLink gives each GPU 900 GB/s (H100) or 600 GB/s (A100), both directions added up
(NVIDIA's data sheets of H100 and A100); DGX H100 has eight adapters of 400 Gb/s, DGX A100 eight of 200 Gb/s (NVIDIA's
data sheets of DGX H100 and DGX A100).

This module imports no framework: only the processes that it measures do.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from keras_resnet.backends import JAX
from keras_resnet.benchmarks.turns import Seconds, Timings, take_turns
from keras_resnet.errors import UserError
from keras_resnet.progress import ProgressBar
from keras_resnet.workers import ADDRESS, CLUSTER, RANK, WORKERS

ONE, APART, TOGETHER, PER_DEVICE = "1 worker", "2 processes apart", "2 workers", "2 workers, batch norm per device"
PROCESSES = {ONE: 1, APART: 2, TOGETHER: 2, PER_DEVICE: 2}
WARMUPS = 4  # steps that compile and fill caches
PAUSE = 0.3
LONGEST_WAIT = 600.0  # seconds for another process to compile its step
# Bytes per second of one GPU, per direction: within a machine, and between machines.
LINKS = {
    "H100: NVLink 450 GB/s, InfiniBand 400 Gb/s": (450e9, 50e9),
    "A100: NVLink 300 GB/s, InfiniBand 200 Gb/s": (300e9, 25e9),
}
CLUSTERS = ((1, 8), (8, 8))  # machines, GPUs of each
# A step that computes for nine times as long as it communicates has an efficiency of 0.9.
LEAST_COMPUTING = 9

Row = dict[str, Any]


def benchmark_scaling(
    model: str,
    *,
    image_size: int,
    batch_size: int,
    steps: int = 20,
    rounds: int = 5,
    progress: ProgressBar | None = None,
) -> list[Row]:
    """Measures the steps of one worker and of two, in turns, and extrapolates to GPUs.

    Args:
        model: A name of the model table.
        image_size: Side of the random images.
        batch_size: Images per worker and step.
        steps: Timed steps per round, after those that compile.
        rounds: Number of rounds; each starts new processes.
        progress: Advances by one step per measurement.

    Returns:
        One row per contestant and per modelled cluster. Rows of kind "measured" have the images per second of all
        workers together, the efficiency (one worker's part of that, divided by what one worker alone reaches), the
        share of a step that communication takes, and the megabytes (10⁶ bytes) that a worker sends per step. Rows of
        kind "model" have the milliseconds of communication per step, and how long a step must at least compute for an
        efficiency of 0.9.

    Raises:
        UserError: There are fewer than two cores, or a process failed.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("Each process is given a core of its own, which this system cannot do. Run it on Linux.")
    if len(os.sched_getaffinity(0)) < 2:
        raise UserError("Two workers need two cores, but this process may use only one. Let it use two.")
    progress = progress or ProgressBar(show=False)
    settings = {"model": model, "side": image_size, "batch": batch_size, "steps": steps}
    sent: dict[str, list[float]] = {name: [] for name in PROCESSES}

    def contestant(name: str) -> Any:
        def turn() -> Seconds:
            found = _measure(name, settings)
            sent[name].append(found["bytes"] / PROCESSES[name] / steps)
            return Seconds(found["wall"], found["cpu"])

        return turn

    progress.begin(f"scale {model}", rounds * len(PROCESSES), "measurements")
    timings = take_turns(
        {name: contestant(name) for name in PROCESSES}, turns=rounds, warmups=0, progress=progress, pause=PAUSE
    )
    progress.end()
    common = {"model": model, "image_size": image_size, "batch_size": batch_size}
    together = median(sent[TOGETHER])
    return [
        *(_measured_row(name, common, timings, median(sent[name]), steps) for name in PROCESSES),
        *(_model_row(links, cluster, common, together) for links in LINKS for cluster in CLUSTERS),
    ]


def communication_seconds(bytes_per_step: float, machines: int, gpus: int, links: tuple[float, float]) -> float:
    """Returns how many seconds an all-reduce takes over several machines with several GPUs each.

    Args:
        bytes_per_step: Number of bytes to reduce.
        machines: Number of machines.
        gpus: GPUs per machine.
        links: Bytes per second of one GPU, per direction: within a machine, and between machines.

    Returns:
        The seconds of a reduce-scatter within each machine, an all-reduce of each GPU's part between machines, and an
        all-gather within each machine.
    """
    inside, between = links
    within = 2 * (gpus - 1) / gpus * bytes_per_step / inside
    across = 2 * (machines - 1) / machines * (bytes_per_step / gpus) / between
    return within + across


def _measured_row(name: str, common: Row, timings: Mapping[str, Timings], bytes_per_step: float, steps: int) -> Row:
    took, workers = timings[name], PROCESSES[name]
    communicates = name in (TOGETHER, PER_DEVICE)
    shares = [1 - apart / joined for apart, joined in zip(timings[APART].wall, took.wall, strict=True)]
    return {
        "kind": "measured",
        **common,
        "contestant": name,
        "devices": workers,
        "images_per_second": round(workers * common["batch_size"] * steps / took.wall_median, 1),
        "efficiency": round(1 / timings[ONE].speedup_over(took) if name != ONE else 1.0, 3),
        "communication_share": round(median(shares), 3) if communicates else "",
        "mb_per_step": round(bytes_per_step / 1e6, 3) if communicates else "",
        "communication_ms": "",
        "least_step_ms": "",
        "rounds": len(took.wall),
    }


def _model_row(links: str, cluster: tuple[int, int], common: Row, bytes_per_step: float) -> Row:
    milliseconds = 1000 * communication_seconds(bytes_per_step, *cluster, LINKS[links])
    machines, gpus = cluster
    return {
        "kind": "model",
        **common,
        "contestant": f"{machines} × {gpus} {links}",
        "devices": machines * gpus,
        "images_per_second": "",
        "efficiency": "",
        "communication_share": "",
        "mb_per_step": round(bytes_per_step / 1e6, 3),
        "communication_ms": round(milliseconds, 3),
        "least_step_ms": round(LEAST_COMPUTING * milliseconds, 2),
        "rounds": "",
    }


def _measure(name: str, settings: Row) -> Row:
    """Runs a contestant's processes; returns the seconds of the slowest, and the bytes that all of them sent."""
    from keras_resnet.training.launch import free_ports

    count = PROCESSES[name]
    together = name in (TOGETHER, PER_DEVICE)
    place = {ADDRESS: f"127.0.0.1:{free_ports(1)[0]}", WORKERS: str(count)} if together else {}
    batch_norm = "per_device" if name == PER_DEVICE else "synchronized"
    environment = {key: value for key, value in os.environ.items() if key not in (ADDRESS, WORKERS, RANK, CLUSTER)}
    environment |= {"KERAS_BACKEND": JAX, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", **place}
    # The package may be where only the script that was started can find it.
    package = os.fspath(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for number in range(count):
            own_part = {"number": number, "count": count, "core": cores[number], "batch_norm": batch_norm}
            task = {**settings, "folder": folder, **own_part}
            command = [sys.executable, "-m", "keras_resnet.benchmarks.scaling", json.dumps(task)]
            own = environment | ({RANK: str(number)} if place else {})
            processes.append(subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        try:
            for process in processes:
                said = process.communicate()[0].decode(errors="replace").strip()
                if process.returncode:
                    raise UserError(f"A process of {name!r} failed: {(said.splitlines() or ['no output'])[-1]}")
        finally:
            for process in processes:
                process.kill()
                process.wait()
        found = [json.loads((Path(folder) / f"{number}.json").read_text()) for number in range(count)]
    return {
        "wall": max(row["wall"] for row in found),
        "cpu": sum(row["cpu"] for row in found),
        "bytes": max(row["bytes"] for row in found),
    }


def _loopback_bytes() -> int:
    """Returns how many bytes have passed through the loopback interface so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        interface, _, counts = line.partition(":")
        if interface.strip() == "lo":
            return int(counts.split()[0])
    return 0


def _train(task: Row) -> None:
    """What each process runs. It chooses its core before it loads JAX, which starts a thread per available core."""
    os.sched_setaffinity(0, {task["core"]})
    import keras
    import numpy as np

    from keras_resnet.applications import create_model
    from keras_resnet.benchmarks.training import StepClock
    from keras_resnet.data.array_batches import Batches
    from keras_resnet.distribution import create_strategy, jit_compile
    from keras_resnet.training.fused_normalization import training_twin
    from keras_resnet.training.networks import compile_twin
    from keras_resnet.training.recipes import Recipe
    from keras_resnet.workers import all_workers

    strategy = create_strategy("cpu", workers=True)
    keras.utils.set_random_seed(0)
    side, batch, steps = task["side"], task["batch"], task["steps"]
    recipe = Recipe(model=task["model"], batch_size=batch * strategy.num_replicas_in_sync)
    model = create_model(task["model"], num_classes=10, input_shape=(side, side, 3))
    images = np.random.default_rng(task["number"]).normal(size=(batch, side, side, 3)).astype("float32")
    labels = np.arange(batch, dtype="int32") % 10
    batches = Batches(lambda number: (images, labels), None)
    with all_workers(strategy):
        twin = training_twin(model, precision="float32", batch_norm=task["batch_norm"])
        compile_twin(twin, recipe, steps=1000, jit_compile=jit_compile(recipe.xla, strategy))
        twin.fit(batches, steps_per_epoch=WARMUPS, shuffle=False, verbose=0)
        _wait_for_all(task)
        clock, passed = StepClock(steps + 1), []
        # As with the clock, only what comes after the first step counts.
        count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: passed.append(_loopback_bytes()))
        twin.fit(batches, steps_per_epoch=steps + 1, callbacks=[clock, count], shuffle=False, verbose=0)
    found = {"wall": clock.seconds.wall, "cpu": clock.seconds.cpu, "bytes": passed[-1] - passed[0]}
    (Path(task["folder"]) / f"{task['number']}.json").write_text(json.dumps(found))


def _wait_for_all(task: Row) -> None:
    """Waits until every process is ready: waiting for one that still compiles would count as communication."""
    folder = Path(task["folder"])
    (folder / f"{task['number']}.ready").touch()
    until = time.monotonic() + LONGEST_WAIT
    while len(list(folder.glob("*.ready"))) < task["count"]:
        if time.monotonic() > until:
            raise SystemExit("another process never came so far")
        time.sleep(0.001)


if __name__ == "__main__":
    _train(json.loads(sys.argv[1]))
