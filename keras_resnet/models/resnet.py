"""Builds a network from a `ResNetConfig`: stem → stages → head. Owns the names of its layers.

    stem_conv                     first convolution (deep stems: stem_conv1 … stem_conv3)
    stage{i}_block{j}_conv{k}     convolution k; likewise _norm{k} and _act{k}
                                  (_conv{k}_path1 and the like where several stand in its place)
    stage{i}_block{j}_shortcut_*  the path around, where it is not the identity
    stage{i}_block{j}_out         what leaves the block
    features                      the last feature map, which heat maps are drawn on
    avg_pool, logits              the head

References are in `config.py`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers

from keras_resnet.errors import UserError, unknown_name
from keras_resnet.models.blocks import post_activation_block, pre_activation_block
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.convolutions import NHWC, activate, normalize
from keras_resnet.models.deep_graphs import deep_graphs
from keras_resnet.models.places import BlockPlace
from keras_resnet.models.registry import REGISTRY, get_config
from keras_resnet.models.stems import stem

OUTPUT_STRIDES = (8, 16, 32)


def build_model(
    config: ResNetConfig | str,
    *,
    num_classes: int | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    input_tensor: Any = None,
    include_top: bool = True,
    pooling: str | None = None,
    classifier_activation: str | None = None,
    features_only: bool = False,
    output_stride: int = 32,
    drop_rate: float = 0.0,
    inner_drop_rate: float = 0.0,
    stochastic_depth_rate: float = 0.0,
    norm: str | None = None,
    activation: str | None = None,
    last_gamma: str | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds a residual network as a flat functional model of Keras' own layers.

    Args:
        config: A registry name or a configuration.
        num_classes: Width of the logits; default: the configuration's.
        input_shape: (height, width, channels); sides may be None. Default: the configuration's.
        input_tensor: A Keras tensor to build on instead of a new input.
        include_top: Whether pooling and logits follow the features.
        pooling: Without top: None (the feature map), "avg" or "max".
        classifier_activation: Activation behind the logits ("softmax" for probabilities); None returns logits.
        features_only: Return the list of every stage's output instead, for detection and segmentation.
        output_stride: Largest ratio of input to feature map, 8, 16 or 32; strides beyond it become dilations. A
            network that never gets so coarse stays as it is.
        drop_rate: Dropout before the logits.
        inner_drop_rate: Dropout inside each block (Zagoruyko 2016).
        stochastic_depth_rate: Chance to skip the last block in training; earlier blocks' grows linearly from 0.
        norm: "batch", "sync_batch", "group" or "none" instead of the configuration's.
        activation: Name of a Keras activation instead of the configuration's.
        last_gamma: "zeros" or "ones", see `ResNetConfig`.
        name: Name of the model; default: the configuration's.

    Returns:
        A model from float (batch, height, width, channels), normalised as its preprocessing says, to float32 logits
        (batch, num_classes); other outputs as asked for above.

    Raises:
        UserError: For an unknown name or option, an input that the network cannot take, or a configuration of your own
            that Keras cannot build.
    """
    config = get_config(config) if isinstance(config, str) else config
    with _in_a_sentence(config):
        changes = {"norm": norm, "activation": activation, "last_gamma": last_gamma}
        config = config.replace(**{key: value for key, value in changes.items() if value is not None})
        _check_activation(config.activation)
        for label, rate in (
            ("drop_rate", drop_rate),
            ("inner_drop_rate", inner_drop_rate),
            ("stochastic_depth_rate", stochastic_depth_rate),
        ):
            if not 0 <= rate < 1:
                raise UserError(f"{label} is a probability from 0 up to but not 1, got {rate}.")
        if stochastic_depth_rate and config.shortcut == "none":
            raise UserError(
                "stochastic_depth_rate needs a shortcut, which a skipped block's input takes, got "
                f"{stochastic_depth_rate} and shortcut 'none'. Leave one of them out."
            )
        if output_stride not in OUTPUT_STRIDES:
            raise UserError(f"output_stride must be 8, 16 or 32, got {output_stride}.")
        num_classes = config.num_classes if num_classes is None else num_classes
        if include_top and not features_only and num_classes < 1:
            raise UserError(f"num_classes must be at least 1, got {num_classes}.")

        inputs, x = _inputs(config, input_shape, input_tensor, output_stride)
        x = stem(x, config)
        block = pre_activation_block if config.activation_order == "pre" else post_activation_block
        stage_outputs = []
        for places in _stages(config, x.shape[-1], output_stride, stochastic_depth_rate, inner_drop_rate):
            for place in places:
                x = block(x, config, place)
            stage_outputs.append(x)
        name = name or config.name
        if features_only:
            return _model(inputs, stage_outputs, name)

        if config.activation_order == "pre":
            x = normalize(x, config, name="final_norm")
            x = activate(x, config, name="final_act")
        x = layers.Identity(name="features")(x)
        if include_top:
            x = _head(x, num_classes, drop_rate, classifier_activation)
        elif pooling == "avg":
            x = layers.GlobalAveragePooling2D(name="avg_pool", **NHWC)(x)
        elif pooling == "max":
            x = layers.GlobalMaxPooling2D(name="max_pool", **NHWC)(x)
        elif pooling is not None:
            raise unknown_name("pooling", pooling, ("avg", "max"))
        return _model(inputs, x, name)


