"""Exact metrics over every example: accuracy, loss, precision and recall of each class, confusion, calibration.

Expected calibration error: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, equation 3,
with 15 bins of equal width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from keras_resnet.errors import UserError

if TYPE_CHECKING:
    from keras_resnet.artifact import Artifact
    from keras_resnet.data.splits import Split

CALIBRATION_BINS = 15
TOP = 5


@dataclass(frozen=True)
class ClassScore:
    """How one class fares.

    Attributes:
        name: The class.
        precision: Of the examples called this class, the part that are; None when none was called so.
        recall: Of this class's examples, the part called so; None when there are none.
        support: How many examples the class has.
    """

    name: str
    precision: float | None
    recall: float | None
    support: int


@dataclass(frozen=True)
class CalibrationBin:
    """The examples whose confidence lies in one interval.

    Attributes:
        lower: Where the interval begins, itself not included.
        upper: Where it ends, itself included.
        count: How many examples.
        confidence: Their mean confidence; 0 where there are none.
        accuracy: The part of them that is right; 0 where there are none.
    """

    lower: float
    upper: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a set of examples.

    Attributes:
        count: How many examples.
        top1: Part of them whose most probable class is the right one, 0..1.
        top5: Part whose right class is among the five most probable; None with five classes or fewer.
        loss: Mean cross-entropy in nats.
        ece: Expected calibration error, 0..1.
        per_class: One score per class.
        confusion: confusion[i][j] examples of class i were called class j.
    """

    count: int
    top1: float
    top5: float | None
    loss: float
    ece: float
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have examples, 0..1: small classes count as much as large ones."""
        return float(np.mean([score.recall for score in self.per_class if score.recall is not None]))

    def to_dict(self) -> dict[str, Any]:
        """Returns the metrics as a dictionary that JSON can hold."""
        return {
            "count": self.count,
            "top1": self.top1,
            "top5": self.top5,
            "balanced_accuracy": self.balanced_accuracy,
            "loss": self.loss,
            "ece": self.ece,
            "per_class": [vars(score) for score in self.per_class],
            "confusion": [list(row) for row in self.confusion],
        }


def evaluate_predictions(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, class_names: Sequence[str]
) -> Evaluation:
    """Computes all metrics from probabilities.

    Args:
        probabilities: float [examples, classes]; each row sums to 1.
        labels: int [examples], the right classes, 0..classes - 1.
        class_names: The name of each class.

    Returns:
        The metrics.

    Raises:
        UserError: The shapes do not fit, there are no examples, or a row is not a distribution.
    """
    probabilities = np.asarray(probabilities, np.float64)
    labels = np.asarray(labels)
    classes = len(class_names)
    if probabilities.ndim != 2 or probabilities.shape != (len(labels), classes):
        raise UserError(
            f"Probabilities must be [examples, classes] = {(len(labels), classes)}, got {probabilities.shape}."
        )
    if not len(labels):
        raise UserError("An evaluation needs at least one example, got none.")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"Labels must be 0..{classes - 1}, got {labels.min()}..{labels.max()}.")
    # Half-precision networks leave rows that sum to 1 within about 1e-2.
    if not np.isfinite(probabilities).all() or np.abs(probabilities.sum(axis=1) - 1).max() > 2e-2:
        raise UserError("Each row of probabilities must be finite and sum to 1.")

    examples = np.arange(len(labels))
    predicted = probabilities.argmax(axis=1)
    right = probabilities[examples, labels]
    smallest = np.finfo(np.float32).tiny  # a probability that underflowed to 0 in float32 costs 87 nats, not infinity
    return Evaluation(
        count=len(labels),
        top1=float((predicted == labels).mean()),
        top5=_top_accuracy(probabilities, labels) if classes > TOP else None,
        loss=float(-np.log(np.maximum(right, smallest)).mean()),
        ece=expected_calibration_error(probabilities.max(axis=1), predicted == labels),
        per_class=tuple(_class_scores(labels, predicted, class_names)),
        confusion=tuple(map(tuple, confusion_matrix(labels, predicted, labels=np.arange(classes)).tolist())),
    )


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, *, bins: int = CALIBRATION_BINS) -> float:
    """Computes how far confidence and accuracy are apart on average.

    Args:
        confidence: float [examples], the probability of the predicted class, 0..1.
        correct: bool [examples], whether that class is the right one.
        bins: Bins of equal width, see `calibration_bins`.

    Returns:
        The mean over examples of |accuracy - confidence| of the example's bin, 0..1.

    Reference:
        Guo et al. 2017, equation 3.
    """
    gaps = (one.count * abs(one.accuracy - one.confidence) for one in calibration_bins(confidence, correct, bins=bins))
    return float(sum(gaps) / len(confidence))


def calibration_bins(
    confidence: np.ndarray, correct: np.ndarray, *, bins: int = CALIBRATION_BINS
) -> tuple[CalibrationBin, ...]:
    """Sorts examples by confidence into bins of equal width.

    Args:
        confidence: float [examples], the probability of the predicted class, 0..1.
        correct: bool [examples], whether that class is the right one.
        bins: How many; a bin holds its upper edge, not its lower one, as in the paper.

    Returns:
        The bins from 0 to 1, empty ones included.

    Reference:
        Guo et al. 2017, section 2.
    """
    confidence = np.asarray(confidence, np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    means = [
        np.bincount(place, np.asarray(values, np.float64), minlength=bins) / np.maximum(counts, 1)
        for values in (confidence, correct)
    ]
    return tuple(
        CalibrationBin(
            number / bins, (number + 1) / bins, int(counts[number]), *(float(mean[number]) for mean in means)
        )
        for number in range(bins)
    )


def evaluate_model(
    artifact: "Artifact",
    split: "Split",
    *,
    batch_size: int = 128,
    progress: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Evaluates a model on every example of a split, the last incomplete batch included.

    Args:
        artifact: The model.
        split: The examples.
        batch_size: Examples at a time.
        progress: Told after each batch how many examples it had.

    Returns:
        The metrics.

    Raises:
        UserError: The model has other classes than the split's labels, or the split is empty.
    """
    probabilities, labels = predict_split(artifact, split, batch_size=batch_size, progress=progress)
    return evaluate_predictions(probabilities, labels, artifact.labels)


