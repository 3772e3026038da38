"""The contestants of `benchmark.py budget` that train with Keras: recipes of this project, and plain `model.fit`."""

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.benchmarks.budget import Assignment, load_arrays
from keras_resnet.benchmarks.clock import BudgetClock
from keras_resnet.benchmarks.training import compiled_twin
from keras_resnet.benchmarks.turns import Seconds
from keras_resnet.data.batches import evaluation_batches, steps_per_epoch, training_batches
from keras_resnet.data.transforms import normalize
from keras_resnet.training.batch_statistics import IMAGES, BatchStatistics
from keras_resnet.training.callbacks import StopOnLostLoss
from keras_resnet.training.checkpoints import TrainingState
from keras_resnet.training.networks import create_network
from keras_resnet.training.runs import RunDirectory
from keras_resnet.training.schedules import Schedule

_WITHOUT_END = 1_000_000  # epochs: the clock ends the training


def train_recipe(assignment: Assignment, clock_options: dict[str, Any]) -> None:
    """Trains by a recipe, whose schedule runs over the budget instead of over its epochs.

    Args:
        assignment: What to train.
        clock_options: `record` and `show` of the clock.
    """
    data = load_arrays(assignment)
    recipe = assignment.recipe
    recipe = dataclasses.replace(recipe, batch_size=min(recipe.batch_size, len(data.train)))  # as the trainer does
    keras.utils.set_random_seed(recipe.seed)
    steps = steps_per_epoch(data.train, recipe.batch_size)
    augmentation = data.augmentation if recipe.augmentation == "default" else recipe.augmentation
    twin, preprocessing = compiled_twin(recipe, data)

    def batches(first_epoch: int, epochs: int) -> tf.data.Dataset:
        return training_batches(
            data.train,
            preprocessing,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            first_epoch=first_epoch,
            epochs=epochs,
            augmentation=augmentation,
        )

    accuracy = _test_accuracy(twin, data.test, preprocessing)
    statistics = BatchStatistics(twin) if recipe.ema_decay else None
    if recipe.ema_decay:
        some = list(itertools.islice(batches(0, 1), max(1, IMAGES // recipe.batch_size)))

    def test() -> tuple[float, Seconds]:
        if statistics is None:
            return accuracy(), Seconds(0.0, 0.0)
        wall, cpu = time.perf_counter(), time.process_time()
        trained = twin.get_weights()
        twin.optimizer.finalize_variable_values(twin.trainable_variables)
        statistics.measure(some)
        cost = Seconds(time.perf_counter() - wall, time.process_time() - cpu)
        found = accuracy()
        twin.set_weights(trained)
        return found, cost

    clock = BudgetClock(assignment.seconds, assignment.marks, test=test, **clock_options)
    progress = keras.Variable(0.0, trainable=False, dtype="float32")
    schedule = Schedule(**twin.optimizer.get_config()["learning_rate"]["config"])
    twin.optimizer.learning_rate = lambda: schedule(progress * schedule.steps)
    twin.fit(
        batches(0, _WITHOUT_END),
        steps_per_epoch=steps,
        epochs=_WITHOUT_END,
        callbacks=_callbacks(clock, recipe.batch_size, progress),
        shuffle=False,
        verbose=0,
    )


def train_plain(assignment: Assignment, clock_options: dict[str, Any]) -> None:
    """Trains the same network as one does without this project: Keras' own layers, Adam and defaults, `model.fit`.

    Args:
        assignment: What to train; of its recipe only the network and the seed count.
        clock_options: `record` and `show` of the clock.
    """
    data = load_arrays(assignment)
    keras.utils.set_random_seed(assignment.recipe.seed)
    model, preprocessing = create_network(assignment.recipe, data)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    accuracy = _test_accuracy(model, data.test, preprocessing)
    clock = BudgetClock(
        assignment.seconds, assignment.marks, test=lambda: (accuracy(), Seconds(0.0, 0.0)), **clock_options
    )
    images = np.asarray(normalize(data.train.images, preprocessing))
    batch_size = min(PLAIN_BATCH, len(images))
    model.fit(
        images,
        data.train.labels,
        batch_size=batch_size,
        epochs=_WITHOUT_END,
        callbacks=_callbacks(clock, batch_size),
        verbose=0,
    )


PLAIN_BATCH = 32  # the default of `model.fit`


def _test_accuracy(network: keras.Model, split: Any, preprocessing: Any) -> Any:
    """A function of nothing: the accuracy of the network as it is at the moment."""
    batches = evaluation_batches(split, preprocessing, batch_size=min(500, len(split)))

    @tf.function(reduce_retracing=True)
    def correct(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        found = tf.argmax(network(images, training=False), axis=-1, output_type=labels.dtype)
        return tf.reduce_sum(tf.cast(found == labels, tf.int32))

    return lambda: sum(int(correct(*batch)) for batch in batches) / len(split)


def _callbacks(clock: BudgetClock, batch_size: int, progress: Any = None) -> list[keras.callbacks.Callback]:
    return [StopOnLostLoss(RunDirectory(Path()), TrainingState), _Clocked(clock, batch_size, progress)]


class _Clocked(keras.callbacks.Callback):
    """Tells the clock of each step, and the schedule how far the clock is."""

    def __init__(self, clock: BudgetClock, batch_size: int, progress: Any):
        super().__init__()
        self._clock, self._batch_size, self._progress = clock, batch_size, progress

    def on_train_begin(self, logs: Any = None) -> None:
        self._clock.start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._clock.step(self._batch_size):
            self.model.stop_training = True
        if self._progress is not None:
            self._progress.assign(self._clock.progress)
