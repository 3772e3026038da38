import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support, top_k_accuracy_score

from keras_resnet.errors import UserError
from keras_resnet.evaluation import evaluate_predictions, expected_calibration_error, table


@pytest.fixture(scope="module")
def examples():
    random = np.random.default_rng(0)
    logits = random.normal(size=(500, 8)) * 2
    labels = random.integers(0, 8, 500)
    logits[np.arange(500), labels] += 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, labels, [f"class {number}" for number in range(8)]


def test_metrics_equal_scikit_learns(examples):
    probabilities, labels, names = examples
    evaluation = evaluate_predictions(probabilities, labels, names)
    predicted = probabilities.argmax(axis=1)
    precision, recall, _, support = precision_recall_fscore_support(labels, predicted)
    assert [score.precision for score in evaluation.per_class] == pytest.approx(precision)
    assert [score.recall for score in evaluation.per_class] == pytest.approx(recall)
    assert [score.support for score in evaluation.per_class] == support.tolist()
    np.testing.assert_array_equal(evaluation.confusion, confusion_matrix(labels, predicted))
    assert evaluation.top1 == pytest.approx((predicted == labels).mean())
    assert evaluation.top5 == pytest.approx(top_k_accuracy_score(labels, probabilities, k=5))
    assert evaluation.loss == pytest.approx(log_loss(labels, probabilities))
    assert evaluation.count == 500


def test_calibration_error_by_hand():
    # Bins of width 1/15. Four examples at 0.9 (bin 14), half of them right; one at 0.5 (bin 8), right.
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.5])
    correct = np.array([True, True, False, False, True])
    expected = 4 / 5 * abs(0.5 - 0.9) + 1 / 5 * abs(1 - 0.5)
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected)


def test_calibration_bins_hold_their_upper_edge():
    # 0.5 closes the first of two bins, so these two examples do not level each other out.
    confidence, correct = np.array([0.5, 0.6]), np.array([True, False])
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.5 * 0.5 + 0.5 * 0.6)


def test_certain_and_right_is_calibrated():
    assert expected_calibration_error(np.ones(4), np.ones(4, bool)) == 0


def test_small_sets_of_classes_have_no_top_five():
    evaluation = evaluate_predictions(np.full((2, 5), 0.2), [0, 1], list("abcde"))
    assert evaluation.top5 is None


def test_classes_without_examples_or_predictions_have_no_score():
    evaluation = evaluate_predictions(np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), [0, 1], list("abc"))
    assert evaluation.per_class[1].precision is None
    assert evaluation.per_class[1].recall == 0
    assert evaluation.per_class[2].recall is None
    assert np.isfinite(evaluation.loss)
    assert "–" in table(evaluation)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.full((2, 3), 1 / 3), [0, 1], "must be \\[examples, classes\\]"),
        (np.zeros((0, 2)), [], "at least one example"),
        (np.full((1, 2), 0.5), [2], "Labels must be 0..1"),
        (np.array([[np.nan, 0.5]]), [0], "finite"),
        (np.array([[3.0, -1.0]]), [0], "sum to 1"),
    ],
)
def test_bad_input_is_refused(probabilities, labels, message):
    with pytest.raises(UserError, match=message):
        evaluate_predictions(probabilities, labels, ["a", "b"])
