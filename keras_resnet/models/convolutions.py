"""What all blocks and stems are made of: convolutions, normalisation, activation and pools.

Every function takes a tensor of the functional graph, float (batch, height, width, channels), and returns one. Data is
channels-last on every backend. References are in `config.py`.
"""

import math

import keras
from keras import layers

from keras_resnet.errors import UserError
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.standardized import WeightStandardizedConv2D

NHWC = {"data_format": "channels_last"}
# He 2015b, "Delving Deep into Rectifiers" (arXiv:1502.01852): keeps the variance of gradients; PyTorch's too.
KERNEL_INITIALIZER = {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"}
CONVOLUTIONS = {"plain": layers.Conv2D, "standardized": WeightStandardizedConv2D}


def conv2d(
    x,
    config: ResNetConfig,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    use_bias: bool = False,
):
    """A convolution of the configured kind, padded so that at stride 1 the map keeps its size.

    With "symmetric" padding a strided kernel gets the same border on both sides, as in Caffe and PyTorch; Keras' "same"
    would put the odd row at the far side, which gives other numbers with the same weights.
    """
    if stride > 1 and dilation > 1:
        # Keras has no kernel that does both. Where the taps lie a multiple of the stride apart, they read the pixels
        # that striding keeps and no others.
        if dilation % stride:
            raise UserError(f"{name} cannot stride by {stride} with a dilation of {dilation}, which is no multiple.")
        x, stride, dilation = subsample(x, stride, name=f"{name}_pool"), 1, dilation // stride
    if config.padding == "symmetric" and stride > 1 and kernel_size > 1:
        border = (kernel_size - 1) * dilation // 2
        x = layers.ZeroPadding2D(border, name=f"{name}_pad", **NHWC)(x)
        keras_padding = "valid"
    else:
        keras_padding = "same" if kernel_size > 1 else "valid"
    return CONVOLUTIONS[config.convolution](
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


def dense1x1(x, filters: int, *, name: str, groups: int = 1, use_bias: bool = True):
    """A plain 1×1 convolution, for the gates that are computed from channels' means."""
    return layers.Conv2D(
        filters,
        1,
        groups=groups,
        use_bias=use_bias,
        kernel_initializer=keras.initializers.VarianceScaling(**KERNEL_INITIALIZER),
        name=name,
        **NHWC,
    )(x)


def reduced_channels(config: ResNetConfig, channels: int) -> int:
    """Channels between the two layers of a gate: a multiple of 8, as timm counts them, and at least `se_floor`."""
    return max(config.se_floor, int(channels * config.se_ratio + 4) // 8 * 8)


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


def blur_pool(x, stride: int, *, name: str):
    """Blurs with the binomial kernel [1, 2, 1]/4 along both sides and keeps every `stride`-th pixel.

    Two average pools over two pixels are that kernel, without a weight. The border is mirrored.

    Reference:
        Zhang 2019, arXiv:1904.11486, section 3.
    """
    x = keras.ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
    x = layers.AveragePooling2D(2, strides=1, name=f"{name}_average", **NHWC)(x)
    return layers.AveragePooling2D(2, strides=stride, name=name, **NHWC)(x)


def average_pool_3x3(x, stride: int, *, name: str):
    """The mean of 3×3 pixels, in which the zeros of the border count, as in PyTorch."""
    x = layers.ZeroPadding2D(1, name=f"{name}_pad", **NHWC)(x)
    return layers.AveragePooling2D(3, strides=stride, name=name, **NHWC)(x)
