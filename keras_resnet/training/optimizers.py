"""Optimizers by name, and two forms of weight decay.

Decay acts on the kernels of convolutions and dense layers alone; scales and offsets of batch normalization and biases
are left alone (Goyal et al. 2017, arXiv:1706.02677, section 5.3; He et al. 2019, arXiv:1812.01187).

- "l2": the gradient of ½·λ·‖w‖² is added to the gradient and passes through the momentum, as in the ResNet paper.
- "decoupled": each step takes rate · λ · w off the weight beside the momentum (Loshchilov & Hutter 2019,
  arXiv:1711.05101).
"""

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_resnet.backends import JAX, TENSORFLOW, backend
from keras_resnet.choices import DECAY_FORMS, MOMENTUM_FORMS, OPTIMIZERS
from keras_resnet.errors import unknown_name


class _Extended:
    """What is added to Keras' optimizers: rates of their own for variables, adaptive clipping, counting by updates.

    Args:
        rate_factors: (variable, factor of its learning rate); the others have 1.
        clip_factor: The largest norm of a gradient beside that of its weights; None leaves gradients as they are.
        head: The last layer's variables, which adaptive clipping and Muon leave alone.
    """

    def __init__(
        self,
        *arguments: Any,
        rate_factors: Sequence[tuple[Any, float]] = (),
        clip_factor: float | None = None,
        head: Sequence[Any] = (),
        **options: Any,
    ):
        super().__init__(*arguments, **options)
        self._rate_factors = {self._var_key(variable): factor for variable, factor in rate_factors if factor != 1.0}
        self._clip_factor = clip_factor
        self._takes_sums = False
        self._head = {self._var_key(variable) for variable in head}

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        factor = self._rate_factors.get(self._var_key(variable), 1.0)
        super().update_step(gradient, variable, learning_rate if factor == 1.0 else learning_rate * factor)

    def _apply_weight_decay(self, variables: Any) -> None:
        # Decoupled decay is in proportion to the rate, so that a slower variable decays more slowly, too.
        groups: dict[float, list] = {}
        for variable in variables:
            groups.setdefault(self._rate_factors.get(self._var_key(variable), 1.0), []).append(variable)
        decay = self.weight_decay
        for factor, group in groups.items():
            self.weight_decay = decay if decay is None or factor == 1.0 else decay * factor
            super()._apply_weight_decay(group)
        self.weight_decay = decay

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        super().apply(grads if self._takes_sums else _summed(grads), trainable_variables)

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return list(grads_and_vars)  # already summed

    def _backend_apply_gradients(self, grads: Any, trainable_variables: Any) -> None:
        # Behind a function, because Keras counts variables among an object's attributes as its own.
        variables = list(trainable_variables)
        self._clipped_variables = lambda: variables
        super()._backend_apply_gradients(grads, trainable_variables)

    def _clip_gradients(self, grads: Any) -> Any:
        grads = super()._clip_gradients(grads)
        if self._clip_factor is None:
            return grads
        return [
            gradient
            if gradient is None or self._var_key(variable) in self._head
            else clip_adaptively(gradient, variable, self._clip_factor)
            for gradient, variable in zip(grads, self._clipped_variables(), strict=True)
        ]

    def finalize_variable_values(self, var_list: Any) -> None:
        if backend() == JAX and self._iterations._value is None:
            return  # a step broke off that held all values: nothing is left to finalize
        if backend() == JAX and self.use_ema:
            assign_copies(self._trainable_variables, self._model_variables_moving_average)
            return
        # Keras pairs averages with the list by position, and its `fit` leaves the frozen variables out of it.
        super().finalize_variable_values(self._trainable_variables)

    # Keras asks schedules and averages weights by steps, accumulated ones that change no weight included: a schedule
    # would reach its end after a part of the training. These two go by updates.
    def _get_current_learning_rate(self) -> Any:
        schedule = self._learning_rate
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            return schedule(self.iterations)
        return super()._get_current_learning_rate()

    def _update_model_variables_moving_average(self, trainable_variables: Any) -> None:
        if backend() == JAX:
            self._average_values()
            return
        average = super()._update_model_variables_moving_average
        if not self.gradient_accumulation_steps:
            average(trainable_variables)
            return
        is_update = keras.ops.equal((self._iterations + 1) % self.gradient_accumulation_steps, 0)
        keras.ops.cond(is_update, lambda: average(trainable_variables), lambda: None)

    def _average_values(self) -> None:
        """The same without branches, in which JAX cannot assign; the average of a frozen variable is its value."""
        ops = keras.ops
        keep = ops.where(ops.equal(self.iterations, 0), 0.0, self.ema_momentum)
        if self.gradient_accumulation_steps:
            is_update = ops.equal((self._iterations + 1) % self.gradient_accumulation_steps, 0)
            keep = ops.where(is_update, keep, 1.0)
        for variable, average in zip(self._trainable_variables, self._model_variables_moving_average, strict=True):
            if variable.trainable:
                average.assign(keep * average + (1.0 - keep) * variable)

    def stateless_apply(self, optimizer_variables: Any, grads: Any, trainable_variables: Any) -> tuple[Any, Any]:
        """Keras' own, for a part of the variables as well: on JAX it pairs values and variables by position alone."""
        trained = [variable for variable in self._trainable_variables if variable.trainable]
        if len(trained) == len(self._trainable_variables):
            return super().stateless_apply(optimizer_variables, grads, trainable_variables)
        pairs = [(trained, trainable_variables), (self.variables, optimizer_variables)]
        values = [pair for own, given in pairs for pair in zip(own, given, strict=True)]
        with keras.StatelessScope(state_mapping=values) as scope:
            self.apply(grads, trained)
        return tuple([scope.get_current_value(v) for v in variables] for variables in (trained, self.variables))


