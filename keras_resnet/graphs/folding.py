"""Batch normalisation folded into convolutions: the same function with fewer operators, for inference.

At inference batch normalisation is an affine map of each channel, y = s·x + t with s = γ/√(σ² + ε) and t = β − s·μ.
Behind a convolution (or Dense) it becomes part of the kernel and the bias (Jacob et al. 2018, arXiv:1712.05877, section
3.2). In front of one it does, too, as long as no border of zeros is padded in between: zeros would have had to be −t/s.

Post-activation residual networks end with no batch normalisation at all. Pre-activation ones keep those that stand
between an addition and an activation, where no linear operator is near.
"""

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_resnet.graphs.rewriting import Graph, copy_layer, functional, rewrite
from keras_resnet.models.standardized import WeightStandardizedConv2D, plain_layer, plain_weights

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_LINEAR = (*_CONVOLUTIONS, *_DEPTHWISE, *_TRANSPOSED, layers.Dense)


def fold_batch_norms(model: keras.Model) -> keras.Model:
    """Rewrites a network for inference with its batch normalisations folded into neighbouring linear layers.

    A normalisation folds when nothing else reads what lies between it and its convolution: one consumer, no activation,
    not an output of the model. Both must be called once, because shared weights cannot hold two foldings.

    A strided shortcut, a max pooling of one pixel, becomes a depthwise convolution of one pixel, which gives the same:
    TFLite's fast kernels (XNNPACK) know no such pooling, and handing the work over and back costs more than doing it.
    Where channels of zeros are padded behind it, both become one convolution whose kernel moves channels: in a network
    of a sixth of a millisecond each operator counts.

    A convolution with weight standardisation becomes a plain one with the standardised kernel.

    Args:
        model: A functional or Sequential model; models nested in it are rewritten as well. It is left as it is.

    Returns:
        A new functional model with the same inputs, outputs and layer names, without the folded layers. Its outputs at
        inference are the same but for rounding. Train the original, not this one.

    Raises:
        UserError: If the model is neither functional nor Sequential.
    """
    model = functional(model)
    plan = _plan(model)

    def clone(layer):
        if layer in plan.folded:
            return layer  # never called: `call` hands its input on
        changes = {"use_bias": True} if layer in plan.affine else {}
        if isinstance(layer, WeightStandardizedConv2D):
            return plain_layer(layer, **changes)
        if changes:
            return type(layer).from_config({**layer.get_config(), **changes})
        if isinstance(layer, keras.Model):
            return fold_batch_norms(layer)
        if layer in plan.paddings:
            return _strided_convolution(layer, filters=layer.output.shape[-1] + sum(plan.paddings[layer]))
        return _strided_identity(layer) if _only_strides(layer) else copy_layer(layer)

    def call(layer, *args, **kwargs):
        return args[0] if layer in plan.folded else layer(*args, **kwargs)

    def set_weights(old, new):
        if old in plan.affine:
            new.set_weights(plan.affine[old].folded_weights(old))
        elif old in plan.paddings:
            new.set_weights(
                [np.pad(np.eye(old.output.shape[-1]), ((0, 0), plan.paddings[old]))[np.newaxis, np.newaxis]]
            )
        elif old not in plan.folded and not isinstance(old, keras.Model) and not _only_strides(old):
            new.set_weights(_weights(old))

    return rewrite(model, clone, call=call, set_weights=set_weights)


@dataclass
class _Affine:
    """The affine maps that go into one linear layer, in order: before it and behind it."""

    before: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    behind: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def folded_weights(self, layer) -> list[np.ndarray]:
        """Kernel and bias of the layer with these maps applied; computed in double precision."""
        weights = [w.astype(np.float64) for w in _weights(layer)]
        kernel = weights[0]
        bias = weights[1] if layer.use_bias else np.zeros(_out_channels(layer, kernel))
        for scale, shift in self.before:
            bias = bias + _through_kernel(layer, kernel, shift)
            kernel = kernel * _along_inputs(layer, kernel, scale)
        for scale, shift in self.behind:
            kernel = kernel * _along_outputs(layer, kernel, scale)
            bias = bias * scale + shift
        return [kernel, bias]


@dataclass
class _Plan:
    """What becomes of the layers.

    Attributes:
        affine: Linear layer → the normalisations that it takes in.
        paddings: Strided shortcut → the channels of zeros that it takes in, before and behind its own.
        folded: The layers that are taken in and go.
    """

    affine: dict[Any, _Affine] = field(default_factory=dict)
    paddings: dict[Any, tuple[int, int]] = field(default_factory=dict)
    folded: set = field(default_factory=set)


def _plan(model: keras.Model) -> _Plan:
    graph, plan = Graph(model), _Plan()
    _plan_norms_behind(graph, plan)
    _plan_norms_before(graph, plan)
    _plan_paddings(graph, plan)
    return plan


def _plan_norms_behind(graph: Graph, plan: _Plan) -> None:
    for node in graph.nodes:
        layer = node.operation
        if not (isinstance(layer, _LINEAR) and graph.is_called_once(node) and _is_linear(layer)):
            continue
        axis, reader = _channel_axis(layer, node), graph.only_reader(node)
        while reader is not None and _is_norm_over(reader.operation, axis) and graph.is_called_once(reader):
            plan.affine.setdefault(layer, _Affine()).behind.append(_scale_and_shift(reader.operation))
            plan.folded.add(reader.operation)
            reader = graph.only_reader(reader)


