"""Everything that an interrupted training needs to resume bit for bit, one file an epoch.

A checkpoint is a NumPy archive without pickles: each variable of the network (states of random generators included),
each variable of the optimizer (momentum, step, averages), and a JSON text with the progress.
The newest two and the best one are kept.
"""

import dataclasses
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_resnet.archives import DAMAGED_ARCHIVE, check_sizes
from keras_resnet.errors import UserError
from keras_resnet.storage import atomic_file

KEPT = 2
_NAME = re.compile(r"epoch-(\d{5})\.npz")


@dataclass(frozen=True)
class TrainingState:
    """How far a training is.

    Attributes:
        epoch: Epochs that are complete.
        best_epoch: The epoch, counted from 1, after which validation accuracy was highest; 0 before the first.
        best_accuracy: That accuracy, 0..1; the balanced one where classes count alike.
        best_loss: The validation loss after that epoch; it decides between equal accuracies.
        seconds: Wall time spent so far, over all sessions.
        cpu_seconds: Processor time spent so far, over all sessions.
        rows: The rows of metrics.csv up to this epoch, so that the file can be written anew.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float = math.inf
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    rows: tuple[dict[str, str], ...] = ()

    def has_stopped(self, patience: int | None) -> bool:
        """Whether the last `patience` epochs brought no better one; never without a patience."""
        return patience is not None and self.epoch - self.best_epoch >= patience


def checkpoint_path(directory: str | os.PathLike[str], epoch: int) -> Path:
    """Returns the file that holds the state after an epoch, counted from 1."""
    return Path(directory) / f"epoch-{epoch:05d}.npz"


def newest_epoch(directory: str | os.PathLike[str]) -> int:
    """Returns how many epochs the newest checkpoint has behind it; 0 without one. It is not opened."""
    return max(_epochs(directory), default=0)


def save_checkpoint(
    directory: str | os.PathLike[str],
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    state: TrainingState,
) -> Path:
    """Writes the checkpoint of an epoch and removes those that are neither among the newest nor the best.

    Args:
        directory: The folder of checkpoints.
        model: The network in training.
        optimizer: Its optimizer.
        state: How far it is.

    Returns:
        The file.
    """
    arrays = {name: np.asarray(variable) for name, variable in _variables(model, optimizer)}
    arrays["progress"] = np.frombuffer(json.dumps(dataclasses.asdict(state)).encode(), np.uint8)
    path = checkpoint_path(directory, state.epoch)
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    kept = sorted(_epochs(directory))[-KEPT:]
    for epoch in _epochs(directory):
        if epoch not in kept and epoch != state.best_epoch:
            checkpoint_path(directory, epoch).unlink()
    return path


def load_checkpoint(
    path: str | os.PathLike[str], model: keras.Model, optimizer: keras.optimizers.Optimizer
) -> TrainingState:
    """Restores the network and its optimizer; neither is touched unless the whole file is good.

    Args:
        path: The file.
        model: A network of the same kind.
        optimizer: Its optimizer, built.

    Returns:
        How far the training was.

    Raises:
        UserError: The file is damaged, or belongs to another network or optimizer.
    """
    try:
        # A zip archive's checksums are verified while its members are read.
        with np.load(path, allow_pickle=False) as archive:
            check_sizes(archive.zip)
            arrays = {name: archive[name] for name in archive.files}
        stored = json.loads(arrays.pop("progress").tobytes())
        state = TrainingState(**{**stored, "rows": tuple(stored.get("rows", ()))})
    except DAMAGED_ARCHIVE as error:
        raise UserError(f"The checkpoint {path} is damaged: {error}.") from None
    variables = dict(_variables(model, optimizer))
    if arrays.keys() != variables.keys():
        raise UserError(f"The checkpoint {path} belongs to another network or optimizer.")
    for name, variable in variables.items():
        if arrays[name].shape != tuple(variable.shape):
            raise UserError(f"The checkpoint {path} belongs to another network: {name} has another shape.")
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return state


def restore_newest(
    directory: str | os.PathLike[str],
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    *,
    writes: bool = True,
    report: Callable[[str], None] = print,
) -> TrainingState:
    """Restores the newest checkpoint that is whole.

    Args:
        directory: The folder of checkpoints; it may be missing or empty.
        model: The network.
        optimizer: Its optimizer, built.
        writes: Whether this process removes damaged files; of several workers the chief alone does.
        report: Told about each damaged file that is passed over.

    Returns:
        How far the training was; `TrainingState()` when nothing could be restored.
    """
    for epoch in sorted(_epochs(directory), reverse=True):
        path = checkpoint_path(directory, epoch)
        try:
            state = load_checkpoint(path, model, optimizer)
        except UserError as error:
            if "damaged" not in str(error):
                raise
            report(f"{error} Going back to the one before it.")
            if writes:
                path.unlink()
            continue
        return _with_a_best_that_exists(directory, state, report)
    return TrainingState()


def _with_a_best_that_exists(
    directory: str | os.PathLike[str], state: TrainingState, report: Callable
) -> TrainingState:
    best = checkpoint_path(directory, state.best_epoch)
    if not state.best_epoch or _is_whole(best):
        return state
    report(f"The best checkpoint {best} is missing or damaged; the best one is counted anew from here on.")
    unknown = TrainingState()
    return dataclasses.replace(
        state,
        best_epoch=unknown.best_epoch,
        best_accuracy=unknown.best_accuracy,
        best_loss=unknown.best_loss,
    )


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except DAMAGED_ARCHIVE:
        return False


def _epochs(directory: str | os.PathLike[str]) -> list[int]:
    directory = Path(directory)
    if not directory.is_dir():
        return []
    return [int(match[1]) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]


def _variables(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Iterator[tuple[str, keras.Variable]]:
    # Positions, not names: names of variables need not be unique, their order is fixed by the network.
    for kind, variables in (("model", model.variables), ("optimizer", optimizer.variables)):
        for position, variable in enumerate(variables):
            yield f"{kind}_{position:05d}", variable