def predict_split(
    artifact: "Artifact",
    split: "Split",
    *,
    batch_size: int = 128,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the probabilities of every example of a split, the last incomplete batch included.

    Args:
        artifact: The model.
        split: The examples.
        batch_size: Examples at a time.
        progress: Told after each batch how many examples it had.

    Returns:
        (probabilities, labels): float32 [examples, classes], each row summing to 1, and int32 [examples], in the
        split's order.

    Raises:
        UserError: The split is empty.
    """
    from keras_resnet.data.feeding import evaluation_batches

    batches = evaluation_batches(split, artifact.pixels, batch_size=batch_size)
    probabilities, labels = [], []
    for images, batch_labels in batches.as_numpy_iterator():
        probabilities.append(artifact.probabilities(images))
        labels.append(batch_labels)
        progress(len(batch_labels))
    if not labels:
        raise UserError("The split to evaluate on is empty.")
    return np.concatenate(probabilities), np.concatenate(labels)


def table(evaluation: Evaluation) -> str:
    """Returns the metrics as text for people: totals, classes, and the confusion matrix up to twenty classes."""
    totals = [f"top-1 {evaluation.top1:.2%}"]
    if evaluation.top5 is not None:
        totals.append(f"top-5 {evaluation.top5:.2%}")
    if len({score.support for score in evaluation.per_class}) > 1:
        totals.append(f"balanced accuracy {evaluation.balanced_accuracy:.2%}")
    totals += [f"loss {evaluation.loss:.4f}", f"calibration error {evaluation.ece:.4f}"]
    lines = [f"{evaluation.count:,} examples: " + ", ".join(totals), ""]
    width = max(5, *(len(score.name) for score in evaluation.per_class))
    lines.append(f"{'class':<{width}}  precision  recall  examples")
    for score in evaluation.per_class:
        precision, recall = ("–" if value is None else f"{value:.2%}" for value in (score.precision, score.recall))
        lines.append(f"{score.name:<{width}}  {precision:>9}  {recall:>6}  {score.support:>8,}")
    if len(evaluation.per_class) <= 20:
        lines += ["", "confusion (rows: true class, columns: predicted class)"]
        digits = max(len(str(count)) for row in evaluation.confusion for count in row)
        cell = max(digits, len(str(len(evaluation.confusion) - 1)))
        for score, row in zip(evaluation.per_class, evaluation.confusion, strict=True):
            lines.append(f"{score.name:<{width}}  " + " ".join(f"{count:>{cell}}" for count in row))
    return "\n".join(lines)


def _top_accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    # The rank of the right class counts every class with a higher probability: ties do not depend on sorting.
    right = probabilities[np.arange(len(labels)), labels]
    rank = (probabilities > right[:, np.newaxis]).sum(axis=1)
    return float((rank < TOP).mean())


def _class_scores(labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> list[ClassScore]:
    numbers = np.arange(len(class_names))
    precisions, recalls, _, supports = precision_recall_fscore_support(
        labels, predicted, labels=numbers, zero_division=np.nan
    )
    defined = [[None if np.isnan(value) else float(value) for value in values] for values in (precisions, recalls)]
    return [ClassScore(*row) for row in zip(class_names, *defined, map(int, supports), strict=True)]
