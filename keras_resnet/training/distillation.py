"""Knowledge distillation: a network that learns from the answers of another one besides the labels.

Reference: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.artifact import Artifact
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import normalize, resize_image
from keras_resnet.errors import UserError
from keras_resnet.graphs.heads import check_classifier


class DistilledModel(keras.Model):
    """A functional model whose training loss is (1 - w) · loss + w · T² · KL(teacher ‖ model), both softened by T.

    Args:
        model: The model that learns; its layers are shared.
        teacher: Normalised images as the model takes them → log-probabilities, float32 [n, classes].
        temperature: T, above 0.
        weight: w, 0..1.
    """

    def __init__(
        self, model: keras.Model, *, teacher: Callable[[tf.Tensor], tf.Tensor], temperature: float, weight: float
    ):
        super().__init__(inputs=model.inputs, outputs=model.outputs[0], name=model.name)
        self._teacher, self._temperature, self._weight = teacher, temperature, weight

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        if not training:
            return loss
        told = tf.nn.log_softmax(tf.stop_gradient(self._teacher(x)) / self._temperature)
        answered = tf.nn.log_softmax(tf.cast(y_pred, tf.float32) / self._temperature)
        divergence = tf.reduce_mean(tf.reduce_sum(tf.exp(told) * (told - answered), axis=-1))
        # Keras' own part is that of one device already: the devices' losses are added up.
        divergence /= tf.distribute.get_strategy().num_replicas_in_sync
        return (1.0 - self._weight) * loss + self._weight * self._temperature**2 * tf.cast(divergence, loss.dtype)


def teacher_answers(
    teacher: Artifact, preprocessing: Preprocessing, labels: Sequence[str]
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Makes a teacher answer the images of another network's training.

    Args:
        teacher: A network or an exported file.
        preprocessing: That of the network that learns.
        labels: The class names of the network that learns.

    Returns:
        Normalised images as the learning network takes them → log-probabilities, float32 [n, classes]. The teacher sees
        the same pixels, resized and normalised as it needs them.

    Raises:
        UserError: The teacher knows other classes.
    """
    if tuple(teacher.labels) != tuple(labels):
        raise UserError(
            f"A teacher knows the same classes in the same order; {teacher.source} has {_listed(teacher.labels)}, the "
            f"data set {_listed(labels)}. Train the teacher on this data."
        )
    mean, std = (tf.constant(values, tf.float32) * 255.0 for values in (preprocessing.mean, preprocessing.std))
    # A crop was made already, where one is made.
    pixels = dataclasses.replace(teacher.pixels, resize="squash", crop_fraction=1.0)
    has_probabilities = teacher.model is not None and check_classifier(teacher.model).has_probabilities
    smallest = np.finfo(np.float32).tiny

    def answers(images: tf.Tensor) -> tf.Tensor:
        images = tf.clip_by_value(tf.cast(images, tf.float32) * std + mean, 0.0, 255.0)
        if preprocessing.color_order == "bgr":
            images = images[..., ::-1]
        images = resize_image(images, pixels)
        if teacher.model is None:
            found = tf.numpy_function(teacher.probabilities, [images], tf.float32)
            return tf.math.log(tf.maximum(tf.ensure_shape(found, [None, len(labels)]), smallest))
        found = tf.cast(teacher.model(normalize(images, teacher.preprocessing), training=False), tf.float32)
        return tf.math.log(tf.maximum(found, smallest)) if has_probabilities else tf.nn.log_softmax(found)

    return answers


def _listed(labels: Sequence[Any]) -> str:
    shown = ", ".join(map(str, labels[:5]))
    return f"{len(labels)} ({shown}{', …' if len(labels) > 5 else ''})"
