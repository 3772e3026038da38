"""The order of examples and the seeds of their changes: functions of (seed, epoch) alone.

They do not depend on the epochs before, the number of threads or where a run was interrupted. `philox` draws the same
ones without TensorFlow.
"""

import numpy as np
import tensorflow as tf

from keras_resnet.data.philox import BATCHES, IMAGES, ORDER, RECORDS, TURNS, class_turns

ALGORITHM = "philox"  # named, because the default differs between devices

__all__ = ["ALGORITHM", "BATCHES", "IMAGES", "RECORDS", "balanced_positions", "draw_seeds", "permutation"]


def permutation(seed: int, epoch: tf.Tensor, count: int) -> tf.Tensor:
    """Draws the order of an epoch.

    Args:
        seed: The seed of the run, 0..2³¹-1.
        epoch: int32 scalar, from 0.
        count: Number of examples.

    Returns:
        int32 [count]: a permutation of 0..count-1.
    """
    keys = tf.random.stateless_uniform(
        [count], _purpose(seed, epoch, ORDER), minval=None, maxval=None, dtype=tf.int32, alg=ALGORITHM
    )
    return tf.argsort(keys, stable=True)


def balanced_positions(seed: int, epoch: tf.Tensor, labels: np.ndarray) -> tf.Tensor:
    """Draws the order of an epoch in which every class comes equally often.

    Classes take turns; the examples of a class come in a random order, and again from its first one where the class has
    fewer than its share.

    Args:
        seed: The seed of the run, 0..2³¹-1.
        epoch: int32 scalar, from 0.
        labels: int [count], the class of each example.

    Returns:
        int32 [count]: positions, some more than once, others not at all.
    """
    count = len(labels)
    shuffled = permutation(seed, epoch, count)
    by_class = tf.gather(shuffled, tf.argsort(tf.gather(labels.astype(np.int32), shuffled), stable=True))
    slots = class_turns(labels)
    keys = tf.random.stateless_uniform(
        [count], _purpose(seed, epoch, TURNS), minval=None, maxval=None, dtype=tf.int32, alg=ALGORITHM
    )
    return tf.gather(tf.gather(by_class, slots), tf.argsort(keys, stable=True))


def draw_seeds(seed: int, epoch: tf.Tensor, purpose: int, count: int) -> tf.Tensor:
    """Draws seeds for the images, batches or records of an epoch.

    Args:
        seed: The seed of the run, 0..2³¹-1.
        epoch: int32 scalar, from 0.
        purpose: IMAGES, BATCHES or RECORDS.
        count: Number of seeds.

    Returns:
        int32 [count, 2].
    """
    return tf.random.stateless_uniform(
        [count, 2], _purpose(seed, epoch, purpose), minval=None, maxval=None, dtype=tf.int32, alg=ALGORITHM
    )


def _purpose(seed: int, epoch: tf.Tensor, purpose: int) -> tf.Tensor:
    return tf.random.fold_in(tf.stack([tf.constant(seed, tf.int32), epoch]), purpose, alg=ALGORITHM)
