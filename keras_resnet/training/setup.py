"""What a training starts with: the data of a recipe, its networks, and how batches come."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_resnet.backends import TENSORFLOW, backend
from keras_resnet.data.feeding import check_augmentation, training_batches
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.sources import load_source
from keras_resnet.data.splits import steps_per_epoch, worker_rows
from keras_resnet.distribution import automatic_precision, gpu_names, jit_compile, keras_precision
from keras_resnet.errors import UserError
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.registry import get_config
from keras_resnet.training.batch_statistics import IMAGES as STATISTICS_IMAGES
from keras_resnet.training.batch_statistics import BatchStatistics
from keras_resnet.training.checkpoints import KEPT
from keras_resnet.training.fine_tuning import Freezing
from keras_resnet.training.losses import balanced_weights
from keras_resnet.training.memory import available_bytes, memory_warning
from keras_resnet.training.networks import compile_twin, create_evaluation_twin, create_network, create_twin
from keras_resnet.training.recipes import Recipe
from keras_resnet.workers import Workers, all_workers

if TYPE_CHECKING:
    from keras_resnet.data.dataset import DatasetSpec


@dataclass(frozen=True)
class Setup:
    """What a training starts with.

    Attributes:
        recipe: The settings, the batch no larger than the data.
        config: The configuration of the network.
        data: The data set.
        augmentation: Steps, as `training_batches` reads them.
        steps: Steps per epoch.
        model: The network that is stored; it returns logits.
        preprocessing: What belongs to it.
        twin: The network that trains, compiled.
        freezing: The callback that decides what trains in an epoch.
        statistics: Measures the statistics of averaged weights; None where none are averaged.
        strategy: From `create_strategy`.
    """

    recipe: Recipe
    config: ResNetConfig
    data: "DatasetSpec"
    augmentation: str
    steps: int
    model: keras.Model
    preprocessing: Preprocessing
    twin: keras.Model
    freezing: Freezing
    statistics: BatchStatistics | None
    strategy: Any

    def batches(self, *, epochs: int, first_epoch: int = 0, whole: bool = False) -> Any:
        """Returns the training batches of epochs first_epoch … epochs - 1, as `training_batches` does.

        Of several workers each takes its own rows, unless `whole` batches are asked for.
        """
        rows = None
        if isinstance(self.strategy, Workers) and self.strategy.workers > 1 and not whole:
            rows = worker_rows(self.recipe.batch_size, self.strategy.rank, self.strategy.workers)
        size = self.recipe.train_image_size
        preprocessing = self.preprocessing
        return training_batches(
            self.data.train,
            preprocessing if size is None else dataclasses.replace(preprocessing, height=size, width=size),
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            first_epoch=first_epoch,
            epochs=epochs,
            augmentation=self.augmentation,
            balanced=self.recipe.class_balance == "sampler",
            repeats=self.recipe.repeats,
            rows=rows,
        )

    def average(self) -> None:
        """Gives the twin the averaged weights that its optimizer keeps, and the statistics that belong to them."""
        self.twin.optimizer.finalize_variable_values(self.twin.trainable_variables)
        count = min(self.steps, -(-STATISTICS_IMAGES // self.recipe.batch_size))
        # Each worker measures by itself, on the same images.
        self.statistics.measure(self.batches(epochs=1, whole=True).take(count))


def prepare(
    recipe: Recipe,
    strategy: Any,
    *,
    config: ResNetConfig | None = None,
    learning_rate: Callable[[Any], Any] | None = None,
    report: Callable[[str], None] = print,
) -> Setup:
    """Loads the data and builds the networks of a training; writes nothing but downloaded weights.

    Args:
        recipe: The settings.
        strategy: From `create_strategy`; the devices come before the data.
        config: The configuration of the network; default: what the recipe names.
        learning_rate: A schedule of updates in place of the recipe's.
        report: Takes the lines for a person.

    Returns:
        What a training starts with.

    Raises:
        UserError: A setting or the data is wrong.
    """
    keras.utils.set_random_seed(recipe.seed)
    config = get_config(recipe.model) if config is None else config
    recipe, data = load_data(recipe, strategy, report=report)
    steps = steps_per_epoch(data.train, recipe.batch_size)
    augmentation = data.augmentation if recipe.augmentation == "default" else recipe.augmentation
    check_augmentation(augmentation)
    check_devices(recipe, strategy.num_replicas_in_sync)
    if recipe.precision == "auto":
        policy, reason = automatic_precision(recipe.devices)
        report(f"precision auto: {policy}, because {reason}")
    class_weights = None
    if recipe.class_balance == "weights":
        class_weights = balanced_weights(data.train.labels, len(data.labels))

    # `model` is the network that is stored, `twin` the one that trains.
    with strategy.scope():
        model, preprocessing = create_network(recipe, data, config)
        evaluation_twin = None
        if isinstance(strategy, Workers) and backend() == TENSORFLOW:
            evaluation_twin = functools.cache(
                lambda: create_evaluation_twin(model, recipe, preprocessing, class_weights=class_weights)
            )
        with all_workers(strategy):
            twin = create_twin(model, recipe, preprocessing, evaluation_twin=evaluation_twin)
            compile_twin(
                twin,
                recipe,
                steps=steps,
                jit_compile=jit_compile(recipe.xla, strategy),
                learning_rate=learning_rate,
                class_weights=class_weights,
            )
    if recipe.devices == "cpu" or not gpu_names():
        share = (recipe.train_image_size or preprocessing.height) / preprocessing.height
        images = recipe.batch_size // getattr(strategy, "workers", 1)
        warning = memory_warning(
            model,
            images,
            precision=keras_precision(recipe.precision, recipe.devices),
            side=share,
            available=available_bytes(),
        )
        if warning:
            report(warning)
    freezing = Freezing(
        twin,
        head_epochs=recipe.head_epochs,
        unfreeze_epochs=recipe.unfreeze_epochs,
        freeze_until=recipe.freeze_until,
    )
    statistics = BatchStatistics(twin) if recipe.ema_decay else None
    return Setup(recipe, config, data, augmentation, steps, model, preprocessing, twin, freezing, statistics, strategy)


def check_devices(recipe: Recipe, devices: int) -> None:
    """Raises UserError for settings that this number of devices cannot compute together."""
    if recipe.batch_size % devices:
        raise UserError(f"batch_size must be a multiple of the number of devices ({devices}), got {recipe.batch_size}.")
    if devices == 1:
        return
    if recipe.accumulate > 1 and backend() == TENSORFLOW:
        raise UserError(
            f"accumulate must be 1 on several TensorFlow devices, got {recipe.accumulate}. Raise batch_size, or "
            "train on one device or on JAX (KERAS_BACKEND=jax)."
        )


def load_data(recipe: Recipe, strategy: Any, *, report: Callable[[str], None] = print) -> "tuple[Recipe, DatasetSpec]":
    """Loads the data set of a recipe, and lowers a batch size that it does not fill.

    Args:
        recipe: The settings.
        strategy: From `create_strategy`.
        report: Told of a lowered batch size.

    Returns:
        The recipe as it trains, and the data set.
    """
    data = load_splits(recipe)
    if recipe.batch_size > len(data.train):
        lowered = len(data.train) - len(data.train) % strategy.num_replicas_in_sync
        report(f"batch_size {recipe.batch_size:,} is lowered to {lowered:,}: there are no more training images.")
        recipe = dataclasses.replace(recipe, batch_size=lowered)
    return recipe, data


def load_splits(recipe: Recipe) -> "DatasetSpec":
    """Loads the data set of a recipe, cut as the recipe says."""
    data = load_source(
        recipe.dataset,
        data_dir=recipe.data_dir,
        image_size=recipe.image_size,
        seed=recipe.seed,
        bad_images=recipe.bad_images,
    )
    return data if recipe.validation is None else data.with_validation(recipe.validation)


def disk_needs(model: keras.Model) -> tuple[int, int]:
    """Returns how many bytes the run directory and the served folder of a network must have room for."""
    weights = 4 * model.count_params()
    # A checkpoint has weights, momentum and perhaps averages; then the model, and a margin for the rest.
    return weights * (3 * (KEPT + 2) + 1) + 20_000_000, 3 * weights


def describe(data: "DatasetSpec") -> dict[str, Any]:
    """Returns what a run's recipe.json says about its data set."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "labels": list(data.labels),
        "image_shape": list(data.image_shape),
        "training_images": len(data.train),
        "validation_images": len(data.validation),
        "test_images": len(data.test),
        "training_images_per_class": np.bincount(data.train.labels, minlength=len(data.labels)).tolist(),
        "bad_images": dict(data.bad_images or {}),
    }
