"""Putting foreign tensors into a network: every variable exactly once, all of them or none.

Sources (PyTorch, keras.applications) are translated elsewhere into our variables' names and layout; what fits, what is
missing and what is left over is decided here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np

from keras_resnet.errors import UserError

HEAD = ("logits/kernel", "logits/bias")
FIRST_KERNELS = ("stem_conv/kernel", "stem_conv1/kernel")
# More names than this say nothing more to a person; the error object holds them all.
SHOWN_NAMES = 20


@dataclass(frozen=True)
class Tensor:
    """One tensor of a source, in Keras' layout.

    Attributes:
        name: What the source calls it.
        value: Float array.
    """

    name: str
    value: np.ndarray


@dataclass(frozen=True)
class LoadReport:
    """What loading weights did.

    Attributes:
        source: Where they came from.
        variables: How many variables were set.
        new: Variables that kept their own values because the head is a new one.
        ignored: Tensors of the source that inference has no use for.
        folded: Channels of the source's first kernel when it was folded to another number, else None.
    """

    source: str
    variables: int
    new: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    folded: int | None = None


class WeightsError(UserError):
    """Weights that do not fit the network. Nothing was changed.

    Attributes:
        missing: Variables for which the source has nothing.
        left_over: Tensors of the source for which the network has no place.
        wrong_shape: Variables whose tensor has another shape.
    """

    def __init__(
        self, message: str, *, missing: tuple[str, ...], left_over: tuple[str, ...], wrong_shape: tuple[str, ...]
    ):
        super().__init__(message)
        self.missing = missing
        self.left_over = left_over
        self.wrong_shape = wrong_shape


def variables_by_name(model: keras.Model) -> dict[str, "keras.Variable"]:
    """Every weight of a flat network under "layer/variable", seeds of random layers left out."""
    return {f"{layer.name}/{weight.name}": weight for layer in model.layers for weight in layer.weights}


def assign(
    model: keras.Model,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    left_over: Iterable[str] = (),
    ignored: Iterable[str] = (),
    head: str = "auto",
) -> LoadReport:
    """Sets every variable of a network from translated tensors, or changes nothing.

    Args:
        model: The network.
        tensors: Variable name ("layer/variable") → tensor.
        source: What errors call the source.
        left_over: Tensors of the source that could not be translated.
        ignored: Tensors of the source that inference has no use for; only reported.
        head: "auto" keeps the network's own logits when the number of classes differs; "new" keeps them always.

    Returns:
        What was done.

    Raises:
        WeightsError: Variables are missing, tensors are left over or shapes differ; the message names them.
        UserError: A tensor holds values that are not finite.
    """
    variables = variables_by_name(model)
    tensors, new = leave_head(dict(tensors), variables, head)
    tensors, folded = _fold_first_kernel(tensors, variables)

    missing, left_over, wrong_shape = compare(variables, tensors, left_over=left_over, kept=new)
    if missing or left_over or wrong_shape:
        parts = [
            _listed("missing", missing),
            _listed("left over", left_over),
            _listed(
                "wrong in shape",
                [
                    f"{name} is {tensors[name].value.shape} ({tensors[name].name}), "
                    f"the network's is {tuple(variables[name].shape)}"
                    for name in wrong_shape
                ],
            ),
        ]
        raise WeightsError(
            f"{source} does not fit {model.name!r}; nothing was changed. " + " ".join(filter(None, parts)),
            missing=missing,
            left_over=left_over,
            wrong_shape=wrong_shape,
        )
    for name in variables:
        if name in tensors and not np.isfinite(tensors[name].value).all():
            raise UserError(
                f"{source} is damaged: {tensors[name].name} holds values that are not finite. Nothing was changed."
            )
    for name, variable in variables.items():
        if name in tensors:
            variable.assign(tensors[name].value)
    return LoadReport(source, len(variables) - len(new), tuple(new), tuple(ignored), folded)


class Mismatch(NamedTuple):
    """What keeps tensors from fitting a network; see `WeightsError`."""

    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    wrong_shape: tuple[str, ...]


def compare(
    variables: Mapping, tensors: Mapping[str, Tensor], *, left_over: Iterable[str], kept: Iterable[str]
) -> Mismatch:
    """Compares names and shapes.

    Args:
        variables: The network's, by name.
        tensors: Variable name → tensor.
        left_over: Tensors of the source that could not be translated.
        kept: Variables that need no tensor.
    """
    return Mismatch(
        missing=tuple(name for name in variables if name not in tensors and name not in kept),
        left_over=(*left_over, *(tensor.name for name, tensor in tensors.items() if name not in variables)),
        wrong_shape=tuple(
            name for name in variables if name in tensors and tensors[name].value.shape != tuple(variables[name].shape)
        ),
    )


def leave_head(tensors: dict[str, Tensor], variables: Mapping, head: str) -> tuple[dict[str, Tensor], list[str]]:
    """Takes the source's head out where the network keeps its own; returns the variables that stay."""
    kernel, bias = HEAD
    if kernel not in variables:
        # A network without a top has no place for a head, and nobody who asked for one misses it.
        return {name: tensor for name, tensor in tensors.items() if name not in HEAD}, []
    have = tensors.get(kernel)
    other_classes = (
        have is not None
        and have.value.ndim == 2
        and have.value.shape[0] == variables[kernel].shape[0]
        and have.value.shape[1] != variables[kernel].shape[1]
    )
    if head == "new" or other_classes:
        return {name: tensor for name, tensor in tensors.items() if name not in HEAD}, [kernel, bias]
    return tensors, []


def _fold_first_kernel(tensors: dict[str, Tensor], variables: Mapping) -> tuple[dict[str, Tensor], int | None]:
    for name in FIRST_KERNELS:
        if name not in tensors or name not in variables:
            continue
        value, shape = tensors[name].value, tuple(variables[name].shape)
        same_but_channels = value.ndim == 4 and value.shape[:2] == shape[:2] and value.shape[3] == shape[3]
        if same_but_channels and value.shape[2] == 3 != shape[2]:
            return {**tensors, name: Tensor(tensors[name].name, fold_channels(value, shape[2]))}, 3
    return tensors, None


def fold_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Makes a colour network's first kernel fit another number of input channels.

    Grey gets the sum over the three channels: a grey image gives what its three equal copies gave. Other numbers repeat
    red, green and blue in turn and scale by 3 / channels, which keeps the size of the activations.

    Args:
        kernel: Float (height, width, 3, filters).
        channels: Input channels wanted, at least 1.

    Returns:
        Float (height, width, channels, filters).

    Reference:
        The rule of timm's `adapt_input_conv`.
    """
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeated = np.tile(kernel, (1, 1, -(-channels // 3), 1))[:, :, :channels]
    return repeated * np.asarray(3 / channels, kernel.dtype)


def _listed(label: str, names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return ""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{label.capitalize()} ({len(names)}): {', '.join(names[:SHOWN_NAMES])}{more}."
