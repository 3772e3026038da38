"""What every kind of layer must survive: storing, folding, export, heat maps, half precision, training, dilation.

Each kind is a network as small as it can be: one or two blocks a stage, at 32×32.
"""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_resnet
from keras_resnet.artifact import artifact_of
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.explanation.methods import explain
from keras_resnet.export.saved_model import export_saved_model
from keras_resnet.export.serving import serving_network
from keras_resnet.export.tflite import convert
from keras_resnet.export.tflite_file import read_operators
from keras_resnet.graphs.folding import fold_batch_norms
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.resnet import build_model
from keras_resnet.models.standardized import WeightStandardizedConv2D
from keras_resnet.storage import load_model, save_model
from keras_resnet.training.fused_normalization import training_twin

LITERT = pytest.importorskip("ai_edge_litert.interpreter")

SMALL = ResNetConfig(
    name="small",
    block="bottleneck",
    depths=(1, 2),
    widths=(16, 32),
    expansion=2,
    strides=(1, 2),
    stem_width=16,
    input_shape=(32, 32, 3),
    num_classes=5,
)
PRE = {"activation_order": "pre", "stem_norm": False}
KINDS = {
    "average pools": {
        "stem": "tiered", "stem_pool": "average", "downsampling": "average", "shortcut": "average_pool_projection",
    },
    "senet": {
        "shortcut": "spatial_projection", "first_reduction": 2, "attention": "se", "stem_pool": "blur",
        "downsampling": "blur",
    },
    "pre-activation -D": {**PRE, "stem": "deep", "shortcut": "average_pool_plain_projection"},
    "bit": {**PRE, "norm": "group", "convolution": "standardized", "shortcut": "plain_projection"},
    "split attention": {
        "spatial": "split_attention", "splits": 2, "cardinality": 2, "base_width": 32, "downsampling": "average_3x3",
        "se_ratio": 0.25,
    },
    "selective kernel": {"block": "basic", "spatial": "selective_kernel", "splits": 2},
    "multi scale": {"spatial": "multi_scale", "splits": 4, "base_width": 26},
}  # fmt: skip
PREPROCESSING = Preprocessing(32, 32, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), labels=tuple("abcde"))
# Folding multiplies the weights first instead of the products: float32 rounds differently, about 1e-7 an operator.
TOLERANCE = 1e-5


@pytest.fixture(params=KINDS)
def config(request):
    return SMALL.replace(**KINDS[request.param])


@pytest.fixture(scope="module")
def built():
    """Networks that tests have used already, and the weights that each began with."""
    return {}


@pytest.fixture
def model(config, built):
    if config not in built:
        network = lively(build_model(config))
        built[config] = network, network.get_weights()
    network, weights = built[config]
    network.set_weights(weights)
    return network


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(size=(3, 32, 32, 3)).astype(np.float32)


