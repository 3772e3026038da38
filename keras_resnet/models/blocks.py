"""Residual blocks: basic and bottleneck, post- and pre-activation; their shortcuts and channel attention.

Every function takes a tensor of the functional graph, float (batch, height, width, channels), and returns one.
References are in `config.py`.
"""

import math

from keras import layers

from keras_resnet.errors import UserError
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.convolutions import (
    NHWC,
    activate,
    average_pool_3x3,
    blur_pool,
    conv2d,
    dense1x1,
    normalize,
    reduced_channels,
    subsample,
)
from keras_resnet.models.places import BlockPlace, Convolution, convolutions
from keras_resnet.models.spatial import SPATIAL


def attend(x, config: ResNetConfig, *, name: str):
    """Channel attention: scales each channel by a gate computed from the channels' means.

    Reference:
        Squeeze-excitation: Hu 2018, section 3.
        ECA: Wang 2020, section 3.2: one 1-D convolution across channels, kernel from γ = 2, b = 1.
    """
    if config.attention == "none":
        return x
    channels = x.shape[-1]
    if config.attention == "se":
        gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_se_pool", **NHWC)(x)
        gate = dense1x1(gate, reduced_channels(config, channels), name=f"{name}_se_reduce")
        gate = layers.Activation("relu", name=f"{name}_se_act")(gate)
        gate = dense1x1(gate, channels, name=f"{name}_se_expand")
        gate = layers.Activation("sigmoid", name=f"{name}_se_gate")(gate)
        return layers.Multiply(name=f"{name}_se_scale")([x, gate])
    kernel_size = int((math.log2(channels) + 1) / 2)
    kernel_size = max(3, kernel_size + (kernel_size + 1) % 2)
    gate = layers.GlobalAveragePooling2D(name=f"{name}_eca_pool", **NHWC)(x)
    gate = layers.Reshape((channels, 1), name=f"{name}_eca_line")(gate)
    gate = layers.Conv1D(1, kernel_size, padding="same", use_bias=False, name=f"{name}_eca_conv", **NHWC)(gate)
    gate = layers.Activation("sigmoid", name=f"{name}_eca_gate")(gate)
    gate = layers.Reshape((1, 1, channels), name=f"{name}_eca_shape")(gate)
    return layers.Multiply(name=f"{name}_eca_scale")([x, gate])


def shortcut(x, preactivated, config: ResNetConfig, place: BlockPlace):
    """The path around the residual branch.

    Args:
        x: The block's input.
        preactivated: In a pre-activation block the normalised, activated input, which projections start from (He 2016,
            section 3); else the same as `x`.
        config: The network.
        place: The block.
    """
    name = f"{place.name}_shortcut"
    if not place.project:
        return subsample(x, place.stride, name=f"{name}_pool") if place.stride > 1 else x
    if config.shortcut == "pad":
        return _pad_channels(subsample(x, place.stride, name=f"{name}_pool") if place.stride > 1 else x, place)
    x, stride, size, dilation = preactivated, place.stride, 1, 1
    if config.shortcut.startswith("average_pool"):
        x, stride = _pooled(x, place, name=f"{name}_pool"), 1
    elif config.shortcut == "spatial_projection" and (stride > 1 or place.dilation > 1):
        size, dilation = 3, place.first_dilation
    x = conv2d(
        x,
        config,
        place.out_channels,
        size,
        stride=stride,
        dilation=dilation,
        use_bias="shortcut" in config.conv_bias,
        name=f"{name}_conv",
    )
    is_plain = config.shortcut in ("plain_projection", "average_pool_plain_projection")
    return x if is_plain else normalize(x, config, name=f"{name}_norm")


