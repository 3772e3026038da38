"""NumPy's random numbers are TensorFlow's, bit for bit."""

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.data import order, philox

SEEDS = [(0, 0), (3, 7), (-1, 5), (2**31 - 1, -(2**31)), (-123456789, 987654321)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(), (1,), (4,), (7, 3), (1001,)])
def test_draws_are_those_of_the_stateless_operators(seed, shape):
    options = {"shape": shape, "seed": seed, "alg": order.ALGORITHM}
    seed = np.array(seed, np.int32)
    whole = tf.random.stateless_uniform(**options, minval=None, maxval=None, dtype=tf.int32)
    np.testing.assert_array_equal(philox.integers(seed, shape), whole)
    for limit in (2, 9, 1000):
        bounded = tf.random.stateless_uniform(**options, minval=0, maxval=limit, dtype=tf.int32)
        np.testing.assert_array_equal(philox.integers(seed, shape, limit), bounded)
    np.testing.assert_array_equal(philox.uniform(seed, shape), tf.random.stateless_uniform(**options))


@pytest.mark.parametrize("seed", SEEDS)
def test_derived_seeds_are_tensorflows(seed):
    own = np.array(seed, np.int32)
    np.testing.assert_array_equal(philox.split(own, 5), tf.random.split(seed, 5, alg=order.ALGORITHM))
    for number in (0, 1, 2**31 - 1):
        np.testing.assert_array_equal(philox.fold_in(own, number), tf.random.fold_in(seed, number, alg=order.ALGORITHM))


@pytest.mark.parametrize("seed", [0, 5, 2**31 - 1])
@pytest.mark.parametrize("epoch", [0, 1, 300])
def test_orders_and_seeds_of_an_epoch_are_those_of_tf_data(seed, epoch):
    labels = np.random.default_rng(seed).integers(0, 4, 50)
    at = tf.constant(epoch)
    np.testing.assert_array_equal(philox.permutation(seed, epoch, 50), order.permutation(seed, at, 50))
    np.testing.assert_array_equal(
        philox.balanced_positions(seed, epoch, labels), order.balanced_positions(seed, at, labels)
    )
    for purpose in (order.IMAGES, order.BATCHES, order.RECORDS):
        np.testing.assert_array_equal(
            philox.draw_seeds(seed, epoch, purpose, 6), order.draw_seeds(seed, at, purpose, 6)
        )


def test_draws_are_spread_evenly():
    values = philox.uniform(np.array([1, 2], np.int32), (100_000,))
    assert values.min() >= 0
    assert values.max() < 1
    # 100,000 draws in ten bins: a standard deviation of 95 in each.
    assert np.abs(np.histogram(values, 10, (0, 1))[0] - 10_000).max() < 500
