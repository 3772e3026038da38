"""Stochastic gradient descent with momentum, and two forms of weight decay.

Decay acts on the kernels of convolutions and dense layers alone; scales and offsets of batch normalization and biases
are left alone (Goyal et al. 2017, arXiv:1706.02677, section 5.3; He et al. 2019, arXiv:1812.01187).

- "l2": the gradient of ½·λ·‖w‖² is added to the gradient and passes through the momentum, as in the ResNet paper.
- "decoupled": each step takes rate · λ · w off the weight beside the momentum (Loshchilov & Hutter 2019,
  arXiv:1711.05101).
"""

from typing import Any

import keras

from keras_resnet.errors import unknown_name

MOMENTUM_FORMS = ("nesterov", "classical")
DECAY_FORMS = ("l2", "decoupled")


class L2SGD(keras.optimizers.SGD):
    """SGD whose gradient includes that of ½·l2·‖w‖² for every variable that decays."""

    def __init__(self, *, l2: float, **options: Any):
        super().__init__(name="l2_sgd", **options)
        self._l2 = l2

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        # Here the gradient is the sum over all devices already, so that the decay counts once.
        if decays(variable):
            gradient = gradient + self._l2 * keras.ops.cast(variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)


def decays(variable: Any) -> bool:
    """Whether weight decay acts on a variable: kernels have two dimensions or more, scales and biases one."""
    return len(variable.shape) > 1


def create_optimizer(
    model: keras.Model,
    *,
    learning_rate: Any,
    momentum: float = 0.9,
    momentum_form: str = "nesterov",
    weight_decay: float = 0.0,
    decay_form: str = "l2",
    ema_decay: float = 0.0,
) -> keras.optimizers.Optimizer:
    """Builds the optimizer of a model.

    Args:
        model: The model; its variables must exist.
        learning_rate: A number or a schedule.
        momentum: The part of the last update that is kept, 0..1.
        momentum_form: "nesterov" or "classical".
        weight_decay: λ, at least 0.
        decay_form: "l2" or "decoupled".
        ema_decay: The part of the averaged weights that a step keeps; 0 keeps no average.

    Returns:
        The optimizer, not yet built.

    Raises:
        UserError: A name is unknown.
    """
    if momentum_form not in MOMENTUM_FORMS:
        raise unknown_name("momentum form", momentum_form, MOMENTUM_FORMS)
    if decay_form not in DECAY_FORMS:
        raise unknown_name("decay form", decay_form, DECAY_FORMS)
    options: dict[str, Any] = {
        "learning_rate": learning_rate,
        "momentum": momentum,
        "nesterov": momentum_form == "nesterov",
    }
    if ema_decay:
        options |= {"use_ema": True, "ema_momentum": ema_decay}
    if weight_decay and decay_form == "l2":
        return L2SGD(l2=weight_decay, **options)
    optimizer = keras.optimizers.SGD(weight_decay=weight_decay or None, **options)
    if weight_decay:
        optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if not decays(v)])
    return optimizer
