"""Networks by name, with or without published weights, and functions with keras.applications' arguments."""

import dataclasses
import inspect
import os
from typing import TYPE_CHECKING, Any, Protocol

import keras

from keras_resnet.errors import UserError, unknown_name
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.registry import FUNCTIONS, get_config
from keras_resnet.models.resnet import build_model
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


class Application(Protocol):
    """A function with the arguments of keras.applications; `DOCSTRING` describes them."""

    def __call__(
        self,
        include_top: bool = True,
        weights: str | os.PathLike[str] | None = "imagenet",
        input_tensor: Any = None,
        input_shape: tuple[int | None, int | None, int] | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: str | None = "softmax",
        name: str | None = None,
    ) -> keras.Model: ...


if TYPE_CHECKING:

    def __getattr__(name: str) -> Application: ...  # the functions of the table, which exist when the module is loaded


def create_model(
    name: str | os.PathLike[str] | ResNetConfig,
    *,
    num_classes: int | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    weights: str | os.PathLike[str] | None = None,
    **options: Any,
) -> keras.Model:
    """Creates a network of the table, one that differs from it, or one of your own.

    Args:
        name: Registry name, see `list_models`; or a .json file, see `keras_resnet.models.config_files`; or a
            configuration.
        num_classes: Width of the logits; default: that of the published weights, else the network's (1,000 for
            ImageNet networks, 10 for CIFAR's).
        input_shape: (height, width, channels); default: the size that the weights are published for, else the
            network's.
        weights: None for random initialisation, a tag of the catalogue ("torchvision:IMAGENET1K_V2"), "imagenet" for
            the network's default entry, or a path to a file, see `keras_resnet.weights.loading.load_weights`.
        **options: See `keras_resnet.models.resnet.build_model`; and fields of `ResNetConfig` that shall differ from the
            network's, for example `attention="eca", stem="tiered"`.

    Returns:
        A model from float (batch, height, width, channels), normalised, to float32 logits (batch, num_classes).
        `keras_resnet.learnt_preprocessing` says what images go through.

    Raises:
        UserError: For an unknown name, option or weights, an input that the network cannot take, or a file that is
            wrong.
    """
    config = name if isinstance(name, ResNetConfig) else get_config(name)
    config, options = _changed(config, options)
    return _create(config, weights, {"num_classes": num_classes, "input_shape": input_shape, **options})


def _changed(config: ResNetConfig, options: dict[str, Any]) -> tuple[ResNetConfig, dict[str, Any]]:
    """Divides options into those that change the configuration, which is returned changed, and the builder's."""
    fields = {field.name for field in dataclasses.fields(ResNetConfig)}
    of_builder = set(inspect.signature(build_model).parameters) - {"config"}
    for key in options:
        if key not in of_builder | fields:
            raise unknown_name("option or ResNetConfig field", key, of_builder | fields)
    changes = {key: value for key, value in options.items() if key not in of_builder}
    return config.replace(**changes), {key: value for key, value in options.items() if key in of_builder}


def _create(config: ResNetConfig, weights: str | os.PathLike[str] | None, options: dict[str, Any]) -> keras.Model:
    if weights is None:
        return build_model(config, **options)
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
    model = build_model(config, **options)
    # A tag names weights of this network, whatever the model is called.
    return load_weights(model, weights if published is None else published)


def _application(function: str, model: str) -> Application:
    def create(
        include_top: bool = True,
        weights: str | os.PathLike[str] | None = "imagenet",
        input_tensor: Any = None,
        input_shape: tuple[int | None, int | None, int] | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: str | None = "softmax",
        name: str | None = None,
    ) -> keras.Model:
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
        return _create(get_config(model), weights, options)

    create.__name__ = create.__qualname__ = function
    create.__doc__ = DOCSTRING.format(model=model)
    return create


globals().update({function: _application(function, model) for function, model in FUNCTIONS.items()})
__all__ = ["FUNCTIONS", "create_model"]
__all__.extend(FUNCTIONS)  # in a way that documentation tools, which read the source, leave alone
