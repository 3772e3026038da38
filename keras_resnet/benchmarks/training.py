"""`benchmark.py train`: our training beside the same network in plain Keras, on the backend that Keras runs on, beside
itself on JAX, and in PyTorch.
"""

import dataclasses
import importlib.util
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.backends import JAX, TENSORFLOW, backend
from keras_resnet.benchmarks.processes import contestants_of
from keras_resnet.benchmarks.turns import Contestant, Seconds, take_turns
from keras_resnet.data.dataset import DatasetSpec
from keras_resnet.data.feeding import normalize, training_batches
from keras_resnet.data.splits import steps_per_epoch
from keras_resnet.distribution import create_strategy, jit_compile, keras_precision
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.models.registry import get_config
from keras_resnet.progress import ProgressBar
from keras_resnet.training.callbacks import StopOnLostLoss
from keras_resnet.training.checkpoints import TrainingState
from keras_resnet.training.fused_normalization import training_twin
from keras_resnet.training.networks import compile_twin, create_network
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.runs import RunDirectory

PAUSE = 0.3  # seconds, in which the threads of the contestant before stop spinning
WARMUPS = 1

OURS, ON_JAX, PLAIN, TORCH, COMPILED = "ours", "ours on JAX", "plain Keras", "PyTorch", "PyTorch compiled"
_HERE, _TORCH = "keras_resnet.benchmarks.training", "keras_resnet.benchmarks.training_torch"


