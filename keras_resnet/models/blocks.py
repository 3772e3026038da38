"""Residual blocks: basic and bottleneck, post- and pre-activation; shortcuts A, B and D; channel attention.

Every function takes a tensor of the functional graph, float (batch, height, width, channels), and returns one. Data is
channels-last on every backend. References are in `config.py`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import keras
from keras import layers

from keras_resnet.errors import UserError
from keras_resnet.models.config import ResNetConfig

NHWC = {"data_format": "channels_last"}
# He 2015b, "Delving Deep into Rectifiers" (arXiv:1502.01852): keeps the variance of gradients; PyTorch's too.
KERNEL_INITIALIZER = {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"}


@dataclass(frozen=True)
class BlockPlace:
    """Where a block stands and what that asks of it.

    Attributes:
        name: Prefix of its layers' names, for example "stage3_block2".
        width: Base width of its stage.
        out_channels: Channels that leave it.
        stride: Its stride.
        dilation: Dilation of its spatial convolutions.
        first_dilation: Dilation of the convolution that would have strided.
        project: Whether its shortcut is not the identity.
        drop_path_rate: Chance with which a training example skips its residual branch.
        inner_drop_rate: Dropout between its convolutions (Zagoruyko 2016).
    """

    name: str
    width: int
    out_channels: int
    stride: int = 1
    dilation: int = 1
    first_dilation: int = 1
    project: bool = False
    drop_path_rate: float = 0.0
    inner_drop_rate: float = 0.0


def conv2d(
    x,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    use_bias: bool = False,
    padding: str = "symmetric",
):
    """A convolution, padded so that at stride 1 the map keeps its size.

    With "symmetric" padding a strided kernel gets the same border on both sides, as in Caffe and PyTorch; Keras' "same"
    would put the odd row at the far side, which gives other numbers with the same weights.
    """
    if padding == "symmetric" and stride > 1 and kernel_size > 1:
        border = (kernel_size - 1) * dilation // 2
        x = layers.ZeroPadding2D(border, name=f"{name}_pad", **NHWC)(x)
        keras_padding = "valid"
    else:
        keras_padding = "same" if kernel_size > 1 else "valid"
    return layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding=keras_padding,
        dilation_rate=dilation,
        groups=groups,
        use_bias=use_bias,
        kernel_initializer=keras.initializers.VarianceScaling(**KERNEL_INITIALIZER),
        name=name,
        **NHWC,
    )(x)


def normalize(x, config: ResNetConfig, *, name: str, gamma_initializer: str = "ones"):
    """The configured normalisation; with "none" the tensor as it came."""
    if config.norm == "none":
        return x
    if config.norm == "group":
        channels = x.shape[-1]
        return layers.GroupNormalization(
            groups=math.gcd(32, channels),  # 32 groups (Wu and He 2018) where the channels can be divided so
            epsilon=config.norm_epsilon,
            gamma_initializer=gamma_initializer,
            name=name,
        )(x)
    return layers.BatchNormalization(
        momentum=config.norm_momentum,
        epsilon=config.norm_epsilon,
        gamma_initializer=gamma_initializer,
        synchronized=config.norm == "sync_batch",
        name=name,
    )(x)


def activate(x, config: ResNetConfig, *, name: str):
    """The configured activation as a layer of its own."""
    return layers.Activation(config.activation, name=name)(x)


def subsample(x, stride: int, *, name: str):
    """Keeps every `stride`-th pixel: a max pool over one pixel."""
    return layers.MaxPooling2D(1, strides=stride, name=name, **NHWC)(x)


def blur_pool(x, *, name: str):
    """Blurs with the binomial kernel [1, 2, 1]/4 along both sides and keeps every second pixel.

    Two average pools over two pixels are that kernel, without a weight. The border is mirrored.

    Reference:
        Zhang 2019, arXiv:1904.11486, section 3.
    """
    x = keras.ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
    x = layers.AveragePooling2D(2, strides=1, name=f"{name}_average", **NHWC)(x)
    return layers.AveragePooling2D(2, strides=2, name=name, **NHWC)(x)


def spatial_conv(x, config: ResNetConfig, filters: int, *, stride: int, name: str, **options):
    """The 3×3 convolution of a block. Returns it and whether its blur is still to come behind the activation."""
    blur_behind = stride > 1 and config.downsampling == "blur"
    x = conv2d(x, filters, 3, stride=1 if blur_behind else stride, name=name, padding=config.padding, **options)
    return x, blur_behind


def attend(x, config: ResNetConfig, *, name: str):
    """Channel attention: scales each channel by a gate computed from the channels' means.

    Reference:
        Squeeze-excitation: Hu 2018, section 3; reduced channels are a multiple of 8, as timm counts them.
        ECA: Wang 2020, section 3.2: one 1-D convolution across channels, kernel from γ = 2, b = 1.
    """
    if config.attention == "none":
        return x
    channels = x.shape[-1]
    if config.attention == "se":
        reduced = max(8, int(channels * config.se_ratio + 4) // 8 * 8)
        gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_se_pool", **NHWC)(x)
        gate = conv2d(gate, reduced, 1, use_bias=True, name=f"{name}_se_reduce")
        gate = layers.Activation("relu", name=f"{name}_se_act")(gate)
        gate = conv2d(gate, channels, 1, use_bias=True, name=f"{name}_se_expand")
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
    stride = place.stride
    x = preactivated
    if config.shortcut == "average_pool_projection":
        x, stride = _pooled(x, place, name=f"{name}_pool"), 1
    x = conv2d(x, place.out_channels, 1, stride=stride, use_bias="shortcut" in config.conv_bias, name=f"{name}_conv")
    return x if config.shortcut == "plain_projection" else normalize(x, config, name=f"{name}_norm")


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
    if place.first_dilation != place.dilation:
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


class _Convolution(NamedTuple):
    """One convolution of a residual branch."""

    filters: int
    size: int
    stride: int
    dilation: int
    groups: int
    use_bias: bool


def _convolutions(config: ResNetConfig, place: BlockPlace) -> list[_Convolution]:
    """The branch's convolutions in order: what distinguishes basic from bottleneck."""
    inner, last = "inner" in config.conv_bias, "last" in config.conv_bias
    if config.block == "basic":
        return [
            _Convolution(place.width, 3, place.stride, place.first_dilation, 1, inner),
            _Convolution(place.out_channels, 3, 1, place.dilation, 1, last),
        ]
    width = place.width * config.base_width // 64 * config.cardinality
    first, middle = (place.stride, 1) if config.stride_conv == "first" else (1, place.stride)
    return [
        _Convolution(width, 1, first, 1, 1, inner),
        _Convolution(width, 3, middle, place.first_dilation, config.cardinality, inner),
        _Convolution(place.out_channels, 1, 1, 1, 1, last),
    ]


