"""The loss and the accuracy, against Keras' own on what those can take."""

import keras
import numpy as np
import pytest
from sklearn.metrics import recall_score
from sklearn.utils.class_weight import compute_class_weight

from keras_resnet.training.losses import (
    Accuracy,
    BalancedAccuracy,
    BinaryCrossEntropy,
    CrossEntropy,
    balanced_weights,
    create_loss,
)

LABELS = np.array([0, 3, 2, 2, 1], np.int32)
LOGITS = np.random.default_rng(0).normal(0, 3, (5, 4)).astype(np.float32)
MIXED = np.random.default_rng(1).dirichlet(np.ones(4), 5).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_keras(smoothing):
    reference = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    one_hot = np.eye(4, dtype=np.float32)[LABELS]
    loss = CrossEntropy(4, smoothing)
    expected = float(reference(one_hot, LOGITS))
    for targets in (LABELS, LABELS[:, None], one_hot):
        assert float(loss(targets, LOGITS)) == pytest.approx(expected, rel=1e-6)  # float32, another order of sums
    assert float(loss(MIXED, LOGITS)) == pytest.approx(float(reference(MIXED, LOGITS)), rel=1e-6)


def test_the_accuracy_is_that_of_keras_and_takes_the_largest_of_mixed_targets():
    accuracy = Accuracy(4)
    for targets in (LABELS, LABELS[:, None]):
        accuracy.reset_state()
        accuracy.update_state(targets, LOGITS)
        assert float(accuracy.result()) == pytest.approx(np.mean(LOGITS.argmax(1) == LABELS))
    accuracy.reset_state()
    accuracy.update_state(MIXED, LOGITS)
    assert float(accuracy.result()) == pytest.approx(np.mean(LOGITS.argmax(1) == MIXED.argmax(1)))


def test_bce_is_that_of_pytorch_as_timm_writes_it():
    torch = pytest.importorskip("torch")
    binary = torch.nn.functional.binary_cross_entropy_with_logits
    logits = torch.from_numpy(LOGITS)
    smoothed = np.eye(4, dtype=np.float32)[LABELS] * 0.9 + 0.1 / 4
    for loss, given, targets in (
        (BinaryCrossEntropy(4), LABELS, np.eye(4, dtype=np.float32)[LABELS]),
        (BinaryCrossEntropy(4, 0.1), LABELS, smoothed),
        (BinaryCrossEntropy(4), MIXED, MIXED),
        (BinaryCrossEntropy(4, threshold=0.2), MIXED, (MIXED > 0.2).astype(np.float32)),
    ):
        expected = float(binary(logits, torch.from_numpy(targets)))
        assert float(loss(given, LOGITS)) == pytest.approx(expected, rel=1e-6)


def test_class_weights_are_keras_and_mixed_targets_share_them():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(12, 3)).astype("float32")
    labels = np.array([0] * 7 + [1] * 3 + [2] * 2)
    weights = balanced_weights(labels, 3)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=labels))
    loss = create_loss("cross_entropy", 3, class_weights=weights)
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = keras_loss(labels, logits, sample_weight=np.array(weights)[labels])
    assert float(loss(labels, logits)) == pytest.approx(float(expected), rel=1e-6)
    assert float(loss(np.eye(3, dtype="float32")[labels], logits)) == pytest.approx(float(expected), rel=1e-6)


def test_balanced_accuracy_is_scikit_learns():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)).astype("float32"), rng.integers(0, 3, 50)  # no example of class 3
    metric = BalancedAccuracy(4)
    for part in (slice(0, 20), slice(20, 50)):
        metric.update_state(labels[part], logits[part])
    expected = recall_score(labels, logits.argmax(1), average=None, labels=[0, 1, 2], zero_division=0).mean()
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)
