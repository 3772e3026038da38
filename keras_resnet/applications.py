"""Networks by name, with or without published weights, and functions with keras.applications' arguments."""

import os
from collections.abc import Callable
from typing import Any

import keras

from keras_resnet.errors import UserError
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.config_files import build_own
from keras_resnet.models.registry import FUNCTIONS, get_config
from keras_resnet.weights.catalog import find_weights
from keras_resnet.weights.loading import is_tag, load_weights

DOCSTRING = """Creates the network `{model}` with keras.applications' arguments.

Args:
    include_top: Whether pooling and a classifier follow the features.
    weights: "imagenet" for the network's default entry of the catalogue, another tag ("timm:a1_in1k"), a path to a
        file, or None for random initialisation.
    input_tensor: A Keras tensor to build on instead of a new input.
    input_shape: (height, width, channels). Default: the published size, or any size for colour images without top.
    pooling: Without top: None (the feature map), "avg" or "max".
    classes: Number of classes. Where the weights have another number, the classifier is new and a warning says so.
    classifier_activation: Activation behind the logits; None returns logits.
    name: Name of the model.

Returns:
    A model from float (batch, height, width, channels), preprocessed as
    `learnt_preprocessing(model, weights)` says, to float32 probabilities (batch, classes), or to features.

Raises:
    UserError: For an unknown argument, or weights that cannot be had or do not fit.
"""


def create_model(
    name: str | os.PathLike[str] | ResNetConfig,
    *,
    num_classes: int | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    weights: str | os.PathLike[str] | None = None,
    **options,
) -> keras.Model:
    """Creates a network of the table, or one of your own.

    Args:
        name: Registry name, see `list_models`; or a .json file, see `keras_resnet.models.config_files`; or a
            configuration.
        num_classes: Width of the logits; default: that of the published weights, else the network's (1,000 for
            ImageNet networks, 10 for CIFAR's).
        input_shape: (height, width, channels); default: the size that the weights are published for, else the
            network's.
        weights: None for random initialisation, a tag of the catalogue ("torchvision:IMAGENET1K_V2"), "imagenet" for
            the network's default entry, or a path to a file, see `keras_resnet.weights.loading.load_weights`.
        **options: See `keras_resnet.models.resnet.build_model`.

    Returns:
        A model from float (batch, height, width, channels), normalised, to float32 logits (batch, num_classes).
        `keras_resnet.learnt_preprocessing` says what images go through.

    Raises:
        UserError: For an unknown name, option or weights, an input that the network cannot take, or a file that is
            wrong.
    """
    return _create(name, weights, {"num_classes": num_classes, "input_shape": input_shape, **options})


def _create(
    network: str | os.PathLike[str] | ResNetConfig, weights: str | os.PathLike[str] | None, options: dict[str, Any]
) -> keras.Model:
    config = network if isinstance(network, ResNetConfig) else get_config(network)
    if weights is None:
        return build_own(config, **options)
    published = find_weights(config.name, str(weights)) if is_tag(weights) else None
    if published is None and not os.path.exists(weights):
        raise UserError(
            f"Weights are None, 'imagenet', a tag like 'torchvision:IMAGENET1K_V2', or a file. There is no file "
            f"{os.fspath(weights)!r}."
        )
    if published is not None:
        if options["input_shape"] is None and options.get("input_tensor") is None:
            options = {**options, "input_shape": (published.size, published.size, config.input_shape[2])}
        if options["num_classes"] is None:
            options = {**options, "num_classes": published.classes}
    model = build_own(config, **options)
    # A tag names weights of this network, whatever the model is called.
    return load_weights(model, weights if published is None else published)


def _application(function: str, model: str) -> Callable[..., keras.Model]:
    def create(
        include_top=True,
        weights="imagenet",
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=1000,
        classifier_activation="softmax",
        name=None,
    ):
        if not include_top and input_shape is None and input_tensor is None:
            input_shape = (None, None, 3)
        options = {
            "num_classes": classes,
            "input_shape": input_shape,
            "include_top": include_top,
            "input_tensor": input_tensor,
            "pooling": pooling,
            "classifier_activation": classifier_activation,
            "name": name,
        }
        return _create(model, weights, options)

    create.__name__ = create.__qualname__ = function
    create.__doc__ = DOCSTRING.format(model=model)
    return create


globals().update({function: _application(function, model) for function, model in FUNCTIONS.items()})
__all__ = ["FUNCTIONS", "create_model", *FUNCTIONS]