def _pad_channels(x, place: BlockPlace):
    """Option A: the missing channels are zeros."""
    missing = place.out_channels - x.shape[-1]
    if missing < 0:
        raise UserError(
            f"Shortcut 'pad' can add channels but not drop them. {place.name} takes {x.shape[-1]} and gives "
            f"{place.out_channels}: use shortcut 'projection', or a narrower stem."
        )
    # Told that channels come first, the layer pads (width, channels) of channels-last data.
    return layers.ZeroPadding2D(
        ((0, 0), (missing // 2, missing - missing // 2)),
        data_format="channels_first",
        name=f"{place.name}_shortcut_channels",
    )(x)


def _pooled(x, place: BlockPlace, *, name: str):
    """Option D: the mean of 2×2 pixels in front of a projection with stride 1."""
    if place.stride > 1:
        return layers.AveragePooling2D(2, strides=place.stride, padding="same", name=name, **NHWC)(x)
    if place.dilates:
        # Where dilation took the stride's place, the pool stays, one pixel per step. At the far side it counts zeros,
        # as timm's does; Keras' "same" would leave them out.
        x = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad", **NHWC)(x)
        x = layers.AveragePooling2D(2, strides=1, name=name, **NHWC)(x)
    return x


def merge(residual, identity, place: BlockPlace, *, name: str):
    """H(x) + x, where in training an example may skip H (stochastic depth, Huang 2016, arXiv:1603.09382).

    One mask an example, and a kept branch is scaled by 1/(1 − rate), so nothing changes at inference.
    """
    if place.drop_path_rate > 0:
        residual = layers.Dropout(place.drop_path_rate, noise_shape=(None, 1, 1, 1), name=f"{place.name}_drop_path")(
            residual
        )
    return layers.Add(name=name)([residual, identity])


def _inner_dropout(x, place: BlockPlace):
    if place.inner_drop_rate > 0:
        return layers.Dropout(place.inner_drop_rate, name=f"{place.name}_dropout")(x)
    return x


def _convolve(x, config: ResNetConfig, place: BlockPlace, index: int, conv: Convolution):
    return conv2d(
        x,
        config,
        conv.filters,
        conv.size,
        stride=conv.stride,
        dilation=conv.dilation,
        groups=conv.groups,
        use_bias=conv.use_bias,
        name=f"{place.name}_conv{index}",
    )


def _pool(x, config: ResNetConfig, place: BlockPlace, index: int, conv: Convolution, *, in_front: bool):
    """The pool that strides in a convolution's place, in front of it or behind its activation."""
    if not conv.pool_stride or in_front != (config.downsampling == "average_3x3_first"):
        return x
    if config.downsampling == "blur":
        return blur_pool(x, conv.pool_stride, name=f"{place.name}_blur{index}")
    if config.downsampling == "average":
        # Over the pixels that there are, so that odd maps round up as the shortcut's do; timm takes even maps alone.
        pool = {"strides": conv.pool_stride, "padding": "same", "name": f"{place.name}_pool{index}"}
        return layers.AveragePooling2D(conv.pool_stride, **pool, **NHWC)(x)
    return average_pool_3x3(x, conv.pool_stride, name=f"{place.name}_pool{index}")


def post_activation_block(x, config: ResNetConfig, place: BlockPlace):
    """out = act(H(x) + x), H = conv, norm, act, …, conv, norm (He 2015, figure 5); in a plain network act(H(x))."""
    plan = convolutions(config, place)
    residual = x
    for index, conv in enumerate(plan, start=1):
        is_last = index == len(plan)
        residual = _pool(residual, config, place, index, conv, in_front=True)
        if conv.is_spatial and config.spatial != "convolution":
            residual = SPATIAL[config.spatial](residual, config, place, conv, index)
        else:
            residual = _convolve(residual, config, place, index, conv)
            gamma = config.last_gamma if is_last else "ones"
            residual = normalize(residual, config, name=f"{place.name}_norm{index}", gamma_initializer=gamma)
            residual = residual if is_last else activate(residual, config, name=f"{place.name}_act{index}")
        if index == len(plan) - 1:
            residual = _inner_dropout(residual, place)
        residual = _pool(residual, config, place, index, conv, in_front=False)
    residual = attend(residual, config, name=place.name)
    if config.shortcut != "none":
        identity = shortcut(x, x, config, place)
        residual = merge(residual, identity, place, name=f"{place.name}_add")
    return activate(residual, config, name=f"{place.name}_out")


def pre_activation_block(x, config: ResNetConfig, place: BlockPlace):
    """out = H(x) + x, H = norm, act, conv, …, norm, act, conv (He 2016, figure 4e); in a plain network H(x)."""
    plan = convolutions(config, place)
    residual, preactivated = x, x
    for index, conv in enumerate(plan, start=1):
        is_last = index == len(plan)
        # A pre-activation branch ends in a convolution: the last normalisation stands before it, and starting that one
        # at zero silences the branch just as well.
        gamma = config.last_gamma if is_last else "ones"
        residual = normalize(residual, config, name=f"{place.name}_norm{index}", gamma_initializer=gamma)
        residual = activate(residual, config, name=f"{place.name}_act{index}")
        if index == 1:
            preactivated = residual
        else:
            residual = _pool(residual, config, place, index - 1, plan[index - 2], in_front=False)
        if is_last:
            residual = _inner_dropout(residual, place)
        residual = _pool(residual, config, place, index, conv, in_front=True)
        residual = _convolve(residual, config, place, index, conv)
    residual = attend(residual, config, name=place.name)
    if config.shortcut == "none":
        return layers.Identity(name=f"{place.name}_out")(residual)
    identity = shortcut(x, preactivated, config, place)
    return merge(residual, identity, place, name=f"{place.name}_out")
