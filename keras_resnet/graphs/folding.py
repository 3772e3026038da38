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

from keras_resnet.errors import UserError
from keras_resnet.graphs.heads import INERT
from keras_resnet.models.deep_graphs import deep_graphs

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_LINEAR = (*_CONVOLUTIONS, *_DEPTHWISE, *_TRANSPOSED, layers.Dense)
_GLOBAL_POOLING = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)


def fold_batch_norms(model: keras.Model) -> keras.Model:
    """Rewrites a network for inference with its batch normalisations folded into neighbouring linear layers.

    A normalisation folds when nothing else reads what lies between it and its convolution: one consumer, no activation,
    not an output of the model. Both must be called once, because shared weights cannot hold two foldings.

    A strided shortcut, a max pooling of one pixel, becomes a depthwise convolution of one pixel, which gives the same:
    TFLite's fast kernels (XNNPACK) know no such pooling, and handing the work over and back costs more than doing it.
    Where channels of zeros are padded behind it, both become one convolution whose kernel moves channels: in a network
    of a sixth of a millisecond each operator counts.

    Args:
        model: A functional or Sequential model; models nested in it are rewritten as well. It is left as it is.

    Returns:
        A new functional model with the same inputs, outputs and layer names, without the folded layers. Its outputs at
        inference are the same but for rounding. Train the original, not this one.

    Raises:
        UserError: If the model is neither functional nor Sequential.
    """
    model = _functional(model)
    plans, folded, paddings = _plan(model)

    def clone(layer):
        if layer in folded:
            return layer  # never called: `call` hands its input on
        if layer in plans:
            return type(layer).from_config({**layer.get_config(), "use_bias": True})
        if isinstance(layer, keras.Model):
            return fold_batch_norms(layer)
        if layer in paddings:
            return _strided_convolution(layer, filters=layer.output.shape[-1] + sum(paddings[layer]))
        return _strided_identity(layer) if _only_strides(layer) else _copy(layer)

    def call(layer, *args, **kwargs):
        return args[0] if layer in folded else layer(*args, **kwargs)

    def set_weights(old, new):
        if old in plans:
            new.set_weights(plans[old].folded_weights(old))
        elif old in paddings:
            new.set_weights([np.pad(np.eye(old.output.shape[-1]), ((0, 0), paddings[old]))[np.newaxis, np.newaxis]])
        elif old not in folded and not isinstance(old, keras.Model) and not _only_strides(old):
            new.set_weights(old.get_weights())

    return _rewrite(model, clone, call, set_weights)


def to_float32(model: keras.Model) -> keras.Model:
    """Rebuilds a network in float32: mixed-precision graphs need operators that phones do not have.

    Args:
        model: A functional or Sequential model of any floating-point policy. It is left as it is.

    Returns:
        A new functional model that computes in float32, with the same weights.

    Raises:
        UserError: If the model is neither functional nor Sequential, or is quantised already.
    """
    model = _functional(model)

    def clone(layer):
        if getattr(getattr(layer, "dtype_policy", None), "quantization_mode", None) is not None:
            raise UserError(
                f"Layer {layer.name!r} is quantised already ({layer.dtype_policy.name}). Export the network as it was "
                "before quantisation."
            )
        if isinstance(layer, keras.Model):
            return to_float32(layer)
        return type(layer).from_config(_with_dtype(layer.get_config(), "float32"))

    def set_weights(old, new):
        if not isinstance(old, keras.Model):
            new.set_weights([np.asarray(w, np.float32) if _is_float(w) else w for w in old.get_weights()])

    return _rewrite(model, clone, None, set_weights, input_dtype="float32")


def to_bfloat16(model: keras.Model) -> keras.Model:
    """Rebuilds a network with its feature maps in bfloat16, which processors that know it compute twice as fast.

    bfloat16 has float32's range and 8 significant bits; products are summed in float32. What is pooled from the feature
    maps stays float32, the classes' scores with it. So do statistics of normalisations.

    Args:
        model: A functional or Sequential float32 model for inference, best one without batch normalisations. It is left
            as it is.

    Returns:
        A new functional model with the same inputs and layer names. Convolutions hold their weights in bfloat16.

    Raises:
        UserError: If the model is neither functional nor Sequential.

    Reference:
        Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training", arXiv:1905.12322.
    """
    model = _functional(model)
    # Batch, places and channels: a feature map. Batch and channels: what has been pooled from one.
    maps = {node.operation for node in _nodes(model) if len(node.outputs[0].shape) > 2}

    def clone(layer):
        if isinstance(layer, keras.Model):
            return to_bfloat16(layer)
        if layer not in maps or isinstance(layer, (*_GLOBAL_POOLING, layers.InputLayer)):
            return _copy(layer)
        dtype = "bfloat16" if isinstance(layer, (*_CONVOLUTIONS, *_DEPTHWISE, *_TRANSPOSED)) else "mixed_bfloat16"
        return type(layer).from_config(_with_dtype(layer.get_config(), dtype))

    def set_weights(old, new):
        if not isinstance(old, keras.Model):
            new.set_weights(old.get_weights())

    return _rewrite(model, clone, None, set_weights)


