"""What a block can have at the place of its spatial convolution: split attention, a selective kernel, several scales.

Every function takes a tensor of the functional graph, float (batch, height, width, channels), and returns one that is
normalised and activated, with `conv.filters` channels (times `config.splits` for several scales). References are in
`config.py`.
"""

import keras
from keras import layers

from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.convolutions import (
    NHWC,
    activate,
    average_pool_3x3,
    conv2d,
    dense1x1,
    normalize,
    reduced_channels,
)
from keras_resnet.models.places import BlockPlace, Convolution


def split_attention(x, config: ResNetConfig, place: BlockPlace, conv: Convolution, index: int):
    """One convolution gives `config.splits` maps; each output channel chooses softly among them.

    Reference:
        Zhang 2020, section 3, in its second form, where the convolution of all splits is one.
    """
    splits = config.splits
    x = _convolve(x, config, place, conv, f"{index}_split", filters=splits * conv.filters, groups=splits * conv.groups)
    maps = keras.ops.split(x, splits, axis=-1) if splits > 1 else [x]
    reduced = reduced_channels(config, splits * conv.filters)
    return _choose(maps, config, place, index, reduced, groups=conv.groups, use_bias=True)


def selective_kernel(x, config: ResNetConfig, place: BlockPlace, conv: Convolution, index: int):
    """A 3×3 and a dilated 3×3, which sees 5×5, side by side; each output channel chooses softly between them.

    Reference:
        Li 2019, section 3.1. That each path may read half of the channels is timm's.
    """
    inputs = keras.ops.split(x, 2, axis=-1) if config.splits == 2 else [x, x]
    maps = [
        _convolve(part, config, place, conv._replace(dilation=path * conv.dilation), f"{index}_path{path}")
        for path, part in enumerate(inputs, start=1)
    ]
    return _choose(maps, config, place, index, reduced_channels(config, conv.filters), groups=1, use_bias=False)


def multi_scale(x, config: ResNetConfig, place: BlockPlace, conv: Convolution, index: int):
    """The channels in `config.splits` parts: each is convolved after the result of the one before is added to it.

    The last part stays as it is. In a block that changes the map's shape nothing is added, and the last part is pooled.

    Reference:
        Gao 2019, section 3.1; for blocks that change the shape its authors' code.
    """
    *parts, last = keras.ops.split(x, config.splits, axis=-1)
    scales = []
    for number, part in enumerate(parts, start=1):
        if scales and not place.project:
            part = layers.Add(name=f"{place.name}_add{index}_scale{number}")([part, scales[-1]])
        scales.append(_convolve(part, config, place, conv, f"{index}_scale{number}"))
    if place.project:
        last = average_pool_3x3(last, conv.stride, name=f"{place.name}_pool{index}_scale{config.splits}")
    return layers.Concatenate(name=f"{place.name}_scales{index}")([*scales, last])


SPATIAL = {
    "split_attention": split_attention,
    "selective_kernel": selective_kernel,
    "multi_scale": multi_scale,
}


def _convolve(x, config: ResNetConfig, place: BlockPlace, conv: Convolution, part: str, **changes: int):
    """Convolution, normalisation and activation named after a part of the place, for example "2_path1"."""
    conv = conv._replace(**changes)
    x = conv2d(
        x,
        config,
        conv.filters,
        conv.size,
        stride=conv.stride,
        dilation=conv.dilation,
        groups=conv.groups,
        use_bias=conv.use_bias,
        name=f"{place.name}_conv{part}",
    )
    x = normalize(x, config, name=f"{place.name}_norm{part}")
    return activate(x, config, name=f"{place.name}_act{part}")


def _choose(
    maps: list, config: ResNetConfig, place: BlockPlace, index: int, reduced: int, *, groups: int, use_bias: bool
):
    """Adds maps up, weighted by what a gate computes from the means of their sum: softmax over the maps, per channel.

    A single map is weighted by a sigmoid.
    """
    name, channels = place.name, maps[0].shape[-1]
    gate = layers.Add(name=f"{name}_sum{index}")(maps) if len(maps) > 1 else maps[0]
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool{index}_gate", **NHWC)(gate)
    gate = dense1x1(gate, reduced, groups=groups, use_bias=use_bias, name=f"{name}_conv{index}_reduce")
    gate = normalize(gate, config, name=f"{name}_norm{index}_reduce")
    gate = activate(gate, config, name=f"{name}_act{index}_reduce")
    gate = dense1x1(gate, len(maps) * channels, groups=groups, use_bias=use_bias, name=f"{name}_conv{index}_expand")
    if len(maps) == 1:
        gate = layers.Activation("sigmoid", name=f"{name}_gate{index}")(gate)
        return layers.Multiply(name=f"{name}_scale{index}")([maps[0], gate])
    # A group computes its share of the channels, map by map.
    gate = layers.Reshape((groups, len(maps), channels // groups), name=f"{name}_gate{index}_maps")(gate)
    gate = layers.Softmax(axis=2, name=f"{name}_gate{index}")(gate)
    weighted = []
    for number, (part, weight) in enumerate(zip(maps, keras.ops.split(gate, len(maps), axis=2), strict=True), start=1):
        weight = layers.Reshape((1, 1, channels), name=f"{name}_gate{index}_map{number}")(weight)
        weighted.append(layers.Multiply(name=f"{name}_scale{index}_map{number}")([part, weight]))
    return layers.Add(name=f"{name}_choice{index}")(weighted)
