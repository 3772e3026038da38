import keras
import numpy as np
import pytest
from keras import layers

from keras_resnet.errors import UserError
from keras_resnet.graphs.flattening import flatten_classifier
from keras_resnet.models.resnet import build_model

SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def base():
    return build_model("resnet8", input_shape=SHAPE, include_top=False)


def nested(base):
    inputs = keras.Input(SHAPE)
    x = base(layers.Rescaling(2.0)(inputs))
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Softmax()(x))


def sequential(base):
    top = [layers.GlobalAveragePooling2D(), layers.Dropout(0.5), layers.Dense(5, activation="softmax")]
    return keras.Sequential([keras.Input(SHAPE), base, *top])


def twice_nested(base):
    inner = keras.Sequential([keras.Input(SHAPE), base, layers.GlobalAveragePooling2D(), layers.Dense(5)])
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, layers.Activation("softmax")(inner(inputs) * 2.0 + 0.5))


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("build", [nested, sequential, twice_nested])
def test_flat_graph_computes_what_the_original_computes(build, base, images):
    model = build(base)
    flat = flatten_classifier(model)
    assert not any(isinstance(layer, keras.Model) for layer in flat.model.layers)
    assert "features" in [layer.name for layer in flat.model.layers]
    assert flat.activation == "softmax"
    # Probabilities up to 1, float32: a few units in the last place.
    np.testing.assert_allclose(softmax(flat.model(images).numpy()), model(images).numpy(), atol=1e-6)


def test_mixed_precision_becomes_float32(images):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_model("resnet8", input_shape=SHAPE)
    finally:
        keras.config.set_dtype_policy(before)
    flat = flatten_classifier(model)
    assert {layer.compute_dtype for layer in flat.model.layers} == {"float32"}
    plain = build_model("resnet8", input_shape=SHAPE)
    plain.set_weights(model.get_weights())
    np.testing.assert_array_equal(flat.model(images).numpy(), plain(images).numpy())


def test_copy_follows_its_original(base, images):
    model = nested(base)
    flat = flatten_classifier(model)
    head = model.layers[-2]
    head.set_weights([weight + 1 for weight in head.get_weights()])
    flat.copy_weights()
    np.testing.assert_allclose(softmax(flat.model(images).numpy()), model(images).numpy(), atol=1e-6)


def test_flat_float32_logits_are_taken_as_they_are():
    model = build_model("resnet8", input_shape=SHAPE)
    assert flatten_classifier(model).model is model


def test_models_without_classification_head_are_refused(base):
    with pytest.raises(UserError, match="no classification head"):
        flatten_classifier(base)
    inputs = keras.Input(SHAPE)
    with pytest.raises(UserError, match="no classification head"):
        flatten_classifier(keras.Model(inputs, layers.Dense(1)(layers.Flatten()(inputs))))


def test_what_cannot_be_walked_is_refused():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(UserError, match="cannot be walked"):
        flatten_classifier(Own())
    with pytest.raises(UserError, match="not built"):
        flatten_classifier(keras.Sequential([layers.Dense(3)]))
    first, second = keras.Input((4,)), keras.Input((4,))
    with pytest.raises(UserError, match="2 inputs"):
        flatten_classifier(keras.Model([first, second], layers.Dense(3)(first + second)))
    inputs = keras.Input(SHAPE)
    with pytest.raises(UserError, match="tanh"):
        flatten_classifier(keras.Model(inputs, layers.Dense(3, activation="tanh")(layers.Flatten()(inputs))))
