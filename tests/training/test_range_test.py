import dataclasses
import math
import os

import numpy as np
import pytest
from PIL import Image

from keras_resnet.choices import OPTIMIZERS
from keras_resnet.distribution import create_strategy
from keras_resnet.errors import UserError
from keras_resnet.training import range_test
from keras_resnet.training.range_test import ExponentialRise, analyse, draw, find_learning_rate, has_diverged, smooth
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.setup import prepare


def silent(line):
    pass


def test_every_optimizer_has_its_range():
    assert range_test.RANGES.keys() == set(OPTIMIZERS)
    assert all(low < high for low, high in range_test.RANGES.values())


def test_the_rate_rises_by_one_factor_from_end_to_end():
    schedule = ExponentialRise(1e-5, 10.0, 200)
    rates = [float(schedule(step)) for step in range(200)]
    np.testing.assert_allclose(rates, np.geomspace(1e-5, 10, 200), rtol=1e-5)  # float32


def test_the_mean_is_that_of_pandas():
    # pandas' ewm(alpha=0.1, adjust=True).mean() of these numbers, which divides by the sum of the weights.
    np.testing.assert_allclose(smooth([2.0, 4.0, 0.0, 8.0]), [2.0, 3.0526316, 1.9261993, 3.6923524], rtol=1e-7)
    np.testing.assert_allclose(smooth(np.full(50, 3.5)), 3.5)


def quadratic(rates, curvature, start=1.0):
    """The losses ½·c·w² that gradient descent meets with these rates."""
    weight, losses = start, []
    for rate in rates:
        losses.append(0.5 * curvature * weight**2)
        weight -= rate * curvature * weight
    return losses


@pytest.mark.parametrize("curvature", [0.1, 1.0, 30.0])
def test_on_a_quadratic_the_suggestion_lies_below_the_limit_of_stability(curvature):
    # Gradient descent on ½·c·w² converges for rates below 2 / c and diverges above (e.g. Goodfellow et al. 2016, 4.3).
    rates = np.geomspace(1e-4 / curvature, 1e2 / curvature, 200)
    losses = quadratic(rates, curvature)
    found = analyse(rates, losses)
    assert 0.02 / curvature < found.suggested < 2 / curvature
    assert found.steepest < found.lowest
    assert found.diverged
    steady = quadratic(np.full(100, found.suggested), curvature)
    assert steady[-1] < 1e-3 * steady[0]
    wild = quadratic(np.full(10, 100 * found.suggested), curvature)
    assert wild[-1] > wild[0]


def test_what_is_not_finite_ends_the_test_and_what_never_falls_is_refused():
    rates = np.geomspace(1e-4, 1, 30)
    losses = [*np.linspace(3, 1, 20), 5, math.inf]
    found = analyse(rates[:22], losses)
    assert found.diverged
    assert len(found.rates) == len(found.losses) == len(found.smoothed) == 21
    for losses in (np.linspace(1, 3, 30), [math.nan]):
        with pytest.raises(UserError, match="only rose"):
            analyse(rates[: len(losses)], losses)
    assert not has_diverged(smooth(np.linspace(3, 1, 30)))


@pytest.fixture(scope="module")
def recipe():
    return Recipe(image_size=16, batch_size=64, augmentation="none", schedule="constant", warmup_epochs=0)


@pytest.fixture(scope="module")
def found(recipe):
    return find_learning_rate(recipe, report=silent)


def losses_at(recipe, rate, steps=40):
    """The training losses of the first steps at a rate that stays."""
    setup = prepare(dataclasses.replace(recipe, learning_rate=rate), create_strategy("auto"), report=silent)
    watch = range_test._Watch(1)
    batches = setup.batches(epochs=3)
    setup.twin.fit(batches, steps_per_epoch=steps, callbacks=[watch], shuffle=False, verbose=0)
    return watch.losses


@pytest.mark.slow
def test_the_suggested_rate_trains_digits_and_a_hundred_times_it_does_not(recipe, found):
    good = losses_at(recipe, found.suggested)
    assert np.mean(good[-5:]) < 0.5 * good[0]
    wild = losses_at(recipe, 100 * found.suggested)
    # Batch normalization brings a network back from anywhere, so that the loss leaps up before it falls again.
    assert max(wild) > 2 * good[0]
    assert np.mean(wild[-5:]) > 1.5 * np.mean(good[-5:])


def test_rates_are_those_that_the_optimizer_had(tiny_data, monkeypatch):
    seen = []
    check = range_test._Watch.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        seen.append(float(self.model.optimizer.learning_rate))
        check(self, batch, logs)

    monkeypatch.setattr(range_test._Watch, "on_train_batch_end", on_train_batch_end)
    monkeypatch.setattr(range_test, "UPDATES", 12)
    monkeypatch.setattr(range_test, "has_diverged", lambda smoothed: False)
    monkeypatch.setattr(range_test, "analyse", lambda rates, losses: (rates, losses))
    # Three batches an epoch, two of them to an update.
    small = Recipe(dataset=tiny_data, batch_size=32, accumulate=2, augmentation="none")
    rates, losses = find_learning_rate(small, report=silent)
    assert (len(rates), len(losses), len(seen)) == (12, 12, 24)
    # Behind every second step the optimizer has the rate of the next update; float32.
    np.testing.assert_allclose(seen[1::2][:-1], rates[1:], rtol=1e-5)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_is_one(found, tmp_path, suffix):
    path = tmp_path / "new" / f"rates.{suffix}"
    draw(found, path)
    if suffix == "png":
        with Image.open(path) as image:
            assert image.width > 600
            assert len(image.convert("RGB").getcolors(10**6)) > 5
    else:
        assert "<svg" in path.read_text()
    assert os.listdir(path.parent) == [path.name]
    with pytest.raises(UserError, match=r"must end in \.png or \.svg, got 'rates\.jpg'"):
        draw(found, tmp_path / "rates.jpg")


def test_a_rate_that_would_be_scaled_is_not_looked_for():
    with pytest.raises(UserError, match="A learning rate search scales no rates, got learning_rate_scaling linear"):
        find_learning_rate(Recipe(learning_rate_scaling="linear"))
