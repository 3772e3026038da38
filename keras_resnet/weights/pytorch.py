"""Weights of PyTorch's networks, translated by rule in both directions.

The names follow from our layers' names: stage, block and index of the convolution. A `Naming` holds how one family of
repositories spells them: torchvision and timm ("torchvision"), timm's pre-activation networks ("timm_v2"), the CIFAR
repositories ("cifar") and the wide ones ("wide").
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_resnet.errors import UserError, unknown_name
from keras_resnet.weights.assign import Tensor, variables_by_name
from keras_resnet.weights.torch_files import write_checkpoint

VARIABLE_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


@dataclass(frozen=True)
class Naming:
    """How one family of repositories spells a network's modules.

    Attributes:
        stem_conv: The first convolution.
        stem_norm: Its normalisation.
        block: A block, with {stage} counted from 1 and {block} from 0.
        first_stage: What the first stage is called.
        norm: Prefix of a block's normalisations.
        shortcut_conv: A projection, with {index} 0, or 1 behind a pool.
        shortcut_norm: Its normalisation, with {index} one higher.
        final_norm: The normalisation behind the last pre-activation block.
        head: The classifier.
        head_is_conv: Whether the classifier is a 1×1 convolution.
        deep_stem: A part of a deep stem: {part} is "conv" or "norm", {number} counts them from 1, {position} counts
            convolutions, normalisations and activations together from 0.
    """

    stem_conv: str
    stem_norm: str
    block: str
    first_stage: int
    norm: str
    shortcut_conv: str
    shortcut_norm: str
    final_norm: str
    head: str
    head_is_conv: bool = False
    deep_stem: str = "conv1.{position}"


NAMINGS = {
    "torchvision": Naming(
        "conv1", "bn1", "layer{stage}.{block}", 1, "bn", "downsample.{index}", "downsample.{index}", "bn", "fc"
    ),
    "timm_v2": Naming(
        "stem.conv", "stem.norm", "stages.{stage}.blocks.{block}", 0, "norm", "downsample.conv", "downsample.norm",
        "norm", "head.fc", head_is_conv=True, deep_stem="stem.{part}{number}",
    ),
    "cifar": Naming(
        "conv1", "bn1", "layer{stage}.{block}", 1, "bn", "shortcut.{index}", "shortcut.{index}", "bn", "linear"
    ),
    "wide": Naming(
        "conv1", "bn1", "block{stage}.layer.{block}", 1, "bn", "convShortcut", "bnShortcut", "bn1", "fc"
    ),
}  # fmt: skip
# What can stand at the place of convolution {k}: our part of its layers → timm's, {i} counted from 0.
INSIDE = {
    "conv_split": "conv{k}.conv",
    "norm_split": "conv{k}.bn0",
    "conv_reduce": "conv{k}.fc1",
    "norm_reduce": "conv{k}.bn1",
    "conv_expand": "conv{k}.fc2",
    "conv_scale": "convs.{i}",
    "norm_scale": "bns.{i}",
}
# timm wraps every convolution of a selective-kernel network together with its normalisation.
INSIDE_SELECTIVE = {
    "conv": "conv{k}.conv",
    "norm": "conv{k}.bn",
    "conv_path": "conv{k}.paths.{i}.conv",
    "norm_path": "conv{k}.paths.{i}.bn",
    "conv_reduce": "conv{k}.attn.fc_reduce",
    "norm_reduce": "conv{k}.attn.bn",
    "conv_expand": "conv{k}.attn.fc_select",
}


def translate(
    model: keras.Model, state: Mapping[str, np.ndarray], *, source: str
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Translates a state dict into a network's variables and Keras' layout.

    Args:
        model: The network.
        state: Name → array, PyTorch's layout.
        source: What errors call it.

    Returns:
        Variable name → tensor; the names left over; the names ignored (counters of batches, and what a network without
        its top has no place for).

    Raises:
        UserError: Not one name is one that this network could have.
    """
    names, naming = _closest_names(model, state)
    found = {name: key for name, key in names.items() if key in state}
    if not found:
        first = ", ".join(list(state)[:5])
        raise UserError(
            f"{source} is not a checkpoint of a network like {model.name!r}: no name fits. Its first names: {first}."
        )
    variables = variables_by_name(model)
    tensors = {name: Tensor(key, from_torch(state[key], _rank(variables, name))) for name, key in found.items()}
    ignored: list[str] = []
    left_over: list[str] = []
    used = set(found.values())
    beyond = tuple(f"{module}." for module in _modules_beyond(model, naming))
    for key in state:
        if key in used:
            continue
        is_ignored = key.endswith("num_batches_tracked") or key.startswith(beyond)
        (ignored if is_ignored else left_over).append(key)
    return tensors, left_over, ignored