@contextlib.contextmanager
def _in_a_sentence(config: ResNetConfig) -> Iterator[None]:
    """Turns what Keras says against a configuration that is no row of the table into a UserError."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:  # channels that groups do not divide, for example
        if REGISTRY.get(config.name) == config:
            raise
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"The network {config.name!r} cannot be built: {reason}. Change its fields.") from None


def _model(inputs, outputs, name: str) -> keras.Model:
    with deep_graphs():
        return keras.Model(inputs, outputs, name=name)


def _head(x, num_classes: int, drop_rate: float, classifier_activation: str | None):
    x = layers.GlobalAveragePooling2D(name="avg_pool", **NHWC)(x)
    if drop_rate > 0:
        x = layers.Dropout(drop_rate, name="head_dropout")(x)
    # Logits and probabilities stay float32 under a mixed precision policy: a loss in half precision loses digits.
    x = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    if classifier_activation not in (None, "linear"):
        _check_activation(classifier_activation)
        x = layers.Activation(classifier_activation, dtype="float32", name="predictions")(x)
    return x


def _stages(
    config: ResNetConfig,
    in_channels: int,
    output_stride: int,
    stochastic_depth_rate: float,
    inner_drop_rate: float,
) -> list[list[BlockPlace]]:
    """The places of each stage's blocks, with strides beyond `output_stride` turned into dilations."""
    stages = []
    built, last_block = 0, sum(config.depths) - 1
    reached, dilation = config.stem_stride, 1
    for stage, depth in enumerate(config.depths):
        stride, first_dilation = config.strides[stage], dilation
        if reached * stride > output_stride:
            dilation *= stride
            stride = 1
        reached *= stride
        strides_first = config.stride_block == "first"
        # Where the last block strides, the dilation that replaces its stride begins in the next stage.
        block_dilation = dilation if strides_first else first_dilation
        strided = 0 if strides_first else depth - 1
        out_channels = config.out_channels(stage)
        places = []
        for block in range(depth):
            block_stride = stride if block == strided else 1
            changes_shape = in_channels != out_channels or (block_stride > 1 and strides_first)
            places.append(
                BlockPlace(
                    name=f"stage{stage + 1}_block{block + 1}",
                    width=config.widths[stage],
                    out_channels=out_channels,
                    stride=block_stride,
                    dilation=block_dilation,
                    first_dilation=first_dilation if block == 0 else block_dilation,
                    project=changes_shape or (block == 0 and config.project_first_block),
                    drop_path_rate=stochastic_depth_rate * built / max(1, last_block),
                    inner_drop_rate=inner_drop_rate,
                )
            )
            in_channels = out_channels
            built += 1
        stages.append(places)
    return stages


def _inputs(config: ResNetConfig, input_shape, input_tensor, output_stride: int):
    """The model's input, and the tensor to build on."""
    if input_tensor is not None:
        if input_shape is not None and tuple(input_tensor.shape[1:]) != tuple(input_shape):
            raise UserError(
                "input_shape must be that of input_tensor, or left out, got "
                f"{tuple(input_shape)} and a tensor of {tuple(input_tensor.shape[1:])}."
            )
        shape, x = tuple(input_tensor.shape[1:]), input_tensor
        # A tensor computed by layers before it makes a model from those layers' inputs on.
        inputs = keras.utils.get_source_inputs(input_tensor)
    else:
        shape = tuple(config.input_shape if input_shape is None else input_shape)
        x = inputs = None
    if len(shape) != 3 or any(side is not None and not isinstance(side, int) for side in shape):
        raise UserError(f"input_shape must be (height, width, channels), channels last, got {input_shape}.")
    height, width, channels = shape
    if channels is None or channels < 1:
        raise UserError(f"The number of input channels must be known and at least 1, got {shape}.")
    smallest = min(config.total_stride, max(output_stride, config.stem_stride))
    if config.downsampling == "blur":
        # The border is mirrored, so every map that is blurred needs two pixels per side.
        smallest = 2 * smallest
    for side in (height, width):
        if side is not None and side < smallest:
            raise UserError(
                f"{config.name} shrinks its input {smallest} times and needs at least {smallest}×{smallest} "
                f"pixels, got {height}×{width}: use larger images, or a network of a CIFAR group."
            )
    if x is None:
        x = inputs = keras.Input(shape=shape, name="images")
    return inputs, x


def _check_activation(name: str) -> None:
    valid = [key for key in dir(keras.activations) if key.islower() and not key.startswith("_")]
    if name not in valid:
        raise unknown_name("activation", name, [v for v in valid if v not in ("get", "serialize", "deserialize")])


def freeze(model: keras.Model, *, until: str) -> keras.Model:
    """Freezes a network's first layers for fine-tuning, in place.

    Frozen batch normalisation also runs with its stored statistics during training, so that a small data set does not
    shift what the frozen convolutions were trained with.

    Args:
        model: A network built here (layer names as in this module's contract).
        until: The last part to freeze: "stem", "stage1", "stage2", …, or "features" (all but the head).

    Returns:
        The same model. Compile it again before training.

    Raises:
        UserError: If the network has no such part.
    """
    stages = []
    for layer in model.layers:
        part = layer.name.split("_")[0]
        if part.startswith("stage") and part not in stages:
            stages.append(part)
    parts = ["stem", *stages, "features"]
    if until not in parts:
        raise unknown_name("part to freeze until", until, parts)
    frozen = parts[: parts.index(until) + 1]
    if until == "features":
        frozen.append("final")  # the normalisation behind the last pre-activation block
    for layer in model.layers:
        layer.trainable = layer.name.split("_")[0] not in frozen
    return model
