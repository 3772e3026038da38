"""Kills the chief of two workers while it writes a checkpoint, and compares the result with an uninterrupted run.

    PYTHONPATH=. KERAS_BACKEND=jax python tests/training/kill_chief.py 10 FOLDER

Each time a different share of the bytes is on disk: none, all, then random shares. Exits with 1 unless, each time,
every checkpoint under its final name is whole once the workers have ended, all of them are started again, and the run
ends with the same bits as the uninterrupted one.
"""

import os
import random
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_data import write_tiny_data

from keras_resnet.training.launch import launch

SESSION = Path(__file__).with_name("worker_session.py")
EPOCHS = 4  # of a session


def whole_checkpoints(run: Path) -> list[str]:
    """Reads every array of every checkpoint, which fails if a file is torn, and returns the files' names."""
    files = sorted((run / "checkpoints").glob("epoch-*.npz"))
    for path in files:
        with np.load(path) as file:
            for name in file.files:
                file[name]
    return [path.name for path in files]


def last_checkpoint(run: Path) -> dict[str, bytes]:
    """Returns the bytes of each array of the last checkpoint."""
    with np.load(run / "checkpoints" / f"epoch-{EPOCHS:05d}.npz") as file:
        return {name: file[name].tobytes() for name in file.files if name != "progress"}  # it holds times


def main(count: int, folder: Path) -> int:
    """Kills the chief `count` times and returns how often something was wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, os.fspath(SESSION), write_tiny_data(folder / "data.npz"), os.fspath(folder)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    if launch([*command, "whole"], 2, environment=environment):
        raise SystemExit("The uninterrupted training failed.")
    expected, drawn, wrong = last_checkpoint(folder / "whole"), random.Random(0), 0
    for number in range(count):
        epoch, share = 1 + number % EPOCHS, (0.0, 1.0, drawn.random())[min(number, 2)]
        name, found = f"killed{number}", []

        def between(line: str, name: str = name, found: list = found) -> None:
            found.append((line.startswith("Worker 0 of 2 ended by SIGKILL"), whole_checkpoints(folder / name)))

        command_of_this = [*command, name, f"{epoch}:{share}"]
        code = launch(command_of_this, 2, restarts=1, environment=environment, report=between)
        was_killed, kept = found[0] if found else (False, [])
        is_right = (
            code == 0
            and was_killed
            and kept[-1:] == [f"epoch-{epoch - 1:05d}.npz"] * (epoch > 1)
            and last_checkpoint(folder / name) == expected
            and not list((folder / name).rglob("*.tmp-*"))
        )
        wrong += not is_right
        state = "ended like the uninterrupted one" if is_right else "WRONG"
        print(f"{number + 1} of {count}: epoch {epoch}, {share:.0%} of its bytes written, {state}", flush=True)
    print(
        f"{count - wrong} of {count} resumed from a whole checkpoint and equal the uninterrupted training, bit for bit"
    )
    return wrong


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])) > 0)
