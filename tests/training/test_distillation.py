import keras
import numpy as np
import pytest

from keras_resnet.artifact import artifact_of
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.models.resnet import build_model
from keras_resnet.training.distillation import DistilledModel, teacher_answers
from keras_resnet.training.losses import create_loss

SETTINGS = Preprocessing(8, 8, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), labels=("a", "b", "c"))


def test_the_loss_is_pytorchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(16, 8, 8, 3)).astype("float32")
    labels = rng.integers(0, 3, 16)
    told = rng.normal(size=(16, 3)).astype("float32")
    model = build_model("resnet8", num_classes=3, input_shape=(8, 8, 3))
    distilled = DistilledModel(model, teacher=lambda images: keras.ops.log_softmax(told), temperature=3.0, weight=0.7)
    distilled.compile(loss=create_loss("cross_entropy", 3))
    logits = model(images, training=False)
    got = float(distilled.compute_loss(images, labels, logits, training=True))

    answered = torch.from_numpy(np.asarray(logits))
    base = torch.nn.functional.cross_entropy(answered, torch.from_numpy(labels))
    divergence = torch.nn.functional.kl_div(
        torch.log_softmax(answered / 3, 1),
        torch.log_softmax(torch.from_numpy(told) / 3, 1),
        log_target=True,
        reduction="batchmean",
    )
    assert got == pytest.approx(float(0.3 * base + 0.7 * 9 * divergence), rel=1e-5)  # float32
    assert float(distilled.compute_loss(images, labels, logits, training=False)) == pytest.approx(float(base), rel=1e-5)


def test_a_teacher_sees_the_same_pixels_in_its_own_way():
    rng = np.random.default_rng(0)
    teacher = artifact_of(
        build_model("resnet8", num_classes=3, input_shape=(8, 8, 3)),
        Preprocessing(8, 8, 3, (0.1,) * 3, (0.7,) * 3, color_order="bgr", labels=("a", "b", "c")),
    )
    pixels = rng.uniform(0, 255, (5, 8, 8, 3)).astype("float32")
    normalized = (pixels / 255 - np.array(SETTINGS.mean)) / np.array(SETTINGS.std)
    answers = np.exp(np.asarray(teacher_answers(teacher, SETTINGS, SETTINGS.labels)(normalized.astype("float32"))))
    np.testing.assert_allclose(answers, teacher.probabilities(pixels), atol=1e-5)  # float32


def test_a_teacher_of_other_classes_is_refused():
    teacher = artifact_of(
        build_model("resnet8", num_classes=2, input_shape=(8, 8, 3)),
        Preprocessing(8, 8, 3, (0.5,) * 3, (0.2,) * 3, labels=("a", "b")),
    )
    with pytest.raises(UserError, match="knows the same classes"):
        teacher_answers(teacher, SETTINGS, SETTINGS.labels)
