import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.models.resnet import build_model
from keras_resnet.training.fused_normalization import FusedBatchNormalization, copy_weights, training_twin


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    model = build_model("resnet8", num_classes=5, input_shape=(12, 12, 3), drop_rate=0.5)
    random = np.random.default_rng(0)
    # Weights as after some training: scales, offsets and statistics away from their first values.
    model.set_weights([w + 0.1 * random.random(w.shape, np.float32) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(6, 12, 12, 3)).astype("float32")


def gradients_and_statistics(model, images):
    labels = np.arange(len(images)) % 5
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    return tape.gradient(loss, [v.value for v in model.trainable_variables]), [
        v.numpy() for v in model.non_trainable_variables if "moving" in v.path
    ]


def test_a_twin_trains_like_keras(images):
    keras.utils.set_random_seed(2)
    model = build_model("resnet8", num_classes=5, input_shape=(12, 12, 3))
    twin = training_twin(model)
    assert sum(isinstance(layer, FusedBatchNormalization) for layer in twin.layers) == 7
    expected_gradients, expected_statistics = gradients_and_statistics(model, images)
    gradients, statistics = gradients_and_statistics(twin, images)
    # float32 sums over a batch in another order: some 1e-6 relative, which nine layers amplify.
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=2e-5)
    for statistic, expected in zip(statistics, expected_statistics, strict=True):
        np.testing.assert_allclose(statistic, expected, rtol=1e-4, atol=1e-6)


def test_a_twin_predicts_like_keras(model, images):
    twin = training_twin(model)
    # The same formula with its factors in another order.
    np.testing.assert_allclose(twin(images), model(images), rtol=1e-4, atol=1e-4)


def test_a_frozen_layer_uses_and_keeps_its_statistics(images):
    layer = FusedBatchNormalization(name="norm")
    layer.trainable = False
    plain = keras.layers.BatchNormalization(name="norm")
    plain.trainable = False
    np.testing.assert_allclose(layer(images, training=True), plain(images, training=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(3))


def test_weights_come_back_the_same(model):
    twin = training_twin(model)
    other = keras.models.clone_model(model)
    copy_weights(twin, other)
    for got, expected in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_other_networks_weights_are_refused(model):
    with pytest.raises(ValueError, match="differ"):
        copy_weights(build_model("resnet8", num_classes=4, input_shape=(12, 12, 3)), model)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_a_mixed_twin_keeps_float32_variables_and_logits(model, images, precision):
    twin = training_twin(model, precision=precision)
    assert {v.dtype for v in twin.weights} == {"float32"}
    assert twin(images).dtype == "float32"
    assert twin.get_layer("stem_conv").compute_dtype == precision.removeprefix("mixed_")
    assert model.get_layer("stem_conv").compute_dtype == "float32"
    gradients, _ = gradients_and_statistics(twin, images)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_synchronized_normalization_stays_what_it_is():
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.BatchNormalization(synchronized=True)(inputs))
    assert type(training_twin(model).layers[1]) is keras.layers.BatchNormalization
