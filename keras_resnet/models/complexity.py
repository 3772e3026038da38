"""What a network costs: parameters, multiply-adds and feature-map sizes, read off its graph."""

import math
from collections.abc import Mapping

import keras
from keras import layers

from keras_resnet.errors import UserError
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.costs import Complexity, recorded_cost
from keras_resnet.models.weightless import build_weightless

# As many blocks of a stage are built to know the cost of all: the first, one of those between, and the last.
DIFFERENT_BLOCKS = 3


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
    return sum(map(_multiply_adds, model.layers))


def _multiply_adds(layer) -> int:
    if isinstance(layer, layers.Dense):
        return math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
    kinds = (layers.DepthwiseConv1D, layers.DepthwiseConv2D, layers.Conv1D, layers.Conv2D, layers.Conv3D)
    # The kernel's shape already holds input channels a group, so groups need no division here.
    return _pixels(layer) * math.prod(layer.kernel.shape) if isinstance(layer, kinds) else 0


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
    return _complexity(model, {})


def cost_of(config: ResNetConfig) -> Complexity:
    """Returns the cost of the network of a configuration at its own input size: as recorded, or else measured.

    Raises:
        UserError: The network cannot be built.
    """
    return recorded_cost(config) or measure(config)


def measure(config: ResNetConfig) -> Complexity:
    """Measures the network of a configuration at its own input size, in a fraction of the time of building it.

    Its variables get no values, and of blocks that are alike one is built and counted as often as it stands there.

    Raises:
        UserError: The network cannot be built.
    """
    built = tuple(min(depth, DIFFERENT_BLOCKS) for depth in config.depths)
    model = build_weightless(config.replace(depths=built))
    stages = enumerate(zip(config.depths, built, strict=True), start=1)
    return _complexity(model, {f"stage{stage}_block2": 1 + depth - few for stage, (depth, few) in stages})


def _complexity(model: keras.Model, repetitions: Mapping[str, int]) -> Complexity:
    """The cost of a model of which some blocks, by name, stand for several."""
    outputs, parameters, total, count = {}, 0, 0, 0
    for layer in model.layers:
        stage, _, rest = layer.name.partition("_")
        times = repetitions.get(f"{stage}_{rest.partition('_')[0]}", 1)
        if stage.startswith("stage") and rest.endswith("_out"):
            outputs[stage] = tuple(layer.output.shape[1:])
        parameters += times * sum(math.prod(weight.shape) for weight in layer.trainable_weights)
        total += times * sum(math.prod(weight.shape) for weight in layer.weights)
        count += times * _multiply_adds(layer)
    return Complexity(parameters, total, count, tuple(outputs.values()))
