"""What stands before the first residual block: CIFAR's 3×3, ImageNet's 7×7, deep stems (-C, -D, -S, -T), the article's.

References are in `config.py`.
"""

from keras import layers

from keras_resnet.models.config import DEEP_STEMS, ResNetConfig
from keras_resnet.models.convolutions import NHWC, activate, blur_pool, conv2d, normalize, subsample


def stem(x, config: ResNetConfig):
    """Builds the stem.

    Args:
        x: Float (batch, height, width, channels), the network's input.
        config: The network.

    Returns:
        Float (batch, height / s, width / s, stem_width) with s = `config.stem_stride`, sizes rounded up (by the
        stem pool "average" down, as in timm).
    """
    bias = "stem" in config.conv_bias
    width = config.stem_width
    if config.stem in DEEP_STEMS:
        # Half the width in the first two, as He 2019 (table 3) and ResNet-RS have it; timm's -T begins with less.
        first = 3 * width // 8 if config.stem == "tiered" else width // 2
        for index, (filters, stride) in enumerate(((first, 2), (width // 2, 1)), start=1):
            x = conv2d(x, config, filters, 3, stride=stride, use_bias=bias, name=f"stem_conv{index}")
            x = normalize(x, config, name=f"stem_norm{index}")
            x = activate(x, config, name=f"stem_act{index}")
        x = conv2d(x, config, width, 3, use_bias=bias, name="stem_conv3")
    elif config.stem == "imagenet":
        x = conv2d(x, config, width, 7, stride=2, use_bias=bias, name="stem_conv")
    else:
        x = conv2d(x, config, width, 3, use_bias=bias, name="stem_conv")
        if config.stem == "two_conv":
            x = conv2d(x, config, width, 3, use_bias=bias, name="stem_conv2")
    if config.stem_norm:
        x = normalize(x, config, name="stem_norm")
        x = activate(x, config, name="stem_act")
    return _pool(x, config)


def _pool(x, config: ResNetConfig):
    if config.stem_pool == "none":
        return x
    if config.stem_pool == "conv":
        x = conv2d(x, config, config.stem_width, 3, stride=2, name="stem_pool_conv")
        x = normalize(x, config, name="stem_pool_norm")
        return activate(x, config, name="stem_pool_act")
    if config.stem_pool == "blur":
        x = layers.MaxPooling2D(3, strides=1, padding="same", name="stem_pool_max", **NHWC)(x)
        return blur_pool(x, 2, name="stem_pool")
    if config.stem_pool == "average":
        return layers.AveragePooling2D(2, name="stem_pool", **NHWC)(x)
    # Behind a ReLU a border of zeros never wins against the map, so it equals ignoring the border.
    zero_border_is_neutral = config.stem_norm and config.activation == "relu"
    if config.stem_pool == "max_zero_padded" or zero_border_is_neutral:
        x = layers.ZeroPadding2D(1, name="stem_pool_pad", **NHWC)(x)
        return layers.MaxPooling2D(3, strides=2, name="stem_pool", **NHWC)(x)
    # "same" pads evenly at stride 1 only, so the maximum is taken densely and then subsampled.
    x = layers.MaxPooling2D(3, strides=1, padding="same", name="stem_pool_max", **NHWC)(x)
    return subsample(x, 2, name="stem_pool")
