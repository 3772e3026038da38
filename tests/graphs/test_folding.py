import keras
import numpy as np
import pytest
from keras import layers

from keras_resnet.errors import UserError
from keras_resnet.graphs.folding import fold_batch_norms
from keras_resnet.graphs.pixels import fold_pixels
from keras_resnet.graphs.precision import to_bfloat16, to_float32
from keras_resnet.models.registry import REGISTRY
from keras_resnet.models.resnet import build_model

# Folding multiplies the weights first instead of the products: float32 rounds differently, about 1e-7 an operator.
# Over the fifty layers of the deepest network here that adds up to less than 1e-5 of the largest output.
TOLERANCE = 1e-4


def with_random_statistics(model, seed=0):
    """Makes every normalisation matter: scales, shifts and statistics as a trained network could have them."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.weights:
                name = variable.name
                low, high = (0.5, 1.5) if name in ("gamma", "moving_variance") else (-0.3, 0.3)
                variable.assign(rng.uniform(low, high, variable.shape))
    return model


def images_for(model, seed=1, batch=2):
    shape = [side or 64 for side in model.inputs[0].shape[1:]]
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(np.float32)


def assert_same_outputs(original, rewritten, images, tolerance=TOLERANCE):
    expected = np.asarray(original(images, training=False))
    got = np.asarray(rewritten(images, training=False))
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def norms(model):
    return [layer.name for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]


def shallow(name):
    """A row with at most two blocks a stage: it has every kind of layer that the row has."""
    config = REGISTRY[name]
    return config.replace(depths=tuple(min(depth, 2) for depth in config.depths))


def one_network_a_group():
    first = {}
    for name, config in REGISTRY.items():
        first.setdefault(config.group, name)
    return list(first.values())


@pytest.mark.parametrize("name", one_network_a_group())
def test_every_group_computes_the_same_and_keeps_only_what_cannot_fold(name):
    config = shallow(name)
    shape = (64, 64, 3) if config.downsampling == "blur" else (32, 32, 3)
    model = with_random_statistics(build_model(config, input_shape=shape, num_classes=7))

    folded = fold_batch_norms(model)

    assert_same_outputs(model, folded, images_for(model))
    left = norms(folded)
    if config.activation_order == "post" or config.norm != "batch":
        assert left == []
    else:
        # Between an addition and an activation: the first of each block, and the one behind the last block.
        assert left
        assert all(norm.endswith("_norm1") or norm == "final_norm" for norm in left)
    names = {layer.name for layer in model.layers}
    padded = {name for name in names if name.endswith("_shortcut_channels")}
    assert names - {layer.name for layer in folded.layers} == (set(norms(model)) - set(left)) | padded


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet50", "ResNet50V2", "MobileNetV2"])
def test_folds_networks_of_keras_applications(name):
    model = with_random_statistics(getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=9))
    folded = fold_batch_norms(model)
    assert_same_outputs(model, folded, images_for(model))
    assert len(norms(folded)) == {"ResNet50": 0, "ResNet50V2": 17, "MobileNetV2": 0}[name]


def small(build, shape=(8, 8, 4)):
    inputs = keras.Input(shape)
    return with_random_statistics(keras.Model(inputs, build(inputs)))


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (lambda x: layers.BatchNormalization()(layers.Conv2D(6, 3, use_bias=False)(x)), 0),
        (lambda x: layers.BatchNormalization(scale=False)(layers.Conv2D(6, 3, groups=2)(x)), 0),
        (lambda x: layers.BatchNormalization(center=False)(layers.DepthwiseConv2D(3, depth_multiplier=2)(x)), 0),
        (lambda x: layers.BatchNormalization()(layers.Conv2DTranspose(6, 3, strides=2)(x)), 0),
        (lambda x: layers.BatchNormalization()(layers.Dense(5)(x)), 0),
        (lambda x: layers.BatchNormalization()(layers.Dropout(0.5)(layers.Conv2D(6, 3)(x))), 0),
        (lambda x: layers.BatchNormalization()(layers.BatchNormalization()(layers.Conv2D(6, 3)(x))), 0),
        (lambda x: layers.Conv2D(6, 3, groups=2, use_bias=False)(layers.BatchNormalization()(x)), 0),
        (lambda x: layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.BatchNormalization()(x)), 0),
        (lambda x: layers.Conv2D(6, 1, padding="same", activation="relu")(layers.BatchNormalization()(x)), 0),
        (lambda x: layers.Dense(5, activation="relu")(layers.BatchNormalization()(x)), 0),
        # An activation between them, a border of zeros, another axis, a second reader: these must stay.
        (lambda x: layers.BatchNormalization()(layers.Conv2D(6, 3, activation="relu")(x)), 1),
        (lambda x: layers.Conv2D(6, 3, padding="same")(layers.BatchNormalization()(x)), 1),
        (lambda x: layers.BatchNormalization(axis=1)(layers.Conv2D(6, 3)(x)), 1),
        (lambda x: (lambda y: layers.Add()([layers.BatchNormalization()(y), y]))(layers.Conv2D(6, 3)(x)), 1),
    ],
)
def test_each_pattern(build, left):
    model = small(build)
    folded = fold_batch_norms(model)
    assert_same_outputs(model, folded, images_for(model))
    assert len(norms(folded)) == left


def test_folds_on_both_sides_of_one_convolution():
    model = small(lambda x: layers.BatchNormalization()(layers.Conv2D(6, 3)(layers.BatchNormalization()(x))))
    folded = fold_batch_norms(model)
    assert_same_outputs(model, folded, images_for(model))
    assert norms(folded) == []


def test_shared_layers_and_outputs_between_stay():
    shared = layers.Conv2D(4, 3, padding="same")
    model = small(lambda x: layers.BatchNormalization()(shared(shared(x))))
    assert len(norms(fold_batch_norms(model))) == 1
    inputs = keras.Input((8, 8, 4))
    between = layers.Conv2D(4, 3)(inputs)
    model = with_random_statistics(keras.Model(inputs, [between, layers.BatchNormalization()(between)]))
    folded = fold_batch_norms(model)
    images = images_for(model)
    for expected, got in zip(model(images), folded(images), strict=True):
        np.testing.assert_allclose(expected, got, rtol=TOLERANCE, atol=1e-5)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_strided_shortcuts_stay_the_same_to_the_last_bit(data_format):
    images = keras.Input((9, 12, 5))
    x = layers.MaxPooling2D(1, strides=2, data_format=data_format)(images)
    model = keras.Model(images, layers.MaxPooling2D(2, data_format=data_format)(x))

    folded = fold_batch_norms(model)

    assert [type(layer).__name__ for layer in folded.layers[1:]] == ["DepthwiseConv2D", "MaxPooling2D"]
    assert_same_outputs(model, folded, images_for(model), tolerance=0)


def test_strided_shortcuts_take_in_the_channels_of_zeros_behind_them():
    images = keras.Input((9, 12, 5))
    strided = layers.MaxPooling2D(1, strides=2)
    model = keras.Model(images, layers.ZeroPadding2D(((0, 0), (2, 1)), data_format="channels_first")(strided(images)))
    folded = fold_batch_norms(model)
    assert [type(layer).__name__ for layer in folded.layers[1:]] == ["Conv2D"]
    # Each channel is multiplied by one and added to zeros: the same to the last bit.
    assert_same_outputs(model, folded, images_for(model), tolerance=0)


def test_other_paddings_behind_strided_shortcuts_stay():
    images = keras.Input((9, 12, 5))
    for padding in (
        layers.ZeroPadding2D(((1, 0), (2, 1)), data_format="channels_first"),  # pads places, too
        layers.ZeroPadding2D(((0, 0), (2, 1)), data_format="channels_last"),
    ):
        model = keras.Model(images, padding(layers.MaxPooling2D(1, strides=2)(images)))
        folded = fold_batch_norms(model)
        assert [type(layer).__name__ for layer in folded.layers[1:]] == ["DepthwiseConv2D", "ZeroPadding2D"]
        assert_same_outputs(model, folded, images_for(model), tolerance=0)
    x = layers.MaxPooling2D(1, strides=2)(images)  # read by two
    padded = layers.ZeroPadding2D(((0, 0), (2, 1)), data_format="channels_first")(x)
    model = keras.Model(images, layers.Concatenate()([x, padded]))
    folded = fold_batch_norms(model)
    assert "ZeroPadding2D" in [type(layer).__name__ for layer in folded.layers]
    assert_same_outputs(model, folded, images_for(model), tolerance=0)


def test_folds_inside_nested_and_sequential_models():
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 3), layers.BatchNormalization()])
    model = small(lambda x: layers.GlobalAveragePooling2D()(inner(x)))
    folded = fold_batch_norms(model)
    assert_same_outputs(model, folded, images_for(model))
    assert norms(folded) == []


def test_the_original_is_left_as_it_was():
    model = with_random_statistics(build_model("resnet8"))
    before = [w.copy() for w in model.get_weights()]
    names = [layer.name for layer in model.layers]
    fold_batch_norms(model)
    assert [layer.name for layer in model.layers] == names
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_mixed_precision_is_rebuilt_in_float32_with_the_same_weights(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        mixed = with_random_statistics(build_model("resnet8"))
    finally:
        keras.config.set_dtype_policy(before)
    plain = with_random_statistics(build_model("resnet8"))
    plain.set_weights([w.astype(np.float32) for w in mixed.get_weights()])

    rebuilt = to_float32(mixed)

    assert {layer.compute_dtype for layer in rebuilt.layers} == {"float32"}
    images = images_for(plain)
    np.testing.assert_array_equal(rebuilt(images), plain(images))


def test_refuses_subclassed_and_quantised_models():
    class Subclassed(keras.Model):
        pass

    with pytest.raises(UserError, match="functional"):
        fold_batch_norms(Subclassed())
    model = small(lambda x: layers.Dense(4)(x))
    model.quantize("int8")
    with pytest.raises(UserError, match="quantised already"):
        to_float32(model)


@pytest.mark.parametrize("name", ["resnet8", "resnet50", "resnet50_v1"])
@pytest.mark.parametrize("reverse", [False, True])
def test_pixels_in_equal_normalised_images_in(name, reverse):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = with_random_statistics(build_model(name, input_shape=(32, 32, 3), num_classes=5))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    ordered = pixels[..., ::-1] if reverse else pixels
    expected = np.asarray(model((ordered / 255 - mean) / std))

    inside = fold_pixels(fold_batch_norms(model), mean=mean, std=std, reverse_channels=reverse)

    assert np.abs(np.asarray(inside(pixels)) - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_pixels_in_where_no_convolution_comes_first():
    model = small(lambda x: layers.Conv2D(3, 3)(layers.Activation("relu")(x)), (8, 8, 3))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    mean, std = np.array((0.2, 0.5, 0.6)), np.array((0.2, 0.3, 0.4))
    inside = fold_pixels(model, mean=mean, std=std, reverse_channels=True)
    expected = np.asarray(model((pixels[..., ::-1] / 255 - mean) / std))
    assert np.abs(np.asarray(inside(pixels)) - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("name", one_network_a_group())
def test_bfloat16_is_in_the_feature_maps_and_nowhere_else(name):
    model = fold_batch_norms(with_random_statistics(build_model(shallow(name), input_shape=(64, 64, 3), num_classes=5)))
    kept = [np.array(weight) for weight in model.get_weights()]

    half = to_bfloat16(model)

    for layer in half._flatten_layers(recursive=True, include_self=False):
        if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
            assert {str(weight.dtype) for weight in layer.weights} == {"bfloat16"}
        elif isinstance(layer, layers.Dense | layers.GlobalAveragePooling2D):
            assert layer.compute_dtype == "float32"
        else:
            assert {str(weight.dtype) for weight in layer.weights} <= {"float32"}
    images = images_for(model, batch=4)
    expected, got = np.asarray(model(images)), half(images)
    assert got.dtype == "float32"
    # A rounding to 8 bits is off by 2^-9 at most; that many operators in a row add up to a few hundredths.
    assert np.abs(np.asarray(got) - expected).max() <= 0.1 * np.abs(expected).max()
    assert np.abs(np.asarray(got) - expected).max() > 0
    for before, after in zip(kept, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_bfloat16_reaches_inner_models_and_refuses_subclasses():
    inner = keras.Sequential([layers.Input((8, 8, 4)), layers.Conv2D(6, 3), layers.GlobalAveragePooling2D()])
    model = small(lambda x: layers.Dense(3)(inner(layers.Conv2D(4, 1)(x))), (8, 8, 3))
    half = to_bfloat16(model)
    convs = [layer for layer in half._flatten_layers() if isinstance(layer, layers.Conv2D)]
    assert [str(layer.kernel.dtype) for layer in convs] == ["bfloat16", "bfloat16"]
    assert_same_outputs(model, half, images_for(model), tolerance=0.05)
    with pytest.raises(UserError, match="functional"):
        to_bfloat16(type("Subclassed", (keras.Model,), {})())
