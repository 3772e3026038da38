"""What a network costs: parameters, multiply-adds and feature-map sizes, read off its graph."""

import math
from dataclasses import dataclass

import keras
from keras import layers

from keras_resnet.errors import UserError
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.weightless import build_weightless


@dataclass(frozen=True)
class Complexity:
    """The cost of one network at one input size.

    Attributes:
        parameters: Trainable parameters, as papers and PyTorch count them.
        total_parameters: With the moving statistics of batch normalisation, as Keras' summary counts them.
        multiply_adds: Multiply-accumulate operations for one image in convolutions and dense layers; what papers call
            FLOPs (He 2015, table 1).
        feature_maps: (height, width, channels) that leave each stage.
    """

    parameters: int
    total_parameters: int
    multiply_adds: int
    feature_maps: tuple[tuple[int, int, int], ...]


def multiply_adds(model: keras.Model) -> int:
    """Counts the multiply-accumulate operations of one image's forward pass.

    Only convolutions and dense layers count, as in the papers; normalisation, activation and pooling do not.

    Args:
        model: A flat functional model whose input sides are known.

    Returns:
        The number of multiply-adds.

    Raises:
        UserError: If an input side is unknown, since the count depends on it.
    """
    total = 0
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            total += math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
        elif isinstance(layer, layers.DepthwiseConv1D | layers.DepthwiseConv2D):
            total += _pixels(layer) * math.prod(layer.kernel.shape)
        elif isinstance(layer, layers.Conv1D | layers.Conv2D | layers.Conv3D):
            # The kernel's shape already holds input channels a group, so groups need no division here.
            total += _pixels(layer) * math.prod(layer.kernel.shape)
    return total


def _pixels(layer) -> int:
    spatial = layer.output.shape[1:-1]
    if any(side is None for side in spatial):
        raise UserError(
            f"Multiply-adds depend on the input's size, and {layer.name!r} has an unknown one. "
            "Build the model with input_shape=(height, width, channels)."
        )
    return math.prod(spatial)


def complexity(model: keras.Model) -> Complexity:
    """Measures a network built by `build_model`.

    Raises:
        UserError: If its input sides are unknown.
    """
    outputs = {}
    for layer in model.layers:
        part = layer.name.split("_")[0]
        if part.startswith("stage") and layer.name.endswith("_out"):
            outputs[part] = tuple(layer.output.shape[1:])
    return Complexity(
        parameters=sum(math.prod(weight.shape) for weight in model.trainable_weights),
        total_parameters=model.count_params(),
        multiply_adds=multiply_adds(model),
        feature_maps=tuple(outputs.values()),
    )


def complexity_of(config: ResNetConfig | str, **options) -> Complexity:
    """Measures a network without its weights: no memory is taken and no number drawn, however large it is.

    Args:
        config: A registry name or a configuration.
        **options: As for `build_model`, for example `input_shape`.

    Raises:
        UserError: If the network cannot be built so, or its input sides are unknown.
    """
    return complexity(build_weightless(config, **options))
