"""Kills a training at random moments, runs it again, and compares what it leaves with an uninterrupted one.

    PYTHONPATH=. python tests/training/kill_training.py 50 FOLDER

The training has everything with a state: generators, moments, gradients that wait for an update, averages, a schedule.
Exits with 1 unless every run ends with the same bits as the uninterrupted one: metrics of each epoch and of the test,
every array of the last checkpoint, and the weights of model.keras. The folder of a run that differs is kept.
"""

import csv
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

# Before the processes fork, so that each starts in a moment. TensorFlow's threads begin with its first operator only.
from tiny_data import write_tiny_data

from keras_resnet.storage import read_json
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.trainer import train

EPOCHS = 10
MARKS = ("metrics.csv", "test_metrics.json")  # behind the first epoch, and where nothing is left to be lost
TIMES = {"seconds", "images_per_second", "training_seconds", "training_cpu_seconds", "input_images_per_second"}


def start(data: str, folder: Path, name: str) -> int:
    """Starts the training, or continues it, in a process of its own; returns the number of the process."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        recipe = Recipe(
            dataset=data, model="resnet8", epochs=EPOCHS, batch_size=16, warmup_epochs=1, learning_rate=0.005,
            optimizer="adamw", accumulate=2, ema_decay=0.5, drop_rate=0.3, clip_norm=1.0, augmentation="crop,mixup:0.2",
            seed=3,
        )  # fmt: skip
        places = {"runs": folder / "runs", "saved_models": folder / "saved_models"}
        train(recipe, name=name, report=lambda line: None, report_page=False, **places)
        code = 0
    finally:
        os._exit(code)


def ended(process: int) -> bool:
    """Waits for a process and tells whether it ended by itself, and well."""
    return os.waitpid(process, 0)[1] == 0


def result(run: Path) -> tuple[list, dict[str, np.ndarray]]:
    """Returns the metrics without times, and every array by its name."""
    from keras_resnet.artifact import load_artifact

    with open(run / "metrics.csv") as file:
        rows = [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]
    test = {name: value for name, value in read_json(run / "test_metrics.json").items() if name not in TIMES}
    with np.load(run / "checkpoints" / f"epoch-{EPOCHS:05d}.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "progress"}  # it holds times
    arrays |= {variable.path: variable.numpy() for variable in load_artifact(run).model.weights}
    return [rows, test], arrays


def differing(one: tuple[list, dict], other: tuple[list, dict]) -> list[str]:
    """Names what differs between two results, bit by bit."""
    names = ["metrics"] if one[0] != other[0] else []
    kept = one[1].keys() ^ other[1].keys()
    return names + sorted(
        name
        for name in one[1].keys() | other[1].keys()
        if name in kept or one[1][name].tobytes() != other[1][name].tobytes()
    )


def _seconds_until(file: Path, process: int, begin: float) -> float:
    """Waits for a file of a process, which may fail before, and returns the time since the beginning."""
    while not file.exists() and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.005)
    return time.perf_counter() - begin


def main(count: int, folder: Path) -> int:
    """Kills `count` trainings and returns how many did not end as the uninterrupted one."""
    folder.mkdir(parents=True, exist_ok=True)
    data = write_tiny_data(folder / "data.npz")
    begin = time.perf_counter()
    process = start(data, folder, "whole")
    reached = [_seconds_until(folder / "runs" / "whole" / name, process, begin) for name in MARKS]
    if not ended(process):
        raise SystemExit("The uninterrupted training failed.")
    first_epoch, tested = reached
    moments = random.Random(0)
    found = []  # by run: when it was killed, after how many epochs
    while len(found) < count:
        name = f"killed{len(found)}"
        process = start(data, folder, name)
        # Most of them once there is something to lose.
        moment = moments.uniform(0 if len(found) % 5 == 4 else first_epoch, tested)
        time.sleep(moment)
        os.kill(process, signal.SIGKILL)
        run = folder / "runs" / name
        if ended(process) or (run / MARKS[-1]).exists():
            shutil.rmtree(run)  # nothing was left to be lost
            shutil.rmtree(folder / "saved_models" / name, ignore_errors=True)
            continue
        epochs = len((run / "metrics.csv").read_text().splitlines()) - 1 if (run / "metrics.csv").exists() else 0
        found.append((moment, epochs, ended(start(data, folder, name))))
        print(f"{len(found)} of {count}: killed after {moment:.1f} s, {epochs} epochs", file=sys.stderr, flush=True)
    # TensorFlow computes in this process from here on: nothing may fork behind it.
    whole, wrong = result(folder / "runs" / "whole"), 0
    for number, (moment, epochs, is_complete) in enumerate(found):
        run = folder / "runs" / f"killed{number}"
        differs = differing(result(run), whole) if is_complete else ["it did not end"]
        if differs:
            wrong += 1
            print(f"{run}, killed after {moment:.1f} s and {epochs} epochs: {', '.join(differs[:5])}")
        else:
            shutil.rmtree(run)
            shutil.rmtree(folder / "saved_models" / run.name, ignore_errors=True)
    epochs = sorted(epochs for _, epochs, _ in found)
    print(f"killed after {epochs} epochs; {count - wrong} of {count} equal the uninterrupted training, bit by bit")
    return wrong


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])) > 0)
