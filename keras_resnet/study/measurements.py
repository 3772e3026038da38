"""What can be measured of a trained network beside its accuracy: gradients by layer, deleted blocks, loss around it.

Every function leaves the network as it was.

References:
    Veit et al. 2016, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks", arXiv:1605.06431
        (deletion of single blocks).
    Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets", arXiv:1712.09913 (filter-normalised directions).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_resnet.errors import UserError
from keras_resnet.models.config import ResNetConfig

Score = Callable[[Iterable[Any]], tuple[float, float]]


def scorer(model: keras.Model) -> Score:
    """Compiles a function that scores a network with the weights that it has when called.

    Args:
        model: A network that returns logits.

    Returns:
        A function of batches, (images, labels) each, that returns the mean cross-entropy and the part of the images
        that is classified wrongly, 0..1. Batch normalisation uses its stored statistics.
    """

    @tf.function(input_signature=_signature(model), autograph=False)
    def sums(images: Any, labels: Any) -> tuple[Any, Any]:
        logits = tf.cast(model(images, training=False), tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        wrong = tf.argmax(logits, axis=-1, output_type=tf.int32) != labels
        return tf.reduce_sum(losses), tf.reduce_sum(tf.cast(wrong, tf.int32))

    # One shape, traced now: called otherwise, TensorFlow warns that every network has a function of its own.
    compiled = sums.get_concrete_function()

    def score(batches: Iterable[Any]) -> tuple[float, float]:
        loss, wrong, count = 0.0, 0, 0
        for images, labels in batches:
            some_loss, some_wrong = compiled(images, labels)
            loss, wrong, count = loss + float(some_loss), wrong + int(some_wrong), count + len(labels)
        return loss / count, wrong / count

    return score


def gradient_norms(model: keras.Model) -> Callable[[Any, Any], dict[str, float]]:
    """Compiles a function that measures how much of the loss's gradient reaches each convolution.

    Args:
        model: A network that returns logits.

    Returns:
        A function of images and labels that returns, for each convolution and the classifier in their order, the
        Euclidean norm of the gradient of the mean cross-entropy by its kernel. Batch normalisation uses the batch's
        statistics, as in a training step.
    """
    weighted = [layer for layer in model.layers if isinstance(layer, layers.Conv2D | layers.Dense)]
    kernels = [layer.kernel for layer in weighted]

    @tf.function(input_signature=_signature(model), autograph=False)
    def norms(images: Any, labels: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            logits = tf.cast(model(images, training=True), tf.float32)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        return [tf.norm(gradient) for gradient in tape.gradient(loss, [kernel.value for kernel in kernels])]

    compiled = norms.get_concrete_function()

    def measure(images: Any, labels: Any) -> dict[str, float]:
        with _unchanged(model.non_trainable_variables):  # a step in training mode moves the statistics
            found = compiled(images, labels)
        return {layer.name: float(norm) for layer, norm in zip(weighted, found, strict=True)}

    return measure


def deletable_blocks(config: ResNetConfig) -> list[str]:
    """Names the blocks that `deleted` can delete, in their order: what a plain network has no identity for is left out.

    Raises:
        UserError: The network has blocks of another build.
    """
    if config.activation_order != "post" or config.activation != "relu" or config.attention != "none":
        raise UserError(
            "Blocks are deleted of networks with activation_order 'post', activation 'relu' and attention 'none', got "
            f"{config.activation_order!r}, {config.activation!r} and {config.attention!r}."
        )
    return [
        f"stage{stage}_block{block}"
        for stage, depth in enumerate(config.depths, start=1)
        for block in range(1, depth + 1)
        if config.shortcut != "none" or _keeps_shape(config, stage, block)
    ]


@contextlib.contextmanager
def deleted(model: keras.Model, config: ResNetConfig, block: str) -> Iterator[None]:
    """Takes a block out of a network while the context lasts: what comes in goes out unchanged.

    A residual block's branch returns zeros, and the shortcut stays (Veit 2016, section 4.1). A plain block gets the
    weights of the identity: kernels that pass each pixel on, and normalisation that undoes itself.

    Args:
        model: A network of `config`, or its training twin.
        config: What it was built from.
        block: Which block, as "stage2_block3".

    Raises:
        UserError: There is no such block, or it is one of a plain network where the shape changes: nothing could go
            out in its place.
    """
    known = deletable_blocks(config)
    if block not in known:
        is_there = any(layer.name.startswith(f"{block}_") for layer in model.layers)
        raise UserError(
            f"A plain network's block can be deleted where its output has the shape of its input, {block} changes it. "
            f"Choose one of {', '.join(known)}."
            if is_there
            else f"A block to delete must be one of {', '.join(known)}, got {block}."
        )
    inside = [layer for layer in model.layers if layer.name.startswith(f"{block}_")]
    inside = [layer for layer in inside if "_shortcut_" not in layer.name]
    if config.shortcut != "none":
        convolutions = [layer for layer in inside if isinstance(layer, layers.Conv2D)]
        silenced = [
            variable
            for layer in inside
            if layer is convolutions[-1] or layer.name == convolutions[-1].name.replace("conv", "norm")
            for variable in layer.trainable_variables
        ]
        with _unchanged(silenced):
            for variable in silenced:
                variable.assign(np.zeros(variable.shape, np.float32))
            yield
        return
    variables = [variable for layer in inside for variable in layer.trainable_variables]
    with _unchanged(variables):
        for layer in inside:
            _become_identity(layer)
        yield


def random_direction(model: keras.Model, seed: int) -> dict[str, np.ndarray]:
    """Draws a direction among a network's weights whose filters are as long as the network's.

    Args:
        model: The network.
        seed: What the direction depends on.

    Returns:
        Path of a kernel → float32 array of its shape. Each filter, all that leads to one output channel, has the norm
        of the network's own. Biases and normalisation do not move.

    Reference:
        Li 2018, section 4.
    """
    random = np.random.default_rng(seed)
    direction = {}
    for layer in model.layers:
        if not isinstance(layer, layers.Conv2D | layers.Dense):
            continue
        kernel = np.asarray(layer.kernel.numpy(), np.float32)
        drawn = random.standard_normal(kernel.shape).astype(np.float32)
        lengths = [np.linalg.norm(each.reshape(-1, kernel.shape[-1]), axis=0) for each in (kernel, drawn)]
        direction[layer.kernel.path] = drawn * (lengths[0] / np.maximum(lengths[1], 1e-12))
    return direction


def loss_along(
    model: keras.Model,
    direction: dict[str, np.ndarray],
    positions: Sequence[float],
    score: Callable[[], float],
) -> list[float]:
    """Returns the loss at each position along a direction; 0 is the network as it is.

    Args:
        model: The network.
        direction: From `random_direction`.
        positions: By how many times the direction the weights are moved.
        score: Returns the loss of the network with the weights that it has.
    """
    kernels = [variable for variable in model.trainable_variables if variable.path in direction]
    start = [variable.numpy() for variable in kernels]
    losses = []
    with _unchanged(kernels):
        for position in positions:
            for variable, value in zip(kernels, start, strict=True):
                variable.assign(value + np.float32(position) * direction[variable.path])
            losses.append(score())
    return losses


def _signature(model: keras.Model) -> list[Any]:
    """Images and labels, however many: a deep network takes longest to be traced, and is traced once."""
    return [tf.TensorSpec(model.input_shape, tf.float32), tf.TensorSpec((None,), tf.int32)]


@contextlib.contextmanager
def _unchanged(variables: Sequence[Any]) -> Iterator[None]:
    """Gives variables their values back, whatever happens."""
    values = [variable.numpy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def _keeps_shape(config: ResNetConfig, stage: int, block: int) -> bool:
    if block > 1:
        return True
    comes = config.stem_width if stage == 1 else config.out_channels(stage - 2)
    return config.strides[stage - 1] == 1 and comes == config.out_channels(stage - 1)


def _become_identity(layer: Any) -> None:
    if isinstance(layer, layers.Conv2D):
        kernel = np.zeros(layer.kernel.shape, np.float32)
        middle = tuple(side // 2 for side in kernel.shape[:2])
        kernel[middle] = np.eye(*kernel.shape[2:])
        layer.kernel.assign(kernel)
        if layer.use_bias:
            layer.bias.assign(np.zeros(layer.bias.shape, np.float32))
    elif isinstance(layer, layers.BatchNormalization):
        layer.gamma.assign(np.sqrt(layer.moving_variance.numpy() + layer.epsilon))
        layer.beta.assign(layer.moving_mean.numpy())
