"""The part of `test_jax_normalization` that runs in its own process, with Keras on JAX and two devices.

    KERAS_BACKEND=jax python normalization_session.py

Prints a JSON object: for each case, how far values are from a reference, relative to its largest value.
"""

import json

import jax
import jax.numpy as jnp
import keras
import numpy as np

from keras_resnet.models.resnet import build_model
from keras_resnet.training.fused_normalization import training_twin
from keras_resnet.training.jax_normalization import JaxBatchNormalization

EPSILON = 1e-3


def away(value, reference) -> float:
    value, reference = (np.asarray(array, np.float64) for array in (value, reference))
    return float(np.abs(value - reference).max() / np.abs(reference).max())


def textbook(inputs, scale, offset):
    mean = inputs.mean((0, 1, 2))
    variance = ((inputs - mean) ** 2).mean((0, 1, 2))
    return (inputs - mean) / jnp.sqrt(variance + EPSILON) * scale + offset


def step(layer, inputs, scale, offset, weights):
    """Loss, gradients and new statistics of one training step of a layer."""
    trained = [jnp.asarray(scale), jnp.asarray(offset)]
    others = [variable.value for variable in layer.non_trainable_variables]

    def loss(trained, inputs):
        outputs, statistics = layer.stateless_call(trained, others, inputs, training=True)
        return (outputs * weights).sum(), (outputs, statistics)

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (of_weights, of_inputs), (outputs, statistics) = compiled(trained, inputs)
    return [outputs, of_inputs, *of_weights, *statistics]


def main() -> None:
    random = np.random.default_rng(0)
    # Means of ten standard deviations and more, where a variance from the sum of squares alone would lose digits.
    inputs = random.normal(size=(8, 6, 6, 5)) * random.uniform(0.1, 3, 5) + random.normal(size=5) * 10
    scale, offset = random.normal(size=(2, 5))
    weights = random.normal(size=inputs.shape)
    with jax.enable_x64(True):
        exact = [textbook(inputs, scale, offset)]
        gradients = jax.grad(lambda *values: (textbook(*values) * weights).sum(), argnums=(0, 1, 2))
        exact += gradients(jnp.asarray(inputs), scale, offset)
        exact += [0.01 * inputs.mean((0, 1, 2)), 0.99 + 0.01 * inputs.var((0, 1, 2))]
    given = [array.astype("float32") for array in (inputs, scale, offset, weights)]

    def layer(kind):
        made = kind(epsilon=EPSILON)
        made.build(inputs.shape)
        return made

    found = {}
    plain, ours = layer(keras.layers.BatchNormalization), layer(JaxBatchNormalization)
    found["Keras"] = list(map(away, step(plain, *given), exact))
    found["one device"] = list(map(away, step(ours, *given), exact))
    devices = [f"cpu:{number}" for number in range(2)]
    with keras.distribution.DataParallel(devices=devices).scope():
        found["two devices"] = list(map(away, step(ours, *given), exact))
        separate = layer(JaxBatchNormalization)
        separate.per_device = True
        apart = step(separate, *given)
        odd = [given[0][:7], given[1], given[2], given[3][:7]]
        found["rows that do not divide"] = list(map(away, step(ours, *odd), step(plain, *odd)))

    # What one device would compute from each half: gradients of weights are added, statistics are averaged.
    halves = [step(plain, given[0][rows], given[1], given[2], given[3][rows]) for rows in (slice(4), slice(4, 8))]
    joined = [np.concatenate(both) for both in zip(*(half[:2] for half in halves), strict=True)]
    joined += [first + second for first, second in zip(*(half[2:4] for half in halves), strict=True)]
    joined += [(first + second) / 2 for first, second in zip(*(half[4:] for half in halves), strict=True)]
    found["per device"] = list(map(away, apart, joined))
    found["per device instead of together"] = away(apart[0], exact[0])

    half = given[0].astype(jnp.bfloat16)
    outputs, *_ = step(ours, half, *given[1:])
    found["bfloat16"] = [away(outputs, step(plain, half, *given[1:])[0]), outputs.dtype == jnp.bfloat16]
    ours.trainable = plain.trainable = False
    before = [np.asarray(value) for value in ours.weights]
    found["frozen"] = [away(ours(given[0], training=True), plain(given[0], training=True))]
    found["frozen"] += [bool(np.array_equal(a, b)) for a, b in zip(before, ours.weights, strict=True)]
    twin = training_twin(build_model("resnet8", num_classes=5, input_shape=(12, 12, 3)))
    found["in a twin"] = sum(isinstance(each, JaxBatchNormalization) for each in twin.layers)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
