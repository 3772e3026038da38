"""The loss and the accuracy of a classifier, for labels and for targets that augmentation has mixed."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resnet.choices import LOSSES
from keras_resnet.errors import unknown_name


class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits against labels or probabilities, of which a part may be spread over all classes.

    Args:
        classes: Number of classes.
        smoothing: The part of each target that is spread evenly over all classes, 0..1.
        class_weights: A weight for each class; None weights all the same. An example's loss is multiplied by the
            weight of its class, or by the mean over its classes where they are mixed.

    `y_true` is the labels [batch], or probabilities [batch, classes]; `y_pred` is the logits [batch, classes].

    Reference:
        Szegedy et al. 2016, arXiv:1512.00567, section 7 (label smoothing).
    """

    def __init__(self, classes: int, smoothing: float = 0.0, class_weights: Sequence[float] | None = None):
        super().__init__(name="cross_entropy")
        self._classes, self._smoothing, self._class_weights = classes, smoothing, class_weights

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return _weighted(self._losses(y_true, y_pred), y_true, self._class_weights)

    def _losses(self, y_true: Any, y_pred: Any) -> Any:
        if not _is_distribution(y_true, self._classes):
            labels = ops.reshape(ops.cast(y_true, "int32"), [-1])
            if not self._smoothing:
                return ops.sparse_categorical_crossentropy(labels, y_pred, from_logits=True)
            y_true = ops.one_hot(labels, self._classes)
        if self._smoothing:
            y_true = y_true * (1.0 - self._smoothing) + self._smoothing / self._classes
        return ops.categorical_crossentropy(y_true, y_pred, from_logits=True)


class BinaryCrossEntropy(keras.losses.Loss):
    """Binary cross-entropy of each class on its own, the mean over all classes: several may be right.

    Args:
        classes: Number of classes.
        smoothing: The part of labels that is spread evenly over all classes, 0..1; mixed targets stay as they are.
        threshold: Targets above it count as 1, the others as 0; None takes them as they are.
        class_weights: As for `CrossEntropy`.

    `y_true` and `y_pred` as for `CrossEntropy`.

    Reference:
        Wightman et al. 2021, "ResNet strikes back", arXiv:2110.00476, section 3.
    """

    def __init__(
        self,
        classes: int,
        smoothing: float = 0.0,
        threshold: float | None = None,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__(name="binary_cross_entropy")
        self._classes, self._smoothing, self._threshold = classes, smoothing, threshold
        self._class_weights = class_weights

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return _weighted(self._losses(y_true, y_pred), y_true, self._class_weights)

    def _losses(self, y_true: Any, y_pred: Any) -> Any:
        if not _is_distribution(y_true, self._classes):
            y_true = ops.one_hot(ops.reshape(ops.cast(y_true, "int32"), [-1]), self._classes)
            y_true = y_true * (1.0 - self._smoothing) + self._smoothing / self._classes
        if self._threshold is not None:
            y_true = ops.cast(y_true > self._threshold, y_pred.dtype)
        return ops.mean(ops.binary_crossentropy(y_true, y_pred, from_logits=True), axis=-1)


def create_loss(
    name: str,
    classes: int,
    *,
    smoothing: float = 0.0,
    threshold: float | None = None,
    class_weights: Sequence[float] | None = None,
) -> keras.losses.Loss:
    """Builds a loss by name.

    Args:
        name: One of `LOSSES`.
        classes: Number of classes.
        smoothing: Label smoothing, 0..1.
        threshold: Of "bce", see `BinaryCrossEntropy`.
        class_weights: A weight for each class, see `CrossEntropy`.

    Raises:
        UserError: The name is unknown.
    """
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    if name == "cross_entropy":
        return CrossEntropy(classes, smoothing, class_weights)
    return BinaryCrossEntropy(classes, smoothing, threshold, class_weights)


def balanced_weights(labels: np.ndarray, classes: int) -> tuple[float, ...]:
    """Returns weights under which every class counts the same: examples / (classes · examples of the class).

    Args:
        labels: int [examples], the class of each training example.
        classes: Number of classes; each has an example.
    """
    return tuple((len(labels) / (classes * np.bincount(labels, minlength=classes))).tolist())


class Accuracy(keras.metrics.MeanMetricWrapper):
    """Part of the examples whose largest logit is that of their class, 0..1; of mixed targets the largest counts.

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes: int):
        super().__init__(self._hits, name="accuracy")
        self._classes = classes

    def _hits(self, y_true: Any, y_pred: Any) -> Any:
        hits = ops.equal(_labels(y_true, self._classes), ops.cast(ops.argmax(y_pred, axis=-1), "int32"))
        return ops.cast(hits, self.dtype)


class BalancedAccuracy(keras.metrics.Metric):
    """Mean over the classes of the part of their examples whose largest logit is that of their class, 0..1.

    Args:
        classes: Number of classes. Those without examples do not count.
    """

    def __init__(self, classes: int):
        super().__init__(name="balanced_accuracy")
        self._classes = classes
        self._hits = self.add_weight(shape=(classes,), initializer="zeros", name="hits")
        self._counts = self.add_weight(shape=(classes,), initializer="zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        labels = ops.one_hot(_labels(y_true, self._classes), self._classes)
        predicted = ops.one_hot(ops.argmax(y_pred, axis=-1), self._classes)
        self._hits.assign_add(ops.sum(labels * predicted, axis=0))
        self._counts.assign_add(ops.sum(labels, axis=0))

    def result(self) -> Any:
        recalls = self._hits / ops.maximum(self._counts, 1.0)
        return ops.sum(recalls) / ops.maximum(ops.sum(ops.cast(self._counts > 0, "float32")), 1.0)


def _weighted(losses: Any, y_true: Any, class_weights: Sequence[float] | None) -> Any:
    if class_weights is None:
        return losses
    weights = ops.convert_to_tensor(class_weights, losses.dtype)
    if _is_distribution(y_true, len(class_weights)):
        return losses * ops.sum(ops.cast(y_true, losses.dtype) * weights, axis=-1)
    return losses * ops.take(weights, ops.reshape(ops.cast(y_true, "int32"), [-1]))


def _labels(y_true: Any, classes: int) -> Any:
    labels = ops.argmax(y_true, axis=-1) if _is_distribution(y_true, classes) else ops.reshape(y_true, [-1])
    return ops.cast(labels, "int32")


def _is_distribution(y_true: Any, classes: int) -> bool:
    # Keras may hand labels over as [batch, 1]; there are at least two classes.
    return len(y_true.shape) == 2 and y_true.shape[1] == classes
