"""Which networks of the table a source of weights fits, for the error where it does not fit the one that was asked for.

Nothing here holds weights: candidates are built for their shapes alone, and only those of the source's depth.
"""

import re
from collections.abc import Callable, Iterable

import keras

from keras_resnet.errors import UserError
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.registry import REGISTRY
from keras_resnet.models.weightless import build_weightless
from keras_resnet.weights.assign import Tensor, compare, leave_head, variables_by_name

# How torchvision and timm, timm's pre-activation networks, the wide ones' authors, and Keras and we name a block.
BLOCK = re.compile(
    r"layer(\d+)\.(\d+)\.|stages\.(\d+)\.blocks\.(\d+)\.|block(\d+)\.layer\.(\d+)\.|(?:stage|conv)(\d+)_block(\d+)_"
)

Translate = Callable[[keras.Model], tuple[dict[str, Tensor], list[str], list[str]]]


def rows_that_fit(names: Iterable[str], translate: Translate) -> list[str]:
    """Finds the networks that a source has every tensor of, in the right shape, and nothing else.

    Args:
        names: The source's names of its tensors.
        translate: A network → its tensors, the source's names left over, and those ignored; a UserError where no name
            fits.

    Returns:
        Registry names, in the table's order. Another number of classes makes no other network.
    """
    depths = _depths(names)
    found = []
    for name, config in REGISTRY.items():
        if config.depths != depths:
            continue
        # One block a stage tells most networks apart, and is built in a fraction of the time.
        if _fits(config.replace(depths=(1,) * len(depths)), translate, whole=False) and _fits(
            config, translate, whole=True
        ):
            found.append(name)
    return found


def advice(rows: list[str]) -> str:
    """Says which networks a source fits; "" where it fits none."""
    if not rows:
        return ""
    if len(rows) == 1:
        return f"These are the weights of {rows[0]!r}: use that name."
    return f"These weights fit {', '.join(map(repr, rows[:-1]))} and {rows[-1]!r}: use one of these names."


def _depths(names: Iterable[str]) -> tuple[int, ...]:
    """Blocks in each stage, counted from names."""
    blocks: dict[int, set[str]] = {}
    for name in names:
        match = BLOCK.match(name)
        if match is not None:
            stage, block = (group for group in match.groups() if group is not None)
            blocks.setdefault(int(stage), set()).add(block)
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def _fits(config: ResNetConfig, translate: Translate, *, whole: bool) -> bool:
    model = build_weightless(config)
    try:
        tensors, left_over, _ = translate(model)
    except UserError:
        return False
    variables = variables_by_name(model)
    tensors, kept = leave_head(tensors, variables, "auto")
    mismatch = compare(variables, tensors, left_over=left_over, kept=kept)
    return not (mismatch.missing or mismatch.wrong_shape or (whole and mismatch.left_over))