def to_state_dict(model: keras.Model, naming: str | None = None) -> dict[str, np.ndarray]:
    """Writes a network's weights under PyTorch's names and in its layout.

    The names and shapes are torchvision's (or timm's) own where they build the same network, so its `load_state_dict`
    takes them. keras.applications' networks, which have biases that torchvision's lack, keep them under the same rule:
    torchvision refuses those as unexpected instead of computing something else.

    Args:
        model: The network.
        naming: A key of `NAMINGS`; None for the usual one: "timm_v2" for pre-activation networks, "cifar" for CIFAR's
            parameter-free shortcuts, else "torchvision".

    Returns:
        Name → array: float32, and int64 scalars for PyTorch's counters of batches.

    Raises:
        UserError: For an unknown naming.
    """
    naming = usual_naming(model) if naming is None else naming
    if naming not in NAMINGS:
        raise unknown_name("naming", naming, NAMINGS)
    names = torch_names(model, naming)
    state = {}
    for name, variable in variables_by_name(model).items():
        value = np.asarray(keras.ops.convert_to_numpy(variable), np.float32)
        as_conv = name == "logits/kernel" and NAMINGS[naming].head_is_conv
        state[names[name]] = to_torch(value, as_conv=as_conv)
        if name.endswith("/moving_variance"):
            module = names[name].rsplit(".", 1)[0]
            state[f"{module}.num_batches_tracked"] = np.zeros((), np.int64)
    return state


def save_checkpoint(model: keras.Model, path: str | Path, naming: str | None = None) -> None:
    """Saves a network's weights as a PyTorch checkpoint, see `to_state_dict` and `torch_files.write_checkpoint`."""
    write_checkpoint(to_state_dict(model, naming), path)


def usual_naming(model: keras.Model) -> str:
    """The naming under which a network like this is known."""
    layers = {layer.name: layer for layer in model.layers}
    if isinstance(layers.get("stage1_block1_out"), keras.layers.Add):
        return "timm_v2"
    if any(name.endswith("_shortcut_channels") for name in layers):
        return "cifar"
    return "torchvision"


def torch_names(model: keras.Model, naming: str) -> dict[str, str]:
    """Variable name ("layer/variable") → PyTorch's name, for every variable of a network."""
    traits = _Traits(
        pooled=any(
            isinstance(layer, keras.layers.AveragePooling2D) and layer.name.endswith("_shortcut_pool")
            for layer in model.layers
        ),
        deep=any(layer.name == "stem_conv1" for layer in model.layers),
        selective=any(layer.name.endswith("_path1") for layer in model.layers),
    )
    names = {}
    for name in variables_by_name(model):
        layer, variable = name.split("/")
        names[name] = f"{_module(layer, NAMINGS[naming], traits)}.{VARIABLE_NAMES[variable]}"
    return names


class _Traits(NamedTuple):
    """What a network's modules are called by, beside their own names.

    Attributes:
        pooled: Whether its shortcuts pool.
        deep: Whether its stem is a sequence of convolutions.
        selective: Whether it has selective kernels.
    """

    pooled: bool
    deep: bool
    selective: bool