class LossScale(keras.optimizers.LossScaleOptimizer):
    """Keras' LossScaleOptimizer around one of the optimizers below.

    Several devices must all see the same gradients, so that they agree on whether these are finite.
    """

    def __init__(self, inner_optimizer: _Extended):
        super().__init__(inner_optimizer)
        inner_optimizer._takes_sums = True

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        super().apply(_summed(grads), trainable_variables)


def _summed(gradients: Sequence[Any]) -> list[Any]:
    """Sums the gradients of all TensorFlow devices. Keras would sum them only after clipping each device's own."""
    if backend() != TENSORFLOW:
        return list(gradients)
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return list(gradients)
    numbers = [number for number, gradient in enumerate(gradients) if gradient is not None]
    sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, [gradients[number] for number in numbers])
    found = dict(zip(numbers, sums, strict=True))
    return [found.get(number) for number in range(len(gradients))]


class SGD(_Extended, keras.optimizers.SGD):
    """Keras' SGD."""


class AdamW(_Extended, keras.optimizers.AdamW):
    """Keras' AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""


class Lamb(_Extended, keras.optimizers.Lamb):
    """Keras' LAMB (You et al. 2020, arXiv:1904.00962); its decay is decoupled, outside the trust ratio."""


class Lion(_Extended, keras.optimizers.Lion):
    """Keras' Lion (Chen et al. 2023, arXiv:2302.06675)."""