def _plan_norms_before(graph: Graph, plan: _Plan) -> None:
    for node in graph.nodes:
        norm = node.operation
        is_norm = isinstance(norm, layers.BatchNormalization) and graph.is_called_once(node)
        reader = graph.only_reader(node) if is_norm and norm not in plan.folded else None
        if reader is None or not graph.is_called_once(reader) or not _takes_affine_input(reader.operation):
            continue
        if _is_norm_over(norm, _channel_axis(reader.operation, reader)):
            plan.affine.setdefault(reader.operation, _Affine()).before.append(_scale_and_shift(norm))
            plan.folded.add(norm)


def _plan_paddings(graph: Graph, plan: _Plan) -> None:
    for node in graph.nodes:
        strides = _only_strides(node.operation) and graph.is_called_once(node)
        reader = graph.only_reader(node) if strides else None
        if reader is not None and graph.is_called_once(reader) and _pads_channels(reader.operation, node.operation):
            plan.paddings[node.operation] = tuple(reader.operation.padding[1])
            plan.folded.add(reader.operation)


def _only_strides(layer) -> bool:
    """Whether a layer does nothing but leave pixels out."""
    return (
        type(layer) is layers.MaxPooling2D
        and tuple(layer.pool_size) == (1, 1)
        and layer.strides[0] == layer.strides[1] > 1
    )


def _strided_identity(pool):
    return layers.DepthwiseConv2D(
        1,
        strides=pool.strides,
        use_bias=False,
        depthwise_initializer="ones",
        data_format=pool.data_format,
        dtype=pool.dtype_policy,
        name=pool.name,
    )


def _pads_channels(layer, before) -> bool:
    """Whether a layer behind `before` does nothing but add channels of zeros to channels-last data."""
    # Told that channels come first, the layer pads what comes third and last: width and channels.
    return (
        isinstance(layer, layers.ZeroPadding2D)
        and layer.data_format == "channels_first"
        and _is_channels_last(before)
        and tuple(layer.padding[0]) == (0, 0)
    )


def _strided_convolution(pool, filters: int):
    return layers.Conv2D(
        filters,
        1,
        strides=pool.strides,
        use_bias=False,
        data_format=pool.data_format,
        dtype=pool.dtype_policy,
        name=pool.name,
    )


def _weights(layer) -> list[np.ndarray]:
    return plain_weights(layer) if isinstance(layer, WeightStandardizedConv2D) else layer.get_weights()


def _is_channels_last(layer) -> bool:
    return getattr(layer, "data_format", "channels_last") == "channels_last"


def _is_linear(layer) -> bool:
    return layer.activation is None or layer.activation is keras.activations.linear


def _is_norm_over(layer, axis: int) -> bool:
    if not isinstance(layer, layers.BatchNormalization):
        return False
    norm_axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    rank = len(layer.input.shape)
    return norm_axis % rank == axis


def _channel_axis(layer, node) -> int:
    rank = len(node.outputs[0].shape)
    return rank - 1 if _is_channels_last(layer) else 1


def _takes_affine_input(layer) -> bool:
    if isinstance(layer, layers.Dense):
        return True
    if not isinstance(layer, (*_CONVOLUTIONS, *_DEPTHWISE)):
        return False
    return layer.padding == "valid" or set(layer.kernel_size) == {1}


def _scale_and_shift(norm) -> tuple[np.ndarray, np.ndarray]:
    mean = np.asarray(keras.ops.convert_to_numpy(norm.moving_mean), np.float64)
    variance = np.asarray(keras.ops.convert_to_numpy(norm.moving_variance), np.float64)
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * keras.ops.convert_to_numpy(norm.gamma)
    shift = -mean * scale
    if norm.center:
        shift = shift + keras.ops.convert_to_numpy(norm.beta)
    return scale, shift


def _out_channels(layer, kernel: np.ndarray) -> int:
    if isinstance(layer, _DEPTHWISE):
        return kernel.shape[-1] * kernel.shape[-2]
    return kernel.shape[-2] if isinstance(layer, _TRANSPOSED) else kernel.shape[-1]


def _along_outputs(layer, kernel: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values for each output channel, shaped to multiply the kernel."""
    if isinstance(layer, _DEPTHWISE):  # kernel (…, channels, multiplier); outputs run through the multiplier first
        return values.reshape(kernel.shape[-2:])
    return values[:, np.newaxis] if isinstance(layer, _TRANSPOSED) else values


def _along_inputs(layer, kernel: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values for each input channel, shaped to multiply the kernel."""
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, _DEPTHWISE) or groups == 1:
        return values[:, np.newaxis]
    # Kernel (…, channels of a group, outputs): the outputs of group g read the g-th slice of the inputs.
    by_group = values.reshape(groups, -1).T
    return np.repeat(by_group, kernel.shape[-1] // groups, axis=1)


def _through_kernel(layer, kernel: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What a constant input, one value per channel, adds to each output channel."""
    spread = kernel * _along_inputs(layer, kernel, values)
    if isinstance(layer, _DEPTHWISE):
        return spread.sum(axis=tuple(range(spread.ndim - 2))).reshape(-1)
    return spread.sum(axis=tuple(range(spread.ndim - 1)))
