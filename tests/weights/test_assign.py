"""Every variable exactly once, or nothing at all, and errors that name everything."""

import keras
import numpy as np
import pytest

from keras_resnet.errors import UserError
from keras_resnet.models.resnet import build_model
from keras_resnet.weights.assign import WeightsError, fold_channels, variables_by_name
from keras_resnet.weights.loading import load_reported, load_weights


def test_missing_left_over_and_wrong_shapes_are_named_together(small):
    model, state = small
    before = model.get_weights()
    del state["bn1.weight"], state["layer3.0.conv2.weight"]
    state["stranger.weight"] = np.zeros((2, 2), np.float32)
    state["layer1.0.conv1.weight"] = np.zeros((16, 16, 5, 5), np.float32)
    with pytest.raises(WeightsError) as raised:
        load_weights(model, state)
    error = raised.value
    assert error.missing == ("stem_norm/gamma", "stage3_block1_conv2/kernel")
    assert error.left_over == ("stranger.weight",)
    assert error.wrong_shape == ("stage1_block1_conv1/kernel",)
    for name in (*error.missing, *error.left_over, *error.wrong_shape, "layer1.0.conv1.weight", "(5, 5, 16, 16)"):
        assert name in str(error)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused_and_nothing_changes(value, small):
    model, state = small
    before = model.get_weights()
    state["linear.bias"][3] = value  # the last one to be set
    with pytest.raises(UserError, match=r"linear\.bias holds values that are not finite"):
        load_weights(model, state)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_every_variable_is_set_once_and_seeds_are_none(small):
    _, state = small
    model = build_model("resnet8", drop_rate=0.1, stochastic_depth_rate=0.1)
    _, report = load_reported(model, state)
    names = variables_by_name(model)
    assert report.variables == len(names) == len(model.weights)
    assert not any("seed" in name for name in names)


def test_another_number_of_classes_keeps_the_backbone_and_says_so(small):
    _, state = small
    model = build_model("resnet8", num_classes=3)
    head = model.get_layer("logits").get_weights()
    with pytest.warns(UserWarning, match="head is new"):
        load_weights(model, state)
    np.testing.assert_array_equal(model.get_layer("stem_norm").get_weights()[0], state["bn1.weight"])
    for old, new in zip(head, model.get_layer("logits").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_new_head_can_be_asked_for_and_a_lost_one_is_not_forgiven(small):
    model, state = small
    _, report = load_reported(model, state, head="new")
    assert report.new == ("logits/kernel", "logits/bias")
    assert report.variables == len(model.weights) - 2
    del state["linear.weight"], state["linear.bias"]
    with pytest.raises(WeightsError, match="logits/kernel"):
        load_weights(model, state)
    load_reported(model, state, head="new")
    with pytest.raises(UserError, match="Unknown head 'none'"):
        load_weights(model, state, head="none")


def test_grey_folding_gives_what_three_equal_channels_gave(small):
    model, state = small
    load_weights(model, state)
    grey = build_model("resnet8", input_shape=(32, 32, 1))
    with pytest.warns(UserWarning, match="folded from 3 channels"):
        load_weights(grey, state)
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 1)).astype(np.float32)
    expected = model.predict(np.repeat(pixels, 3, axis=-1), verbose=0)
    # float32 sums in another order
    np.testing.assert_allclose(grey.predict(pixels, verbose=0), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [2, 4, 5, 6, 12])
def test_other_channels_repeat_the_colours_and_keep_the_response(channels):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
    folded = fold_channels(kernel, channels)
    assert folded.shape == (3, 3, channels, 4)
    for channel in range(channels):
        np.testing.assert_allclose(folded[:, :, channel], kernel[:, :, channel % 3] * 3 / channels, rtol=1e-6)


def test_deep_stems_are_folded_too(named_state):
    state = named_state(build_model("resnet18d", input_shape=(64, 64, 3)))
    model = build_model("resnet18d", input_shape=(64, 64, 4))
    _, report = load_reported(model, state)
    assert report.folded == 3
    assert model.get_layer("stem_conv1").kernel.shape == (3, 3, 4, 32)


def test_only_networks_of_another_depth_are_refused(small):
    _, state = small
    with pytest.raises(WeightsError, match="Missing"):
        load_weights(build_model("resnet20"), state)
    with pytest.raises(UserError, match="got list"):
        load_weights("resnet8", [1, 2])
    assert isinstance(load_weights("resnet8", state), keras.Model)