def benchmark_training(
    recipe: Recipe,
    *,
    image_size: int | None = None,
    steps: int = 12,
    rounds: int = 5,
    contestants: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Trains on random images, in turns, each contestant in a process of its own.

    Args:
        recipe: Its model, batch size and precision count.
        image_size: Side of the images; without it the network's.
        steps: Steps per round, at least 3; the first is not timed, so that starting the input counts for nobody.
        rounds: Rounds that count.
        contestants: Beside ours: `ON_JAX`, `PLAIN`, `TORCH` and `COMPILED` (by `torch.compile`); None: those that can
            run here.

    Returns:
        One row a contestant: images per second of wall and processor time, and how many times as fast ours is.

    Raises:
        UserError: A contestant is unknown, or not installed.
    """
    side = image_size or get_config(recipe.model).input_shape[0]
    recipe = dataclasses.replace(recipe, precision=keras_precision(recipe.precision))
    others = available_contestants(recipe) if contestants is None else contestants
    makers = {}
    for name in (OURS, *others):
        if name not in MAKERS:
            raise unknown_name("contestant", name, MAKERS)
        module, *more = MAKERS[name]
        makers[name] = module, (recipe.to_dict(), side, steps, *more)
    if any(name in (TORCH, COMPILED) for name in others) and importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed: pip install -r requirements-torch.txt.")
    if ON_JAX in others and importlib.util.find_spec("jax") is None:
        raise UserError("JAX is not installed: pip install -r requirements-jax.txt.")
    progress = ProgressBar()
    with contestants_of(makers, {ON_JAX: {"KERAS_BACKEND": JAX}}) as running:
        progress.begin(f"train {recipe.model}", (rounds + WARMUPS) * len(running), "rounds")
        # The first round traces and compiles.
        timings = take_turns(running, turns=rounds, warmups=WARMUPS, progress=progress, pause=PAUSE)
        progress.end()
    timed = recipe.batch_size * (steps - 1)
    return [
        {
            "model": recipe.model,
            "image_size": side,
            "batch_size": recipe.batch_size,
            "precision": recipe.precision,
            "contestant": name,
            "images_per_second": round(timed / took.wall_median, 1),
            "images_per_cpu_second": round(timed / took.cpu_median, 1),
            "ours_times_as_fast": round(timings[OURS].speedup_over(took), 3),
            "ours_times_as_fast_by_cpu": round(timings[OURS].cpu_speedup_over(took), 3),
            "rounds": rounds,
        }
        for name, took in timings.items()
    ]


def available_contestants(recipe: Recipe) -> tuple[str, ...]:
    """Returns who can run beside ours: plain Keras in float32, JAX where it is installed and Keras runs on TensorFlow,
    PyTorch where it is installed and has the network.
    """
    found = [PLAIN] if recipe.precision == "float32" else []
    if backend() == TENSORFLOW and importlib.util.find_spec("jax") is not None:
        found.append(ON_JAX)
    if importlib.util.find_spec("torch") is not None:
        from keras_resnet.benchmarks.torch_networks import Network

        try:
            Network(get_config(recipe.model), 3, 10)
        except UserError:
            return tuple(found)
        found.append(TORCH)
        if shutil.which(os.environ.get("CXX", "g++")) is not None:
            found.append(COMPILED)
    return tuple(found)


def random_images(recipe: Recipe, side: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns what every contestant trains on: uint8 images [batch size × steps, side, side, 3] and int32 labels."""
    count = recipe.batch_size * steps
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    return images, (np.arange(count) % min(10, count)).astype("int32")


def make_ours(settings: dict[str, Any], side: int, steps: int) -> Contestant:
    """Returns a training by this project: input pipeline, augmentation and checks included."""
    recipe = Recipe.from_dict(settings)
    return _our_round(recipe, _data(recipe, side, steps))


def make_plain(settings: dict[str, Any], side: int, steps: int) -> Contestant:
    """Returns `model.fit` of the same layers on arrays that are normalized and in memory."""
    recipe = Recipe.from_dict(settings)
    return _plain_round(recipe, _data(recipe, side, steps))


# Name → what makes it, and further arguments.
MAKERS = {
    OURS: (f"{_HERE}:make_ours",),
    ON_JAX: (f"{_HERE}:make_ours",),
    PLAIN: (f"{_HERE}:make_plain",),
    TORCH: (f"{_TORCH}:make_torch", False),
    COMPILED: (f"{_TORCH}:make_torch", True),
}


def _data(recipe: Recipe, side: int, steps: int) -> DatasetSpec:
    images, labels = random_images(recipe, side, steps)
    keras.utils.set_random_seed(0)
    return DatasetSpec.from_arrays(images, labels, images, labels, x_validation=images, y_validation=labels)


def compiled_twin(recipe: Recipe, data: DatasetSpec) -> tuple[keras.Model, Any]:
    """Builds the network that a training of the recipe would train, and its preprocessing."""
    model, preprocessing = create_network(recipe, data)
    twin = training_twin(model, precision=recipe.precision)
    steps = steps_per_epoch(data.train, recipe.batch_size)
    compile_twin(twin, recipe, steps=steps, jit_compile=jit_compile(recipe.xla, create_strategy(recipe.devices)))
    return twin, preprocessing


def _our_round(recipe: Recipe, data: DatasetSpec) -> Contestant:
    twin, preprocessing = compiled_twin(recipe, data)
    steps = steps_per_epoch(data.train, recipe.batch_size)
    epochs = iter(range(recipe.epochs * 1000))

    def one_round() -> Seconds:
        epoch = next(epochs)
        batches = training_batches(
            data.train,
            preprocessing,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            first_epoch=epoch,
            epochs=epoch + 1,
            augmentation=data.augmentation,
        )
        clock = StepClock(steps)
        guard = StopOnLostLoss(RunDirectory(Path()), TrainingState)
        twin.fit(batches, steps_per_epoch=steps, callbacks=[guard, clock], shuffle=False, verbose=0)
        return clock.seconds

    return one_round


def _plain_round(recipe: Recipe, data: DatasetSpec) -> Contestant:
    model, preprocessing = create_network(recipe, data)  # nothing but layers of keras.layers
    optimizer = keras.optimizers.SGD(
        recipe.learning_rate, momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    images, labels = normalize(data.train.images, preprocessing), data.train.labels

    def one_round() -> Seconds:
        clock = StepClock(len(labels) // recipe.batch_size)
        model.fit(images, labels, batch_size=recipe.batch_size, callbacks=[clock], verbose=0)
        return clock.seconds

    return one_round


class StepClock(keras.callbacks.Callback):
    """Times the steps behind the first one."""

    seconds = Seconds(0.0, 0.0)

    def __init__(self, steps: int):
        super().__init__()
        self._last = steps - 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch in (0, self._last):
            float(logs["loss"])  # waits for the step
            now = time.perf_counter(), time.process_time()
            if batch == 0:
                self._began = now
            else:
                self.seconds = Seconds(*(after - before for before, after in zip(self._began, now, strict=True)))
