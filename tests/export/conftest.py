from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet.artifact import artifact_of
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.models.resnet import build_model

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def preprocessing():
    return Preprocessing(
        16, 16, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), color_order="bgr", resize="crop", labels=("red", "green", "blue")
    )


@pytest.fixture(scope="session")
def pixels():
    """Images and labels of three colours, as a camera gives them."""
    random = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = random.integers(0, 120, (120, 16, 16, 3))
    images[np.arange(120), 4:12, 4:12, labels] += 130
    return images.astype(np.uint8), labels.astype(np.int32)


@pytest.fixture(scope="session")
def model(preprocessing, pixels):
    """A small network that tells the colours apart: on an untrained one quantisation proves nothing."""
    from keras_resnet.data.transforms import normalize

    keras.utils.set_random_seed(0)
    network = build_model("resnet8", num_classes=3, input_shape=(16, 16, 3))
    network.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    images, labels = pixels
    network.fit(np.asarray(normalize(images, preprocessing)), labels, batch_size=24, epochs=8, verbose=0)
    return network


@pytest.fixture(scope="session")
def artifact(model, preprocessing):
    return artifact_of(model, preprocessing)


@pytest.fixture
def shared():
    """The folder of real data and weights beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED}")
    return SHARED
