"""Knowledge distillation: a network that learns from the answers of another one besides the labels.

Reference: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resnet.artifact import Artifact
from keras_resnet.backends import TENSORFLOW, backend
from keras_resnet.data.array_transforms import resize_matrix
from keras_resnet.data.preprocessing import LUMA, Preprocessing
from keras_resnet.distribution import replicas
from keras_resnet.errors import UserError
from keras_resnet.graphs.heads import check_classifier
from keras_resnet.training.several_devices import MultiWorkerModel


class DistilledModel(MultiWorkerModel):
    """A functional model whose training loss is (1 - w) · loss + w · T² · KL(teacher ‖ model), both softened by T.

    Args:
        model: The model that learns; its layers are shared.
        teacher: Normalised images as the model takes them → log-probabilities, float32 [n, classes].
        temperature: T, above 0.
        weight: w, 0..1.
        evaluation_twin: See `MultiWorkerModel`.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        teacher: Callable[[Any], Any],
        temperature: float,
        weight: float,
        evaluation_twin: Callable[[], keras.Model] | None = None,
    ):
        super().__init__(model, evaluation_twin)
        self._teacher, self._temperature, self._weight = teacher, temperature, weight

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        if not training:
            return loss
        told = ops.log_softmax(ops.stop_gradient(self._teacher(x)) / self._temperature)
        answered = ops.log_softmax(ops.cast(y_pred, "float32") / self._temperature)
        divergence = ops.mean(ops.sum(ops.exp(told) * (told - answered), axis=-1))
        # Keras' own part is that of one device already: the devices' losses are added up.
        divergence /= replicas()
        return (1.0 - self._weight) * loss + self._weight * self._temperature**2 * ops.cast(divergence, loss.dtype)


def teacher_answers(teacher: Artifact, preprocessing: Preprocessing, labels: Sequence[str]) -> Callable[[Any], Any]:
    """Makes a teacher answer the images of another network's training.

    Args:
        teacher: A network or an exported file.
        preprocessing: That of the network that learns.
        labels: The class names of the network that learns.

    Returns:
        Normalised images as the learning network takes them → log-probabilities, float32 [n, classes]. The teacher sees
        the same pixels, resized and normalised as it needs them.

    Raises:
        UserError: The teacher knows other classes, or is an exported file where Keras runs on JAX.
    """
    if tuple(teacher.labels) != tuple(labels):
        raise UserError(
            f"A teacher knows the same classes in the same order; {teacher.source} has {_listed(teacher.labels)}, the "
            f"data set {_listed(labels)}. Train the teacher on this data."
        )
    if teacher.model is None and backend() != TENSORFLOW:
        raise UserError(
            f"A teacher must be a network where Keras runs on JAX, {teacher.source} is an exported file. Give the run "
            "or the .keras file that it was exported from."
        )
    statistics = (preprocessing.mean, preprocessing.std)
    mean, std = (np.asarray(values, np.float32) * np.float32(255.0) for values in statistics)
    # A crop was made already, where one is made.
    pixels = dataclasses.replace(teacher.pixels, resize="squash", crop_fraction=1.0)
    has_probabilities = teacher.model is not None and check_classifier(teacher.model).has_probabilities
    smallest = np.finfo(np.float32).tiny
    scale, offset = teacher.preprocessing.scale_and_offset()

    def answers(images: Any) -> Any:
        images = ops.clip(ops.cast(images, "float32") * std + mean, 0.0, 255.0)
        if preprocessing.color_order == "bgr":
            images = ops.flip(images, axis=-1)
        images = _resized(images, pixels)
        if teacher.model is None:
            return ops.log(ops.maximum(_answer_of_file(teacher, images), smallest))
        if teacher.preprocessing.color_order == "bgr":
            images = ops.flip(images, axis=-1)
        found = ops.cast(teacher.model(images * scale + offset, training=False), "float32")
        return ops.log(ops.maximum(found, smallest)) if has_probabilities else ops.log_softmax(found)

    return answers


def _resized(images: Any, pixels: Preprocessing) -> Any:
    """Images of one size in a graph, brought to a teacher's size and channels."""
    if backend() == TENSORFLOW:
        from keras_resnet.data.transforms import resize_image

        return resize_image(images, pixels)
    if images.shape[-1] != pixels.channels:
        luma = np.array(LUMA, np.float32) / 65536.0
        is_grey = images.shape[-1] == 1
        images = ops.repeat(images, 3, axis=-1) if is_grey else ops.sum(images * luma, axis=-1, keepdims=True)
    size = (pixels.height, pixels.width)
    if tuple(images.shape[1:3]) == size:
        return images
    rows, columns = (
        resize_matrix(source, target, pixels.interpolation)
        for source, target in zip(images.shape[1:3], size, strict=True)
    )
    return ops.clip(ops.einsum("yh,nhwc,xw->nyxc", rows, images, columns), 0.0, 255.0)


def _answer_of_file(teacher: Artifact, images: Any) -> Any:
    """The probabilities that an exported file answers inside a graph of TensorFlow."""
    import tensorflow as tf

    found = tf.numpy_function(teacher.probabilities, [images], tf.float32)
    return tf.ensure_shape(found, [None, len(teacher.labels)])


def _listed(labels: Sequence[Any]) -> str:
    shown = ", ".join(map(str, labels[:5]))
    return f"{len(labels)} ({shown}{', …' if len(labels) > 5 else ''})"
