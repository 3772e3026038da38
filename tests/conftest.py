import os

import keras
import numpy as np
import pytest

from tests.browser import Browser


@pytest.fixture(scope="module", autouse=True)
def seeded():
    """Fresh networks draw the same weights in every run, whatever ran in this process before."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def one_core(monkeypatch):
    """For exports whose ledger is not looked at: on one core every artifact is started once, not twice."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


@pytest.fixture
def zero_kernels(monkeypatch):
    """Fresh kernels are zeros, where only their number counts or others follow: drawing them takes longest."""
    monkeypatch.setattr(
        keras.initializers.VarianceScaling, "__call__", lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype)
    )


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A data set of three easy classes, 8 × 8 pixels, as `load_source` names it."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"

    def draw(count):
        labels = np.arange(count) % 3
        images = random.integers(0, 60, (count, 8, 8, 1))
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label : 2 * label + 3] += 150
        return images.astype("uint8"), labels

    x_train, y_train = draw(110)
    x_test, y_test = draw(31)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return f"npz:{path}"


@pytest.fixture(scope="session")
def browser():
    browser = Browser()
    yield browser
    browser.close()