def fold_pixels(
    model: keras.Model, *, mean, std, reverse_channels: bool = False, shape: tuple[int, int, int] | None = None
) -> keras.Model:
    """Puts a network's normalisation inside: the new network takes pixels from 0 to 255.

    Where the network begins with a convolution, dividing by the deviation and reversing the channels are folded into
    its kernel. Subtracting the mean stays an operator of its own, because the convolution's border is padded with
    zeros, which must go on meaning the mean colour.

    Args:
        model: A functional model of one image input, (x / 255 − mean) / std.
        mean: Mean of each channel in the network's channel order, for pixels scaled to 0..1.
        std: Standard deviation of each channel, likewise.
        reverse_channels: Whether the network's channel order is the reverse of the images'.
        shape: (height, width, channels) of the new input; default: the network's own, which may be open.

    Returns:
        A new functional model from float32 `images` (batch, height, width, channels) in 0..255 to the same outputs.

    Raises:
        UserError: If the model is neither functional nor Sequential.
    """
    model = _functional(model)
    mean, std = 255 * np.asarray(mean, np.float64), 255 * np.asarray(std, np.float64)
    conv = _first_convolution(model)
    images = keras.Input(shape or model.inputs[0].shape[1:], dtype="float32", name="images")
    if conv is None:
        x = keras.ops.flip(images, axis=-1) if reverse_channels else images
        x = (x - mean.astype(np.float32)) * (1 / std).astype(np.float32)
    else:
        mean = (mean[::-1] if reverse_channels else mean).astype(np.float32)
        width = images.shape[2]
        # For a whole row of pixels: broadcasting three numbers is slow everywhere.
        x = images - (mean if width is None else np.tile(mean, (width, 1)))

    def set_weights(old, new):
        weights = old.get_weights()
        if old is conv:
            kernel = weights[0].astype(np.float64) / std[:, np.newaxis]
            weights[0] = kernel[:, :, ::-1] if reverse_channels else kernel
        new.set_weights(weights)

    outputs = _rewrite(model, _copy, None, set_weights)(x)
    with deep_graphs():
        return keras.Model(images, outputs, name=model.name)


@dataclass
class _Plan:
    """The affine maps that go into one linear layer, in order: before it and behind it."""

    before: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    behind: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def folded_weights(self, layer) -> list[np.ndarray]:
        """Kernel and bias of the layer with its plan applied; computed in double precision."""
        weights = [w.astype(np.float64) for w in layer.get_weights()]
        kernel = weights[0]
        bias = weights[1] if layer.use_bias else np.zeros(_out_channels(layer, kernel))
        for scale, shift in self.before:
            bias = bias + _through_kernel(layer, kernel, shift)
            kernel = kernel * _along_inputs(layer, kernel, scale)
        for scale, shift in self.behind:
            kernel = kernel * _along_outputs(layer, kernel, scale)
            bias = bias * scale + shift
        return [kernel, bias]


