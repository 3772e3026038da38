"""`benchmark.py train`: our training beside the same network in plain Keras, fitted with `model.fit`; on the backend
that Keras runs on.
"""

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.benchmarks.turns import Contestant, Seconds, take_turns
from keras_resnet.data.dataset import DatasetSpec
from keras_resnet.data.feeding import normalize, training_batches
from keras_resnet.data.splits import steps_per_epoch
from keras_resnet.distribution import create_strategy, jit_compile
from keras_resnet.models.registry import get_config
from keras_resnet.progress import ProgressBar
from keras_resnet.training.callbacks import StopOnLostLoss
from keras_resnet.training.checkpoints import TrainingState
from keras_resnet.training.fused_normalization import training_twin
from keras_resnet.training.networks import compile_twin, create_network
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.runs import RunDirectory


def benchmark_training(
    recipe: Recipe, *, image_size: int | None = None, steps: int = 12, rounds: int = 5
) -> list[dict[str, Any]]:
    """Trains on random images, in turns.

    Args:
        recipe: Its model, batch size and precision count.
        image_size: Side of the images; without it the network's.
        steps: Steps per round, at least 3; the first is not timed, so that starting the input counts for nobody.
        rounds: Rounds that count.

    Returns:
        One row: images per second of wall and processor time, ours and plain Keras', and their ratios.
    """
    side = image_size or get_config(recipe.model).input_shape[0]
    count = recipe.batch_size * steps
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    labels = (np.arange(count) % min(10, count)).astype("int32")
    data = DatasetSpec.from_arrays(images, labels, images, labels, x_validation=images, y_validation=labels)
    keras.utils.set_random_seed(0)
    contestants = {"ours": _our_round(recipe, data), "plain": _plain_round(recipe, data)}
    progress = ProgressBar()
    progress.begin(f"train {recipe.model}", (rounds + 1) * len(contestants), "rounds")
    timings = take_turns(contestants, turns=rounds, progress=progress)
    progress.end()
    ours, plain = timings["ours"], timings["plain"]
    timed = recipe.batch_size * (steps - 1)
    return [
        {
            "model": recipe.model,
            "image_size": side,
            "batch_size": recipe.batch_size,
            "images_per_second": round(timed / ours.wall_median, 1),
            "plain_keras_images_per_second": round(timed / plain.wall_median, 1),
            "ratio": round(ours.speedup_over(plain), 3),
            "images_per_cpu_second": round(timed / ours.cpu_median, 1),
            "plain_keras_images_per_cpu_second": round(timed / plain.cpu_median, 1),
            "cpu_ratio": round(ours.cpu_speedup_over(plain), 3),
            "rounds": rounds,
        }
    ]


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