def _module(layer: str, naming: Naming, traits: _Traits) -> str:
    """Our layer's name → PyTorch's module, by rule."""
    fixed = {
        "stem_conv": naming.stem_conv,
        "stem_norm": naming.stem_norm,
        "stem_pool_conv": "maxpool.0",
        "stem_pool_norm": "maxpool.1",
        "final_norm": naming.final_norm,
        "logits": naming.head,
    }
    if layer in fixed:
        return fixed[layer]
    stem = re.fullmatch(r"stem_(conv|norm)(\d)", layer)
    if stem:
        if not traits.deep:  # the article's second convolution
            return f"conv{stem[2]}"
        position = 3 * (int(stem[2]) - 1) + (stem[1] == "norm")
        return naming.deep_stem.format(part=stem[1], number=stem[2], position=position)
    place = re.fullmatch(r"stage(\d+)_block(\d+)_(\w+)", layer)
    assert place, layer  # the contract of `models.resnet`
    stage, block, part = place.groups()
    # timm's -D networks keep the pool's place in the sequence even where there is no pool.
    index = 1 if traits.pooled else 0
    parts = {
        "shortcut_conv": naming.shortcut_conv.format(index=index),
        "shortcut_norm": naming.shortcut_norm.format(index=index + 1),
        "se_reduce": "se.fc1",
        "se_expand": "se.fc2",
        "eca_conv": "se.conv",
    }
    prefix = naming.block.format(stage=int(stage) - 1 + naming.first_stage, block=int(block) - 1)
    return f"{prefix}.{parts[part] if part in parts else _inner_module(part, naming, traits)}"


def _inner_module(part: str, naming: Naming, traits: _Traits) -> str:
    """A layer of the residual branch, for example "norm2" or "conv2_path1"."""
    place = re.fullmatch(r"(conv|norm)(\d)(?:_([a-z]+)(\d*))?", part)
    assert place, part  # the contract of `models.resnet`
    kind, number, inside, count = place.groups()
    key = f"{kind}_{inside}" if inside else kind
    table = INSIDE_SELECTIVE if traits.selective else INSIDE
    if key in table:
        return table[key].format(k=number, i=int(count or 1) - 1)
    return f"conv{number}" if kind == "conv" else f"{naming.norm}{number}"


def _closest_names(model: keras.Model, state: Mapping[str, np.ndarray]) -> tuple[dict[str, str], Naming]:
    """The names under the naming that knows most of the state dict's."""
    candidates = [(torch_names(model, key), naming) for key, naming in NAMINGS.items()]
    return max(candidates, key=lambda candidate: sum(name in state for name in candidate[0].values()))


def _modules_beyond(model: keras.Model, naming: Naming) -> list[str]:
    """Modules at a whole network's end that this one does not have, as without its top or as a list of features."""
    layers = {layer.name for layer in model.layers}
    beyond = [] if "logits" in layers else [naming.head]
    is_pre = usual_naming(model) == "timm_v2"
    if is_pre and "features" not in layers:
        beyond.append(naming.final_norm)
    return beyond


def _rank(variables: Mapping, name: str) -> int:
    return len(variables[name].shape)


def from_torch(value: np.ndarray, rank: int) -> np.ndarray:
    """PyTorch's layout → Keras': (out, in, …) → (…, in, out). Vectors stay.

    Args:
        value: The array.
        rank: Dimensions that the variable has: a classifier written as a 1×1 convolution becomes a matrix.
    """
    if value.ndim == 4 and rank == 2 and value.shape[2:] == (1, 1):
        value = value[:, :, 0, 0]
    return value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value


def to_torch(value: np.ndarray, *, as_conv: bool = False) -> np.ndarray:
    """Keras' layout → PyTorch's, the inverse of `from_torch`.

    Args:
        value: The array.
        as_conv: Whether a matrix shall become a 1×1 convolution.
    """
    if value.ndim > 1:
        value = value.transpose(value.ndim - 1, value.ndim - 2, *range(value.ndim - 2))
    value = np.ascontiguousarray(value)
    return value[:, :, None, None] if as_conv else value
