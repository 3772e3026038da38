import keras
import numpy as np
import pytest

from keras_resnet.errors import UserError
from keras_resnet.models.resnet import build_model
from keras_resnet.training.optimizers import create_optimizer, decays


@pytest.fixture(scope="module")
def model():
    return build_model("resnet8", num_classes=3, input_shape=(8, 8, 1))


def one_step(model, *, gradient, **options):
    """Returns variable name → (before, after) of one step from weights of 1 with equal gradients everywhere."""
    model.set_weights([np.ones(w.shape, "float32") for w in model.get_weights()])
    optimizer = create_optimizer(model, learning_rate=0.1, **options)
    optimizer.build(model.trainable_variables)
    optimizer.apply([keras.ops.ones_like(v) * gradient for v in model.trainable_variables])
    return {v.path: np.asarray(v) for v in model.trainable_variables}


@pytest.mark.parametrize("decay_form", ["l2", "decoupled"])
def test_decay_moves_kernels_and_leaves_normalization_and_biases_alone(model, decay_form):
    after = one_step(model, gradient=0.0, weight_decay=0.5, decay_form=decay_form, momentum_form="classical")
    kernels = [path for path in after if path.endswith("kernel")]
    spared = [path for path in after if path.split("/")[-1] in ("gamma", "beta", "bias")]
    assert len(kernels) + len(spared) == len(after)
    assert {v.path for v in model.trainable_variables if decays(v)} == set(kernels)
    for path in kernels:  # 1 - 0.1 · 0.5 · 1; float32
        np.testing.assert_allclose(after[path], 0.95, rtol=1e-6)
    for path in spared:
        np.testing.assert_array_equal(after[path], 1.0)


def test_l2_passes_through_the_momentum_and_decoupled_does_not():
    moved = {}
    for decay_form in ("l2", "decoupled"):
        toy = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, use_bias=False)])
        toy.layers[0].kernel.assign(np.ones((1, 2), "float32"))
        optimizer = create_optimizer(
            toy, learning_rate=0.1, weight_decay=0.5, decay_form=decay_form, momentum_form="classical"
        )
        optimizer.build(toy.trainable_variables)
        for _ in range(2):
            optimizer.apply([keras.ops.zeros((1, 2))])
        moved[decay_form] = float(np.asarray(toy.layers[0].kernel)[0, 0])
    # l2: v1 = -.05, w = .95; v2 = .9·(-.05) - .1·.5·.95 = -.0925, w = .8575. decoupled: .95² = .9025.
    assert moved["l2"] == pytest.approx(0.8575, rel=1e-6)
    assert moved["decoupled"] == pytest.approx(0.9025, rel=1e-6)


def test_nesterov_looks_ahead(model):
    # First step from rest with gradient 1: classical moves by 0.1, Nesterov by 0.1 · (1 + 0.9).
    classical = one_step(model, gradient=1.0, momentum_form="classical")
    nesterov = one_step(model, gradient=1.0, momentum_form="nesterov")
    np.testing.assert_allclose(next(iter(classical.values())), 0.9, rtol=1e-6)
    np.testing.assert_allclose(next(iter(nesterov.values())), 0.81, rtol=1e-6)


@pytest.mark.parametrize("option", ["momentum_form", "decay_form"])
def test_unknown_forms_are_refused(model, option):
    with pytest.raises(UserError, match="Unknown"):
        create_optimizer(model, learning_rate=0.1, **{option: "nestrov"})