def _convolve(x, config: ResNetConfig, place: BlockPlace, index: int, conv: _Convolution):
    options = {"stride": conv.stride, "dilation": conv.dilation, "groups": conv.groups, "use_bias": conv.use_bias}
    name = f"{place.name}_conv{index}"
    if conv.size == 3:
        return spatial_conv(x, config, conv.filters, name=name, **options)
    return conv2d(x, conv.filters, 1, name=name, **options), False


def post_activation_block(x, config: ResNetConfig, place: BlockPlace):
    """out = act(H(x) + x), H = conv, norm, act, …, conv, norm (He 2015, figure 5)."""
    convolutions = _convolutions(config, place)
    residual = x
    for index, conv in enumerate(convolutions, start=1):
        is_last = index == len(convolutions)
        residual, blur_behind = _convolve(residual, config, place, index, conv)
        gamma = config.last_gamma if is_last else "ones"
        residual = normalize(residual, config, name=f"{place.name}_norm{index}", gamma_initializer=gamma)
        if not is_last:
            residual = activate(residual, config, name=f"{place.name}_act{index}")
            residual = _inner_dropout(residual, place) if index == len(convolutions) - 1 else residual
        if blur_behind:
            residual = blur_pool(residual, name=f"{place.name}_blur{index}")
    residual = attend(residual, config, name=place.name)
    identity = shortcut(x, x, config, place)
    x = merge(residual, identity, place, name=f"{place.name}_add")
    return activate(x, config, name=f"{place.name}_out")


def pre_activation_block(x, config: ResNetConfig, place: BlockPlace):
    """out = H(x) + x, H = norm, act, conv, …, norm, act, conv (He 2016, figure 4e)."""
    convolutions = _convolutions(config, place)
    residual, preactivated, blur_behind = x, x, False
    for index, conv in enumerate(convolutions, start=1):
        is_last = index == len(convolutions)
        # A pre-activation branch ends in a convolution: the last normalisation stands before it, and starting that one
        # at zero silences the branch just as well.
        gamma = config.last_gamma if is_last else "ones"
        residual = normalize(residual, config, name=f"{place.name}_norm{index}", gamma_initializer=gamma)
        residual = activate(residual, config, name=f"{place.name}_act{index}")
        if blur_behind:
            residual = blur_pool(residual, name=f"{place.name}_blur{index - 1}")
        if index == 1:
            preactivated = residual
        if is_last:
            residual = _inner_dropout(residual, place)
        residual, blur_behind = _convolve(residual, config, place, index, conv)
    residual = attend(residual, config, name=place.name)
    identity = shortcut(x, preactivated, config, place)
    return merge(residual, identity, place, name=f"{place.name}_out")
