"""Each measurement against the same thing done by hand, on networks as small as they can be."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.errors import UserError
from keras_resnet.models.registry import get_config
from keras_resnet.models.resnet import build_model
from keras_resnet.study.kinds import KINDS, check_networks, network_config
from keras_resnet.study.measurements import (
    deletable_blocks,
    deleted,
    gradient_norms,
    loss_along,
    random_direction,
    scorer,
)

SIZE = (8, 8, 1)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(6, *SIZE)).astype(np.float32)
LABELS = np.arange(6, dtype=np.int32) % 3


def config_of(shortcut, depths=(2, 2, 1), **changes):
    config = get_config("resnet8").replace(depths=depths, widths=(4, 8, 8), stem_width=4, shortcut=shortcut, **changes)
    return config.replace(input_shape=SIZE, num_classes=3)


def lively(model):
    """Scales, shifts and statistics as a trained network could have them."""
    random = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in layer.weights:
                low, high = (0.5, 1.5) if variable.name in ("gamma", "moving_variance") else (-0.3, 0.3)
                variable.assign(random.uniform(low, high, variable.shape))
    return model


@pytest.fixture(scope="module", params=["pad", "none"])
def network(request):
    config = config_of(request.param)
    return lively(build_model(config)), config


def values(model):
    return [np.array(variable) for variable in model.variables]


def assert_same(before, after):
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def cross_entropy(model):
    logits = np.asarray(model(IMAGES), np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), LABELS])


@pytest.mark.parametrize(("block", "depths"), [("stage1_block2", (1, 2, 1)), ("stage2_block2", (2, 1, 1))])
def test_a_deleted_block_leaves_the_network_that_lacks_it(network, block, depths):
    model, config = network
    shorter = build_model(config.replace(depths=depths))
    for layer in shorter.layers:  # the last block of a stage goes: the others keep their names
        layer.set_weights(model.get_layer(layer.name).get_weights())
    before, whole = values(model), np.asarray(model(IMAGES))
    with deleted(model, config, block):
        found = np.asarray(model(IMAGES))
    # The identity of a plain block rounds twice in float32, at each of its convolutions.
    np.testing.assert_allclose(found, shorter(IMAGES), rtol=0, atol=1e-5 * np.abs(found).max())
    assert np.abs(found - whole).max() > 1e-3 * np.abs(whole).max()
    assert_same(before, values(model))


def test_without_normalisation_the_last_convolution_falls_silent():
    config = config_of("pad", norm="none")
    model, shorter = build_model(config), build_model(config.replace(depths=(1, 2, 1)))
    for layer in shorter.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    with deleted(model, config, "stage1_block2"):
        np.testing.assert_array_equal(model(IMAGES), shorter(IMAGES))


def test_what_cannot_be_deleted_is_refused(network):
    model, config = network
    plain = config.shortcut == "none"
    every = ["stage1_block1", "stage1_block2", "stage2_block1", "stage2_block2", "stage3_block1"]
    # Stage 2 and 3 begin with another shape than they get: with no shortcut there is nothing to pass on.
    kept = [name for name in every if not (plain and name in ("stage2_block1", "stage3_block1"))]
    assert deletable_blocks(config) == kept
    with pytest.raises(UserError, match="must be one of stage1_block1"), deleted(model, config, "stage1_block9"):
        pass
    if plain:
        with pytest.raises(UserError, match="stage2_block1 changes it"), deleted(model, config, "stage2_block1"):
            pass
    with pytest.raises(UserError, match="activation_order 'post'"):
        deletable_blocks(config.replace(activation_order="pre"))


def test_an_error_inside_puts_the_block_back(network):
    model, config = network
    before = values(model)
    with pytest.raises(RuntimeError), deleted(model, config, "stage1_block1"):
        raise RuntimeError
    assert_same(before, values(model))


def test_gradient_norms_are_those_of_a_direct_computation(network):
    model, _ = network
    before = values(model)
    found = gradient_norms(model)(IMAGES, LABELS)
    assert_same(before, values(model))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        mean = loss(LABELS, model(IMAGES, training=True))
    kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
    gradients = tape.gradient(mean, [layer.kernel.value for layer in kernels])
    assert list(found) == [layer.name for layer in kernels]
    expected = [np.linalg.norm(gradient.numpy().ravel()) for gradient in gradients]
    # The same float32 operations, compiled: sums in another order.
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-4)


def test_scores_are_those_of_numpy(network):
    model, _ = network
    loss, error = scorer(model)([(IMAGES[:4], LABELS[:4]), (IMAGES[4:], LABELS[4:])])  # batches of several sizes
    assert loss == pytest.approx(cross_entropy(model), rel=1e-5)
    assert error == np.mean(np.argmax(model(IMAGES), axis=1) != LABELS)


def test_directions_have_the_filters_lengths_and_lead_there(network):
    model, _ = network
    direction = random_direction(model, 3)
    kernels = {layer.kernel.path: layer.kernel for layer in model.layers if hasattr(layer, "kernel")}
    assert list(direction) == list(kernels)
    for path, moved in direction.items():
        filters = (np.reshape(each, (-1, moved.shape[-1])) for each in (kernels[path], moved))
        np.testing.assert_allclose(*(np.linalg.norm(each, axis=0) for each in filters), rtol=1e-5)
    np.testing.assert_array_equal(*(random_direction(model, 3)[path] for _ in range(2)))

    before = values(model)
    along = loss_along(model, direction, [0.0, 0.5], lambda: cross_entropy(model))
    assert_same(before, values(model))
    assert along[0] == cross_entropy(model)
    for path, kernel in kernels.items():
        kernel.assign(np.asarray(kernel) + 0.5 * direction[path])
    # Half a step by hand rounds as the function does.
    assert along[1] == pytest.approx(cross_entropy(model), rel=1e-6)
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)


@pytest.mark.parametrize("depth", [8, 20, 32, 56, 110])
def test_residual_networks_are_those_of_the_table(depth):
    assert network_config("residual", depth).replace(name="") == get_config(f"resnet{depth}").replace(name="")
    plain = network_config("plain", depth)
    assert plain.replace(name="", shortcut="pad") == get_config(f"resnet{depth}").replace(name="")


@pytest.mark.parametrize("depth", [0, 2, 9, 21, 1208])
def test_other_depths_are_refused(depth):
    with pytest.raises(UserError, match="6n \\+ 2 layers"):
        network_config("plain", depth)


def test_unknown_kinds_are_refused():
    check_networks(KINDS, [8, 14])
    with pytest.raises(UserError, match="Closest: 'residual'"):
        check_networks(["plain", "residal"], [8])
