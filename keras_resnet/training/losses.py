"""The loss and the accuracy of a classifier, for labels and for targets that augmentation has mixed."""

from typing import Any

import keras
from keras import ops


class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits against labels or probabilities, of which a part may be spread over all classes.

    Args:
        classes: Number of classes.
        smoothing: The part of each target that is spread evenly over all classes, 0..1.

    `y_true` is the labels [batch], or probabilities [batch, classes]; `y_pred` is the logits [batch, classes].

    Reference:
        Szegedy et al. 2016, arXiv:1512.00567, section 7 (label smoothing).
    """

    def __init__(self, classes: int, smoothing: float = 0.0):
        super().__init__(name="cross_entropy")
        self._classes, self._smoothing = classes, smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        if not _is_distribution(y_true, self._classes):
            labels = ops.reshape(ops.cast(y_true, "int32"), [-1])
            if not self._smoothing:
                return ops.sparse_categorical_crossentropy(labels, y_pred, from_logits=True)
            y_true = ops.one_hot(labels, self._classes)
        if self._smoothing:
            y_true = y_true * (1.0 - self._smoothing) + self._smoothing / self._classes
        return ops.categorical_crossentropy(y_true, y_pred, from_logits=True)


class Accuracy(keras.metrics.MeanMetricWrapper):
    """Part of the examples whose largest logit is that of their class, 0..1; of mixed targets the largest counts.

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes: int):
        super().__init__(self._hits, name="accuracy")
        self._classes = classes

    def _hits(self, y_true: Any, y_pred: Any) -> Any:
        if _is_distribution(y_true, self._classes):
            labels = ops.argmax(y_true, axis=-1)
        else:
            labels = ops.reshape(ops.cast(y_true, "int32"), [-1])
        hits = ops.equal(ops.cast(labels, "int32"), ops.cast(ops.argmax(y_pred, axis=-1), "int32"))
        return ops.cast(hits, self.dtype)


def _is_distribution(y_true: Any, classes: int) -> bool:
    # Keras may hand labels over as [batch, 1]; there are at least two classes.
    return len(y_true.shape) == 2 and y_true.shape[1] == classes
