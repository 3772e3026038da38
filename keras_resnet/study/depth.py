"""The study of depth: plain and residual networks trained alike, one file a network, continued where it stopped.

The training is that of `train.py` (`training.setup`), on images as they are: the training error is then that of the
images that were learnt.

References:
    He et al. 2015, arXiv:1512.03385, section 4.2 and figure 6.
    `measurements.py` names those of what is measured of each network.
"""

import csv
import dataclasses
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.data.feeding import evaluation_batches
from keras_resnet.distribution import create_strategy
from keras_resnet.errors import UserError
from keras_resnet.progress import ProgressBar
from keras_resnet.storage import check_writable, read_json, write_json, write_text
from keras_resnet.study.kinds import network_config
from keras_resnet.study.measurements import (
    deletable_blocks,
    deleted,
    gradient_norms,
    loss_along,
    random_direction,
    scorer,
)
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.setup import Setup, load_splits, prepare

# Images that gradients, deletions and directions are measured on; the first of their split.
PROBE_IMAGES = 256
POSITIONS = tuple(float(position) for position in np.round(np.linspace(-1, 1, 21), 2))
TRAINED, DIVERGED = "trained", "diverged"


@dataclass(frozen=True)
class StudySettings:
    """What all networks of a study share.

    Attributes:
        dataset: A data set, as `load_source` names it.
        image_size: Side of the network input; None for the data set's.
        epochs: Passes over the training images.
        batch_size: Images a step.
        learning_rate: The highest one.
    """

    dataset: str = "digits"
    image_size: int | None = None
    epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 0.1

    def recipe(self, seed: int) -> Recipe:
        """Returns how a network is trained: He 2015's optimizer, its rate warmed up and lowered along a cosine."""
        shared = dataclasses.asdict(self)
        return Recipe(**shared, seed=seed, augmentation="none", weight_decay=1e-4)


@dataclass(frozen=True, order=True)
class Network:
    """One network of a study. Networks are trained in their order, so that a time box ends with whole comparisons.

    Attributes:
        seed: Seed of weights and order.
        depth: Layers with weights, 6n + 2.
        kind: A row of `KINDS`.
    """

    seed: int
    depth: int
    kind: str

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.depth}-seed{self.seed}"


