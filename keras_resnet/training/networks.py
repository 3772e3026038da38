"""The networks of a training: the one that is stored, and its twin, which trains."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras

from keras_resnet.applications import create_model
from keras_resnet.artifact import load_artifact
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.distribution import keras_precision
from keras_resnet.errors import UserError
from keras_resnet.models.config import ResNetConfig
from keras_resnet.training.distillation import DistilledModel, teacher_answers
from keras_resnet.training.fine_tuning import rate_factors
from keras_resnet.training.fused_normalization import copy_weights, training_twin
from keras_resnet.training.losses import Accuracy, BalancedAccuracy, create_loss
from keras_resnet.training.optimizers import LossScale, create_optimizer, start_averages
from keras_resnet.training.recipes import Recipe, parse_milestones
from keras_resnet.training.schedules import Schedule
from keras_resnet.training.several_devices import MultiWorkerModel
from keras_resnet.weights.loading import learnt_preprocessing, load_weights

if TYPE_CHECKING:
    from keras_resnet.data.dataset import DatasetSpec


def create_network(
    recipe: Recipe, data: "DatasetSpec", config: ResNetConfig | None = None
) -> tuple[keras.Model, Preprocessing]:
    """Builds the float32 network of a recipe for a data set, and the preprocessing that belongs to it.

    Args:
        recipe: The settings.
        data: The data set.
        config: The configuration of the network; default: what the recipe names.

    Returns:
        The network, which returns logits, and its preprocessing.
    """
    height, width, channels = data.image_shape
    options = {
        "drop_rate": recipe.drop_rate,
        "stochastic_depth_rate": recipe.stochastic_depth_rate,
        "last_gamma": recipe.last_gamma,
    }
    model = create_model(
        recipe.model if config is None else config,
        num_classes=len(data.labels),
        input_shape=(height, width, channels),
        **{option: value for option, value in options.items() if value},
    )
    preprocessing = Preprocessing(
        height=height,
        width=width,
        channels=channels,
        mean=data.mean,
        std=data.std,
        resize=recipe.resize,
        crop_fraction=recipe.crop_fraction,
        labels=data.labels,
    )
    if recipe.weights is None:
        if recipe.head_epochs or recipe.freeze_until:
            raise UserError(
                "Freezing layers needs weights that have learnt something, and weights is not set. Give --weights, or "
                "leave head_epochs and freeze_until out."
            )
        return model, preprocessing
    # Weights belong to pixels like those that they were trained on, and a head to the classes that it was trained on.
    learnt = learnt_preprocessing(model, recipe.weights)
    is_other_task = learnt is not None and bool(learnt.labels) and not data.has_classes(learnt.labels)
    load_weights(model, recipe.weights, head="new" if is_other_task else "auto")
    if learnt is not None:
        preprocessing = dataclasses.replace(
            preprocessing,
            mean=learnt.mean,
            std=learnt.std,
            color_order=learnt.color_order,
            interpolation=learnt.interpolation,
        )
    return model, preprocessing


def create_twin(
    model: keras.Model,
    recipe: Recipe,
    preprocessing: Preprocessing,
    *,
    evaluation_twin: Callable[[], keras.Model] | None = None,
) -> keras.Model:
    """Builds the network that trains in place of another one: faster, at other sizes, or with a teacher.

    Args:
        model: The network that is stored.
        recipe: The settings.
        preprocessing: The network's input.
        evaluation_twin: See `MultiWorkerModel`; given where several workers train on TensorFlow.

    Returns:
        A network with the same weights in the same order.
    """
    source = model
    if recipe.train_image_size not in (None, preprocessing.height, preprocessing.width):
        config = model.get_config()  # the same layers for any size
        source = keras.Model.from_config(_without_size(config))
        copy_weights(model, source)
    precision = keras_precision(recipe.precision, recipe.devices)
    twin = training_twin(source, precision=precision, batch_norm=recipe.batch_norm)
    if recipe.teacher is None:
        return twin if evaluation_twin is None else MultiWorkerModel(twin, evaluation_twin)
    return DistilledModel(
        twin,
        teacher=teacher_answers(load_artifact(recipe.teacher), preprocessing, preprocessing.labels),
        temperature=recipe.teacher_temperature,
        weight=recipe.teacher_weight,
        evaluation_twin=evaluation_twin,
    )


def create_evaluation_twin(
    model: keras.Model, recipe: Recipe, preprocessing: Preprocessing, *, class_weights: Sequence[float] | None = None
) -> keras.Model:
    """Builds a network that computes a twin's loss and metrics but does not train; see `create_twin`."""
    twin = create_twin(model, dataclasses.replace(recipe, teacher=None), preprocessing)
    twin.compile(**_loss_and_metrics(twin, recipe, class_weights), jit_compile=False)
    return twin