def _plan(model) -> tuple[dict, set, dict]:
    """What becomes of the layers.

    Returns:
        Linear layer → the normalisations that it takes in; the layers that are taken in and go; strided shortcut → the
        channels of zeros that it takes in, before and behind its own.
    """
    nodes = _nodes(model)
    readers: dict[int, list] = {}
    calls: dict[Any, int] = {}
    for node in nodes:
        calls[node.operation] = calls.get(node.operation, 0) + 1
        for tensor in node.input_tensors:
            readers.setdefault(id(tensor), []).append(node)
    outputs = {id(tensor) for tensor in model.outputs}

    def only_reader(node):
        """The one node that reads this node's output, training-only layers skipped; None if there is not just one."""
        while True:
            tensor = node.outputs[0]
            found = readers.get(id(tensor), [])
            if id(tensor) in outputs or len(found) != 1 or len(node.outputs) != 1 or len(found[0].input_tensors) != 1:
                return None
            node = found[0]
            if not isinstance(node.operation, INERT):
                return node

    def is_plain(node) -> bool:
        return calls[node.operation] == 1 and not node.arguments.kwargs.get("training")

    plans: dict[Any, _Plan] = {}
    folded: set = set()
    for node in nodes:
        layer = node.operation
        if not (isinstance(layer, _LINEAR) and is_plain(node) and _is_linear(layer)):
            continue
        reader = only_reader(node)
        while reader is not None and _is_norm_over(reader.operation, _channel_axis(layer, node)) and is_plain(reader):
            plans.setdefault(layer, _Plan()).behind.append(_affine(reader.operation))
            folded.add(reader.operation)
            reader = only_reader(reader)
    for node in nodes:
        norm = node.operation
        if norm in folded or not isinstance(norm, layers.BatchNormalization) or not is_plain(node):
            continue
        reader = only_reader(node)
        if reader is None or not is_plain(reader) or not _takes_affine_input(reader.operation):
            continue
        if _is_norm_over(norm, _channel_axis(reader.operation, reader)):
            plans.setdefault(reader.operation, _Plan()).before.append(_affine(norm))
            folded.add(norm)
    paddings: dict = {}
    for node in nodes:
        reader = only_reader(node) if _only_strides(node.operation) and is_plain(node) else None
        if reader is not None and is_plain(reader) and _pads_channels(reader.operation, node.operation):
            paddings[node.operation] = tuple(reader.operation.padding[1])
            folded.add(reader.operation)
    return plans, folded, paddings


def _rewrite(model, clone, call, set_weights, *, input_dtype: str | None = None):
    copies: dict[Any, Any] = {}

    def remember(layer):
        copies[layer] = clone(layer)
        return copies[layer]

    inputs = None
    if input_dtype is not None:
        inputs = [
            keras.Input(batch_shape=x.shape, dtype=input_dtype if _is_float(x) else x.dtype, name=x.name)
            for x in model.inputs
        ]
        inputs = keras.tree.pack_sequence_as(model.input, inputs)
    with deep_graphs():
        rewritten = keras.models.clone_model(model, input_tensors=inputs, clone_function=remember, call_function=call)
    for old, new in copies.items():
        if isinstance(old, keras.Layer):
            set_weights(old, new)
    return rewritten


def _functional(model):
    if isinstance(model, keras.Sequential) and model.built:
        return keras.Model(model.inputs, model.outputs, name=model.name)
    # A subclass may do anything in `call`; only a functional graph has nodes.
    if not isinstance(model, keras.Model) or not hasattr(model, "_nodes_by_depth"):
        raise UserError(
            f"A network must be a functional or a built Sequential Keras model, got {type(model).__name__}. "
            "Build it with keras.Model(inputs, outputs)."
        )
    return model


def _nodes(model) -> list:
    """The calls of the graph's layers, each behind those it reads from.

    Keras publishes no way to ask who reads a tensor; its functional graph has kept these nodes since 2.0.
    """
    by_depth = model._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def _copy(layer):
    return type(layer).from_config(layer.get_config())


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


def _with_dtype(config: Any, dtype: str) -> Any:
    """A layer's configuration with every floating-point policy in it, also those of wrapped layers, set to `dtype`."""
    if isinstance(config, dict):
        return {
            key: dtype if key == "dtype" and value is not None and _names_float(value) else _with_dtype(value, dtype)
            for key, value in config.items()
        }
    return [_with_dtype(item, dtype) for item in config] if isinstance(config, list) else config


def _names_float(dtype: Any) -> bool:
    name = dtype.get("config", {}).get("name", "") if isinstance(dtype, dict) else str(dtype)
    return "float" in name


def _is_float(value) -> bool:
    return "float" in str(value.dtype)


def _first_convolution(model):
    """The convolution that alone reads the model's input, borders of zeros skipped; None if it begins otherwise."""
    nodes = _nodes(model)
    tensor = model.inputs[0]
    while True:
        readers = [node for node in nodes if any(x is tensor for x in node.input_tensors)]
        if len(readers) != 1:
            return None
        layer = readers[0].operation
        calls = sum(node.operation is layer for node in nodes)
        if type(layer) is layers.Conv2D and calls == 1 and layer.groups == 1 and _is_channels_last(layer):
            return layer
        if not (isinstance(layer, layers.ZeroPadding2D) and _is_channels_last(layer)):
            return None
        tensor = readers[0].outputs[0]


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


def _affine(norm) -> tuple[np.ndarray, np.ndarray]:
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
    """What a constant input, one value a channel, adds to each output channel."""
    spread = kernel * _along_inputs(layer, kernel, values)
    if isinstance(layer, _DEPTHWISE):
        return spread.sum(axis=tuple(range(spread.ndim - 2))).reshape(-1)
    return spread.sum(axis=tuple(range(spread.ndim - 1)))
