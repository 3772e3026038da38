"""What `test_workers` runs in separate processes, each of them a worker.

    python worker_session.py DATA FOLDER NAME [STEP|EPOCH:SHARE]

Trains on DATA into FOLDER/NAME and writes FOLDER/NAME-RANK.json: the loss after each step and a digest of the weights.
With STEP, worker 1 kills itself after that step, once. With EPOCH:SHARE, the chief kills itself once, when that share
(0..1) of the bytes of that epoch's checkpoint is written.
"""

import hashlib
import io
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

from keras_resnet.errors import UserError
from keras_resnet.training import trainer
from keras_resnet.training.callbacks import StopOnLostLoss
from keras_resnet.training.recipes import Recipe
from keras_resnet.workers import place_in_environment


def kill_once(marker: Path) -> None:
    """Kills this process, unless `marker` shows that it was killed before."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def kill_while_writing(epoch: int, share: float, marker: Path) -> None:
    """Makes the process kill itself once a share of the bytes of an epoch's checkpoint is on disk."""
    save, count = np.savez, 0

    def part(file, **arrays):
        nonlocal count
        count += 1
        if count != epoch or marker.exists():
            return save(file, **arrays)
        whole = io.BytesIO()
        save(whole, **arrays)
        file.write(whole.getvalue()[: round(share * whole.tell())])
        file.flush()
        os.fsync(file.fileno())
        return kill_once(marker)

    np.savez = part


def main(data: str, folder: Path, name: str, step: int | None) -> None:
    rank = place_in_environment().rank
    found = {"losses": []}
    check, fit, killed = StopOnLostLoss.on_train_batch_end, trainer._fit, folder / f"{name}.killed"

    def after_step(self, batch, logs=None):
        check(self, batch, logs)
        found["losses"].append(float(logs["loss"]))
        if rank == 1 and len(found["losses"]) == step:
            kill_once(killed)

    def digest_after(setup, *arguments):
        state = fit(setup, *arguments)
        weights = b"".join(values.tobytes() for values in setup.twin.get_weights())
        found["digest"] = hashlib.sha256(weights).hexdigest()
        return state

    StopOnLostLoss.on_train_batch_end, trainer._fit = after_step, digest_after
    trainer._export = lambda *arguments: None  # only the chief exports, which is tested elsewhere
    network = folder / f"{name}-{rank}.network.json"
    network.write_text(json.dumps({"base": "resnet8", "depths": [1, 1], "widths": [16, 16], "strides": [1, 2]}))
    # With most seeds no unit of this training is near a ReLU's kink, where rounding would decide: 1 is one of those.
    recipe = Recipe(
        dataset=data, model=str(network), epochs=4, batch_size=16, warmup_epochs=1, learning_rate=0.02, drop_rate=0.3,
        ema_decay=0.5, augmentation="crop", seed=1,
    )  # fmt: skip
    trainer.train(recipe, name=name, runs=folder, saved_models=folder / "saved_models", report_page=False)
    (folder / f"{name}-{rank}.json").write_text(json.dumps(found))


def work(arguments: list[str]) -> str:
    """Does what the command line asks for; Ray calls this in its workers."""
    data, folder, name, *when = arguments
    step, _, share = "".join(when).partition(":")
    if share and place_in_environment().rank == 0:
        kill_while_writing(int(step), float(share), Path(folder) / f"{name}.killed")
    main(data, Path(folder), name, int(step) if step and not share else None)
    return "done"


if __name__ == "__main__":
    code = 0
    try:
        work(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        from keras_resnet.workers import leave

        code = leave(2)
    sys.exit(code)