class StudyFolder:
    """Where a study keeps what it has: study.json (the settings), networks/*.json, and networks.csv for tables.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def rows(self) -> Path:
        return self.path / "networks.csv"

    def file(self, network: Network) -> Path:
        return self.path / "networks" / f"{network.name}.json"

    def check(self, settings: StudySettings, fingerprint: str) -> None:
        """Raises the UserError where the folder holds a study with other settings or of other data."""
        known, asked = self._settings(), {**dataclasses.asdict(settings), "data fingerprint": fingerprint}
        for name, value in asked.items():
            if known is not None and known.get(name) != value:
                raise UserError(
                    f"A study keeps its settings. {self.path} was begun with {name} {known.get(name)}, got {value}. "
                    "Give the same, or another --output."
                )

    def begin(self, settings: StudySettings, fingerprint: str) -> None:
        """Writes the settings down where there are none yet."""
        check_writable(self.path / "networks", 1 << 20)
        if self._settings() is None:
            write_json(self.path / "study.json", {**dataclasses.asdict(settings), "data fingerprint": fingerprint})

    def read(self, networks: Sequence[Network]) -> list[dict[str, Any]]:
        """Returns what is known of those networks that are finished, in their order."""
        return [read_json(self.file(network)) for network in sorted(networks) if self.file(network).is_file()]

    def keep(self, network: Network, found: dict[str, Any]) -> None:
        """Writes what was found of a network, and networks.csv anew: a row for each that is finished."""
        write_json(self.file(network), found)
        rows = [read_json(file)["row"] for file in self.file(network).parent.glob("*.json")]
        rows.sort(key=lambda row: (row["seed"], row["depth"], row["kind"]))
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(found["row"]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.rows, text.getvalue())

    def _settings(self) -> dict[str, Any] | None:
        file = self.path / "study.json"
        return read_json(file) if file.is_file() else None


def run_study(
    settings: StudySettings,
    networks: Sequence[Network],
    folder: StudyFolder,
    *,
    budget_seconds: float = math.inf,
    progress: ProgressBar | None = None,
    provenance: Callable[[], dict[str, str]] = dict,
) -> list[Network]:
    """Trains and measures the networks that the folder lacks.

    Args:
        settings: What all share.
        networks: Which.
        folder: Where each is written as soon as it is finished.
        budget_seconds: No network is begun after so long.
        progress: Has two stages for each network that is not finished.
        provenance: Returns further columns of networks.csv, the same ones in every call.

    Returns:
        The networks that are left.

    Raises:
        UserError: A setting or the data is wrong, or the folder has another study.
    """
    began = time.monotonic()
    strategy = create_strategy("auto")
    fingerprint = load_splits(settings.recipe(0)).fingerprint
    folder.check(settings, fingerprint)
    left = [network for network in sorted(set(networks)) if not folder.file(network).is_file()]
    progress = progress or ProgressBar(show=False)
    while left:
        if time.monotonic() - began >= budget_seconds:
            return left
        network = left[0]
        # Networks before would stay in memory, and their names would count on.
        keras.utils.clear_session()
        config = network_config(network.kind, network.depth)
        setup = prepare(settings.recipe(network.seed), strategy, config=config, report=lambda line: None)
        folder.begin(settings, fingerprint)
        found = _examine(setup, network, progress)
        first = {"dataset": settings.dataset, "image_size": setup.data.image_shape[0]}
        folder.keep(network, {**found, "row": {**first, **found["row"], **provenance()}})
        del left[0]
    return left


def _examine(setup: Setup, network: Network, progress: ProgressBar) -> dict[str, Any]:
    """Trains a network and measures it; what cannot be measured of one that diverged is None."""
    twin, recipe = setup.twin, setup.recipe
    probe, test_probe = (_first(split, setup) for split in (setup.data.train, setup.data.test))
    blocks = deletable_blocks(setup.config)
    measure_gradients, score = gradient_norms(twin), scorer(twin)

    progress.begin(f"train {network.name}", recipe.epochs * setup.steps, "steps")
    at_start = measure_gradients(*probe)
    wall, cpu = time.perf_counter(), time.process_time()
    course = _Course(progress)
    twin.fit(
        setup.batches(epochs=recipe.epochs),
        steps_per_epoch=setup.steps,
        epochs=recipe.epochs,
        callbacks=[course],
        shuffle=False,
        verbose=0,
    )
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    progress.end(progress.done)

    progress.begin(f"measure {network.name}", 4 + len(blocks) + len(POSITIONS), "steps")
    train_loss, train_error = score(_batches(setup.data.train, setup))
    progress.step()
    _, test_error = score(_batches(setup.data.test, setup))
    progress.step()
    is_lost = course.is_lost or not math.isfinite(train_loss)
    found: dict[str, Any] = {
        "gradients_start": at_start,
        "gradients_end": None,
        "deletions": None,
        "direction": None,
        "losses": [loss for loss, _ in course.epochs],
        "errors": [error for _, error in course.epochs],
    }
    if not is_lost:
        found["gradients_end"] = measure_gradients(*probe)
        progress.step()
        found["intact_error"] = score([test_probe])[1]
        progress.step()
        found["deletions"] = dict(_delete_each(setup, blocks, lambda: score([test_probe])[1], progress))
        direction = random_direction(twin, network.seed)

        def loss_there() -> float:
            progress.step()
            return score([probe])[0]

        losses = loss_along(twin, direction, POSITIONS, loss_there)
        found["direction"] = {"positions": list(POSITIONS), "losses": [_finite(loss) for loss in losses]}
    progress.end()
    norms = [at_start[name] for name in at_start if name != "logits"]
    deletions = list((found["deletions"] or {}).values())
    found["row"] = {
        "kind": network.kind,
        "depth": network.depth,
        "seed": network.seed,
        "state": DIVERGED if is_lost else TRAINED,
        "parameters": setup.model.count_params(),
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "training_error": "" if is_lost else _digits(train_error),
        "training_loss": "" if is_lost else _digits(train_loss),
        # While the weights still changed, by the statistics of each batch.
        "error_in_last_epoch": "" if is_lost else _digits(course.epochs[-1][1]),
        "test_error": "" if is_lost else _digits(test_error),
        # How much more gradient the first convolution gets than the last one; 1 where all get the same.
        "first_to_last_gradient": _digits(norms[0] / norms[-1]) if norms[-1] and math.isfinite(norms[0]) else "",
        "error_with_a_block_deleted": _digits(float(np.mean(deletions))) if deletions else "",
        "worst_deletion": _digits(max(deletions)) if deletions else "",
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
    }
    for key in ("gradients_start", "gradients_end"):
        if found[key] is not None:
            found[key] = {name: _finite(norm) for name, norm in found[key].items()}
    return found


def _delete_each(
    setup: Setup, blocks: Sequence[str], error: Callable[[], float], progress: ProgressBar
) -> Iterator[tuple[str, float]]:
    for block in blocks:
        with deleted(setup.twin, setup.config, block):
            yield block, error()
        progress.step()


class _Course(keras.callbacks.Callback):
    """Follows a training, and ends one whose loss is lost.

    Attributes:
        epochs: (loss, error) of each complete epoch, means over its steps.
        is_lost: Whether a loss was not finite.
    """

    def __init__(self, progress: ProgressBar):
        super().__init__()
        self.epochs: list[tuple[float, float]] = []
        self.is_lost = False
        self._progress = progress

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._progress.step()
        if not math.isfinite(float(logs["loss"])):
            self.is_lost = self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not self.is_lost:
            self.epochs.append((float(logs["loss"]), 1 - float(logs["accuracy"])))


def _batches(split: Any, setup: Setup) -> Any:
    return evaluation_batches(split, setup.preprocessing, batch_size=PROBE_IMAGES)


def _first(split: Any, setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """The first images of a split, ready for the network, and their labels."""
    images, labels = next(iter(_batches(split, setup)))
    return np.asarray(images), np.asarray(labels)


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return float(value) if math.isfinite(value) else None


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