def _loss_and_metrics(twin: keras.Model, recipe: Recipe, class_weights: Sequence[float] | None) -> dict[str, Any]:
    classes = twin.output_shape[-1]
    loss = create_loss(
        recipe.loss,
        classes,
        smoothing=recipe.label_smoothing,
        threshold=recipe.target_threshold,
        class_weights=class_weights,
    )
    balanced = [BalancedAccuracy(classes)] if recipe.class_balance != "none" else []
    return {"loss": loss, "metrics": [Accuracy(classes), *balanced], "auto_scale_loss": False}


def compile_twin(
    twin: keras.Model,
    recipe: Recipe,
    *,
    steps: int,
    jit_compile: bool | str,
    learning_rate: Callable[[Any], Any] | None = None,
    class_weights: Sequence[float] | None = None,
) -> None:
    """Gives a network the loss, optimizer and metrics of a recipe.

    Args:
        twin: The network that trains.
        recipe: The settings.
        steps: Steps per epoch.
        jit_compile: From `distribution.jit_compile`.
        learning_rate: A schedule of updates in place of the recipe's.
        class_weights: A weight for each class in the loss; None weights all the same.
    """
    warmup_epochs = recipe.epochs / 20 if recipe.warmup_epochs is None else recipe.warmup_epochs
    updates = steps * recipe.epochs // recipe.accumulate
    if not updates:
        raise UserError(
            f"accumulate must be at most the steps of the training ({steps * recipe.epochs:,}), got "
            f"{recipe.accumulate:,}. Lower it."
        )
    optimizer = create_optimizer(
        twin,
        learning_rate=learning_rate
        or Schedule(
            name=recipe.schedule,
            learning_rate=recipe.learning_rate * recipe.rate_factor,
            steps=updates,
            warmup_steps=round(updates * warmup_epochs / recipe.epochs),
            milestones=parse_milestones(recipe.milestones),
            decay_factor=recipe.decay_factor,
            final_learning_rate=recipe.final_learning_rate * recipe.rate_factor,
        ),
        name=recipe.optimizer,
        momentum=recipe.momentum,
        momentum_form=recipe.momentum_form,
        weight_decay=recipe.weight_decay,
        decay_form=recipe.decay_form,
        clip_norm=recipe.clip_norm,
        clip_factor=recipe.clip_factor,
        rate_factors=rate_factors(twin, recipe.layer_decay),
        accumulate=recipe.accumulate,
        ema_decay=recipe.ema_decay,
    )
    if recipe.precision == "mixed_float16":
        optimizer = LossScale(optimizer)
    optimizer.build(twin.trainable_variables)
    start_averages(optimizer)
    twin.compile(
        optimizer=optimizer,
        **_loss_and_metrics(twin, recipe, class_weights),
        jit_compile=jit_compile,
    )


def _without_size(config: dict[str, Any]) -> dict[str, Any]:
    """A functional model's configuration, with height and width of its input left open."""
    config = copy.deepcopy(config)
    for layer in config["layers"]:
        if layer["class_name"] == "InputLayer":
            batch, _, _, channels = layer["config"]["batch_shape"]
            layer["config"]["batch_shape"] = (batch, None, None, channels)
    return config
