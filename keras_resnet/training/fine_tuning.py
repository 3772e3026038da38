"""Fine-tuning: which layers train in which epoch, and how fast those far from the head learn.

The head of a new task is random, and its first gradients would spoil a trained backbone: it may train alone first,
then the stages join it from the top down (Howard & Ruder 2018, arXiv:1801.06146, section 3.3), each block at a lower
rate than the one above it (section 3.2). The normalization of a frozen layer uses its running statistics and leaves
them as they are.
"""

import re
from typing import Any

import keras

from keras_resnet.errors import unknown_name

STEM, HEAD = "stem", "head"
_BLOCK = re.compile(r"stage(\d+)_block(\d+)_")


def layer_groups(model: keras.Model) -> dict[str, list[keras.Layer]]:
    """Groups the layers of a network of this package by their names.

    Args:
        model: The network.

    Returns:
        Group → layers, from the input to the head: "stem", "stage1_block1", …, "head". What follows the last block
        belongs to the head.
    """
    groups: dict[tuple[int, ...], list[keras.Layer]] = {}
    for layer in model.layers:
        block = _BLOCK.match(layer.name)
        is_stem = isinstance(layer, keras.layers.InputLayer) or layer.name.startswith(f"{STEM}_")
        key = (int(block[1]), int(block[2])) if block else (0,) if is_stem else (1 << 30,)
        groups.setdefault(key, []).append(layer)
    names = {key: f"stage{key[0]}_block{key[1]}" if len(key) == 2 else HEAD if key[0] else STEM for key in groups}
    return {names[key]: groups[key] for key in sorted(groups)}


def rate_factors(model: keras.Model, decay: float) -> list[tuple[Any, float]]:
    """Returns each trainable variable with the factor of its rate: `decay` to the power of the groups above it.

    Args:
        model: The network.
        decay: 0..1: 1 for one rate everywhere.
    """
    groups = list(layer_groups(model).values())
    return [
        (variable, decay ** (len(groups) - 1 - number))
        for number, layers in enumerate(groups)
        for layer in layers
        for variable in layer.trainable_variables
    ]


class Freezing(keras.callbacks.Callback):
    """Freezes what does not train in an epoch, and thaws it when its epoch comes: a function of the epoch alone.

    Args:
        model: The network that trains, with all its layers trainable.
        head_epochs: Epochs in which the head trains alone.
        unfreeze_epochs: Epochs from one stage's thawing to that of the stage below it; 0 thaws all at once.
        freeze_until: The first stage that ever trains, as "stage3" or "head"; None: all do.

    Raises:
        UserError: The network has no such stage.
    """

    def __init__(
        self, model: keras.Model, *, head_epochs: int = 0, unfreeze_epochs: int = 0, freeze_until: str | None = None
    ):
        super().__init__()
        self._stages: dict[str, list[keras.Layer]] = {}
        for group, layers in layer_groups(model).items():
            self._stages.setdefault(group.partition("_")[0], []).extend(layers)
        names = list(self._stages)
        if freeze_until is not None and freeze_until not in names:
            raise unknown_name("stage", freeze_until, names)
        self._lowest = names.index(freeze_until) if freeze_until else 0
        self._head_epochs, self._unfreeze_epochs = head_epochs, unfreeze_epochs
        self._first = 0  # all layers train as they come

    def first_trained(self, epoch: int) -> int:
        """Returns the number of the lowest stage that trains in an epoch, both counted from 0; the stem is stage 0."""
        head = len(self._stages) - 1
        if epoch < self._head_epochs:
            return head
        if not self._unfreeze_epochs:
            return self._lowest
        thawed = 1 + (epoch - self._head_epochs) // self._unfreeze_epochs
        return max(self._lowest, head - thawed)

    def freeze(self, epoch: int) -> bool:
        """Freezes what does not train in an epoch, counted from 0; returns whether anything changed."""
        first = self.first_trained(epoch)
        if first == self._first:
            return False
        self._first = first
        for number, layers in enumerate(self._stages.values()):
            for layer in layers:
                layer.trainable = number >= first
        return True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.freeze(epoch):
            # Keras reads what trains while it traces the step; gradients stop where nothing below trains.
            self.model.make_train_function(force=True)
