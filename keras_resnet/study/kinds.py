"""The networks that the study of depth compares: a table of kinds, each at depths of 6n + 2 layers.

They are the networks of He et al. 2015, section 4.2: a 3×3 convolution, three stages of n blocks of two convolutions,
and the classifier. The shortcut is option A, which has no parameters: at one depth all kinds with normalisation have
equally many. Imports no Keras.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_resnet.errors import UserError, unknown_name
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.registry import get_config

SHALLOWEST, DEEPEST = 8, 1202


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        title: What figures and tables call it.
        changes: The fields of `ResNetConfig` that differ from He's residual network.
    """

    title: str
    changes: dict[str, Any] = field(default_factory=dict)


KINDS = {
    "plain": Kind("plain", {"shortcut": "none"}),
    "residual": Kind("residual"),
    "residual_zero_gamma": Kind("residual, last gammas 0", {"last_gamma": "zeros"}),
    "plain_no_norm": Kind("plain, no normalisation", {"shortcut": "none", "norm": "none"}),
    "residual_no_norm": Kind("residual, no normalisation", {"norm": "none"}),
}


def network_config(kind: str, depth: int) -> ResNetConfig:
    """Returns the configuration of a network.

    Args:
        kind: A row of `KINDS`.
        depth: Its layers with weights, 6n + 2, from 8 to 1202.

    Raises:
        UserError: There is no such kind, or no network of that depth.
    """
    if kind not in KINDS:
        raise unknown_name("kind of network", kind, KINDS)
    if not SHALLOWEST <= depth <= DEEPEST or depth % 6 != 2:
        lower = min(DEEPEST, max(SHALLOWEST, depth - (depth - 2) % 6))
        raise UserError(
            f"These networks have 6n + 2 layers, {SHALLOWEST} to {DEEPEST}, got {depth}. The nearest below is {lower}."
        )
    base = get_config("resnet8")
    return base.replace(name=f"{kind}{depth}", depths=((depth - 2) // 6,) * 3, **KINDS[kind].changes)


def check_networks(kinds: Sequence[str], depths: Sequence[int]) -> None:
    """Raises the UserError for a kind or a depth that there is not."""
    for kind in kinds:
        for depth in depths:
            network_config(kind, depth)