def lively(model, seed=0):
    """Scales, shifts and statistics as a trained network could have them."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization | layers.GroupNormalization):
            for variable in layer.weights:
                low, high = (0.5, 1.5) if variable.name in ("gamma", "moving_variance") else (-0.3, 0.3)
                variable.assign(random.uniform(low, high, variable.shape))
    return model


def close(found, expected, tolerance=TOLERANCE):
    found, expected = np.asarray(found), np.asarray(expected)
    return np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def softmax(logits):
    return tf.nn.softmax(logits).numpy()


def test_a_stored_network_gives_the_same_logits(model, images, tmp_path):
    save_model(model, tmp_path / "m.keras", PREPROCESSING)
    loaded, preprocessing = load_model(tmp_path / "m.keras")
    assert preprocessing == PREPROCESSING
    # The same graph with the same numbers: equal to the last bit.
    np.testing.assert_array_equal(loaded(images), model(images))
    names = [layer.name for layer in model.layers]
    assert {"features", "avg_pool", "logits", "stage1_block1_out"} <= set(names)
    own = {type(layer) for layer in model.layers if not type(layer).__module__.startswith("keras.src.layers")}
    assert own <= {WeightStandardizedConv2D}


def test_folding_leaves_keras_own_layers_and_no_norm_that_can_go(model, config, images):
    folded = fold_batch_norms(model)
    assert close(folded(images), model(images))
    left = [layer.name for layer in folded.layers if isinstance(layer, layers.BatchNormalization)]
    if config.activation_order == "post":
        assert left == []
    assert all(type(layer).__module__.startswith("keras.src.layers") for layer in folded.layers)


def test_folding_puts_a_norm_into_a_standardised_kernel(images):
    config = SMALL.replace(convolution="standardized", shortcut="average_pool_projection", stem="deep")
    model = lively(build_model(config))
    folded = fold_batch_norms(model)
    assert close(folded(images), model(images))
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)
    assert not any(isinstance(layer, WeightStandardizedConv2D) for layer in folded.layers)


def test_exports_need_builtins_alone_and_answer_as_the_network(model, images, tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3)).astype(np.float32)
    artifact = artifact_of(model, PREPROCESSING)
    expected = artifact.probabilities(pixels)
    contents = convert(serving_network(model, PREPROCESSING, heatmap="top"), "float32", batch=None)
    assert not any(name.startswith("Flex") for name in read_operators(contents))
    serve = LITERT.Interpreter(model_content=contents).get_signature_runner("serving_default")
    found = serve(images=pixels)
    # Probabilities of float32 networks, folded on one side.
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
    folder = export_saved_model(model, PREPROCESSING, tmp_path / "served")
    answer = tf.saved_model.load(str(folder)).signatures["serving_default"](images=tf.constant(pixels))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)


def test_int8_files_run(model):
    calibration = np.random.default_rng(2).integers(0, 256, (8, 32, 32, 3)).astype(np.float32)
    contents = convert(serving_network(model, PREPROCESSING), "int8", calibration=calibration)
    serve = LITERT.Interpreter(model_content=contents).get_signature_runner("serving_default")
    answer = serve(images=calibration[:1].astype(np.uint8))["probabilities"]
    # On untrained networks agreement means nothing; probabilities in steps of 1/256 that add up to one do.
    assert abs(answer.astype(int).sum() - 256) <= 5


def test_heat_maps_in_closed_form_equal_gradients(model, images):
    # A logit is the mean of its map before the ReLU, so that the largest one has a map that is not all 0.
    targets = np.argmax(model(images), axis=-1).tolist()
    closed = explain(model, images, targets, "gradcam_closed_form")
    # float32 with sums in another order
    np.testing.assert_allclose(closed, explain(model, images, targets, "gradcam_gradient"), atol=1e-4)
    assert closed.std() > 0


def test_half_precision_gives_nearly_the_same_logits(config, model, images):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = build_model(config)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(model.get_weights())
    logits = mixed(images)
    assert logits.dtype == "float32"
    # A rounding to 8 bits is off by 2^-9 at most; that many operators in a row add up to a few hundredths.
    assert close(logits, model(images), tolerance=0.1)


def test_every_weight_learns(model, images):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(images, training=True) ** 2)
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path


def test_the_twin_that_trains_computes_the_same(model, images):
    # The same formula with its factors in another order.
    assert close(training_twin(model)(images), model(images), tolerance=1e-4)
    assert training_twin(model, precision="mixed_bfloat16")(images).dtype == "float32"


def test_dilation_and_features_keep_weights_and_set_sizes(config, model, images):
    dilated = build_model(config.replace(strides=(2, 2)), output_stride=8)
    plain = build_model(config.replace(strides=(2, 2)))
    assert dilated.get_layer("features").output.shape[1:3] == (4, 4)
    assert plain.get_layer("features").output.shape[1:3] == (2, 2)
    assert [w.shape for w in dilated.weights] == [w.shape for w in plain.weights]
    pyramid = build_model(config, features_only=True, input_shape=(64, 96, 3))
    assert [tuple(x.shape[1:]) for x in pyramid.outputs] == [
        (16 // step, 24 // step, config.out_channels(stage)) for stage, step in enumerate((1, 2))
    ]


def test_inputs_of_any_size_give_the_same_logits_as_a_fixed_size(config, model):
    free = build_model(config, input_shape=(None, None, 3))
    fixed = build_model(config, input_shape=(46, 64, 3))
    for other in (free, fixed):
        other.set_weights(model.get_weights())
    images = np.random.default_rng(0).normal(size=(2, 46, 64, 3)).astype(np.float32)
    assert close(free(images), fixed(images))


def test_standardised_kernels_have_mean_zero_and_variance_one():
    layer = WeightStandardizedConv2D(4, 3, groups=2, use_bias=False)
    inputs = keras.Input((9, 9, 6))
    model = keras.Model(inputs, layer(inputs))
    kernel = np.random.default_rng(0).normal(3, 5, (3, 3, 3, 4)).astype(np.float32)
    layer.set_weights([kernel])
    plain = keras.Model(inputs, layers.Conv2D(4, 3, groups=2, use_bias=False)(inputs))
    standardized = (kernel - kernel.mean((0, 1, 2))) / kernel.std((0, 1, 2))
    plain.set_weights([standardized])
    images = np.random.default_rng(1).normal(size=(2, 9, 9, 6)).astype(np.float32)
    assert close(model(images), plain(images))
    np.testing.assert_array_equal(layer.get_weights()[0], kernel)


def test_standardised_kernels_are_computed_in_float32_under_half_precision():
    layer = WeightStandardizedConv2D(4, 3, use_bias=False, dtype="mixed_float16")
    inputs = keras.Input((9, 9, 6))
    model = keras.Model(inputs, layer(inputs))
    kernel = np.random.default_rng(0).normal(1, 1e-3, (3, 3, 6, 4)).astype(np.float32)  # float16 steps by 1e-3 here
    layer.set_weights([kernel])
    images = np.random.default_rng(1).normal(size=(2, 9, 9, 6)).astype(np.float32)
    standardized = (kernel - kernel.mean((0, 1, 2))) / kernel.std((0, 1, 2))
    expected = layers.Conv2D(4, 3, use_bias=False)
    expected.build((None, 9, 9, 6))
    expected.set_weights([standardized])
    assert model.output.dtype == "float16"
    # Half precision's own rounding, 2^-11, over sums of 54 products.
    assert close(model(images), expected(images), tolerance=0.01)


def test_keras_alone_loads_a_standardised_file_once_the_layer_is_imported(tmp_path):
    model = build_model(SMALL.replace(convolution="standardized"))
    model.save(tmp_path / "m.keras")
    code = (
        "import sys, keras\n"
        "try: keras.saving.load_model(sys.argv[1])\n"
        "except TypeError as error: assert 'WeightStandardizedConv2D' in str(error)\n"
        "else: sys.exit('loaded without the layer')\n"
        "from keras_resnet import WeightStandardizedConv2D\n"
        "keras.saving.load_model(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.keras")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert keras_resnet.WeightStandardizedConv2D is WeightStandardizedConv2D


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spatial": "multi_scale"}, "splits of 'multi_scale' go from 2"),
        ({"spatial": "selective_kernel", "splits": 3}, "from 1 to 2, got 3"),
        ({"spatial": "split_attention", "block": "basic"}, "needs block 'bottleneck'"),
        ({"spatial": "selective_kernel", **PRE}, "activation_order 'post'"),
        ({"first_reduction": 0}, "at least 1"),
        ({"convolution": "standardised"}, "'standardized'"),
    ],
)
def test_configurations_that_make_no_network_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        SMALL.replace(**changes)