class Muon(_Extended, keras.optimizers.Muon):
    """Keras' Muon (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982) for the kernels of convolutions as well.

    Keras updates only matrices by Muon. Here a convolution's kernel [height, width, in, out] counts as one, its first
    three axes taken together, as in Jordan et al.'s networks for CIFAR-10. The logits' kernel, scales and biases are
    updated by AdamW, as the authors advise.
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        return len(variable.shape) < 2 or self._var_key(variable) in self._head

    def zeropower_via_newtonschulz5(self, x: Any, steps: int) -> Any:
        matrix = keras.ops.reshape(x, _matrix_shape(x))
        return keras.ops.reshape(super().zeropower_via_newtonschulz5(matrix, steps), x.shape)

    def lr_adjust(self, x: Any) -> Any:
        return x * (math.sqrt(max(_matrix_shape(x))) * self.rms_rate)

    # One decay for both parts, that which `_Extended` sets for the variables at hand.
    @property
    def adam_weight_decay(self) -> float | None:
        return self.weight_decay

    @adam_weight_decay.setter
    def adam_weight_decay(self, value: float | None) -> None:
        pass


def _matrix_shape(values: Any) -> tuple[int, int]:
    """The shape of a kernel as a matrix: inputs, outputs."""
    return math.prod(values.shape[:-1]), values.shape[-1]


class L2SGD(SGD):
    """SGD whose gradient includes that of ½·l2·‖w‖² for every variable that decays."""

    def __init__(self, *, l2: float, **options: Any):
        super().__init__(name="l2_sgd", **options)
        self._l2 = l2

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        # Here the gradient is the sum over all devices already, so that the decay counts once.
        if decays(variable):
            gradient = gradient + self._l2 * keras.ops.cast(variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)


ADAPTIVE = {"adamw": AdamW, "lamb": Lamb, "lion": Lion}


def clip_adaptively(gradient: Any, weights: Any, factor: float) -> Any:
    """Scales the gradient of each unit down to a part of the norm of its weights.

    A unit is an output channel of a convolution or dense layer, and the whole of a bias or scale.

    Args:
        gradient: The gradient, of the weights' shape.
        weights: float [..., units], or [units] for a bias or scale.
        factor: The part, above 0.

    Returns:
        The gradient, of the same shape and dtype.

    Reference:
        Brock et al. 2021, arXiv:2102.06171, section 4.1, equation 3; weights count with a norm of at least 1e-3.
    """
    ops = keras.ops
    axes = tuple(range(len(weights.shape) - 1)) or None

    def norm(values: Any) -> Any:
        return ops.sqrt(ops.sum(ops.square(values), axis=axes, keepdims=True))

    limit = ops.maximum(norm(ops.cast(weights, gradient.dtype)), 1e-3) * factor
    size = norm(gradient)
    return ops.where(size > limit, gradient * (limit / ops.maximum(size, 1e-6)), gradient)


def decays(variable: Any) -> bool:
    """Whether weight decay acts on a variable: kernels have two dimensions or more, scales and biases one."""
    return len(variable.shape) > 1


def start_averages(optimizer: keras.optimizers.Optimizer) -> None:
    """Begins the averages of a built optimizer at the values of the variables, where frozen ones are left alone."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if backend() == JAX and optimizer.use_ema:
        assign_copies(optimizer._model_variables_moving_average, optimizer._trainable_variables)


def assign_copies(variables: Sequence[Any], sources: Sequence[Any]) -> None:
    """Gives variables the values of others. On JAX they would share memory, which a step takes from all it is given."""
    for variable, source in zip(variables, sources, strict=True):
        variable.assign(keras.ops.copy(source))


def create_optimizer(
    model: keras.Model,
    *,
    learning_rate: Any,
    name: str = "sgd",
    momentum: float = 0.9,
    momentum_form: str = "nesterov",
    weight_decay: float = 0.0,
    decay_form: str = "l2",
    clip_norm: float | None = None,
    clip_factor: float | None = None,
    rate_factors: Sequence[tuple[Any, float]] = (),
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> keras.optimizers.Optimizer:
    """Builds the optimizer of a model.

    Args:
        model: The model; its variables must exist.
        learning_rate: A number, or a schedule of updates.
        name: One of `OPTIMIZERS`.
        momentum: The part of the last update that is kept, 0..1; β₁ of the adaptive ones.
        momentum_form: "nesterov" or "classical", of SGD and Muon.
        weight_decay: λ, at least 0.
        decay_form: "l2" or "decoupled", of SGD; the others decouple it.
        clip_norm: The norm of all gradients together that they are scaled down to; None leaves them as they are.
        clip_factor: The part of its weights' norm that a unit's gradient is scaled down to, see `clip_adaptively`; the
            layer "logits" is left alone, as in the publication. None clips nothing.
        rate_factors: (variable, factor of its learning rate); the others have 1.
        accumulate: Steps whose gradients are averaged for one update.
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
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    options: dict[str, Any] = {
        "learning_rate": learning_rate,
        "global_clipnorm": clip_norm,
        "clip_factor": clip_factor,
        "rate_factors": rate_factors,
        "head": [v for layer in model.layers if layer.name == "logits" for v in layer.trainable_variables],
    }
    if accumulate > 1:
        options["gradient_accumulation_steps"] = accumulate
    if ema_decay:
        options |= {"use_ema": True, "ema_momentum": ema_decay}
    if name in ADAPTIVE:
        optimizer = ADAPTIVE[name](beta_1=momentum, weight_decay=weight_decay, **options)
    elif name == "muon":
        nesterov = momentum_form == "nesterov"
        optimizer = Muon(momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, **options)
    else:
        options |= {"momentum": momentum, "nesterov": momentum_form == "nesterov"}
        if weight_decay and decay_form == "l2":
            return L2SGD(l2=weight_decay, **options)
        optimizer = SGD(weight_decay=weight_decay or None, **options)
    if weight_decay:
        optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if not decays(v)])
    return optimizer
