"""Networks by name, with or without published weights, and functions with keras.applications' arguments."""

import keras

from keras_resnet.errors import UserError
from keras_resnet.models.registry import get_config
from keras_resnet.models.resnet import build_model


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    weights: str | None = None,
    **options,
) -> keras.Model:
    """Creates a registered network.

    Args:
        name: Registry name, see `list_models`.
        num_classes: Width of the logits; default: the published one (1,000 for ImageNet networks, 10 for CIFAR's).
        input_shape: (height, width, channels); default: the published one.
        weights: None for random initialisation.
        **options: See `keras_resnet.models.resnet.build_model`.

    Returns:
        A model from float (batch, height, width, channels), normalised, to float32 logits (batch, num_classes).

    Raises:
        UserError: For an unknown name, option or weights, or an input that the network cannot take.
    """
    if weights is not None:
        raise UserError(f"Weights must be None. Received {weights!r}.")
    return build_model(get_config(name), num_classes=num_classes, input_shape=input_shape, **options)
