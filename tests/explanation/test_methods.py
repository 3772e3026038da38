import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.explanation import gradient, keras_vis, perturbation
from keras_resnet.explanation.classifier import prepare, resolve_targets
from keras_resnet.explanation.maps import RawMaps, finish_maps, resize_maps
from keras_resnet.explanation.methods import BASELINES, DISTINCT, METHODS, explain, is_constant, maximize_activation
from keras_resnet.models.resnet import build_model

SHAPE = (16, 16, 3)


def lively(model, seed=0):
    """Random weights that make maps with structure: fresh norms have scale 1 and shift 0."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.path.endswith("gamma"):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        elif weight.path.endswith(("beta", "bias")):
            weight.assign(random.normal(0, 0.2, weight.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return lively(build_model("resnet8", input_shape=SHAPE))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)


def normalized(raw):
    values = np.maximum(np.asarray(raw.values), 0)
    return values / np.maximum(values.max(axis=(1, 2), keepdims=True), 1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract(name, model, images):
    maps = explain(model, images, [1, 2, 3], name, steps=4, samples=2)
    assert maps.shape == (3, 16, 16)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    constant = is_constant(maps)
    np.testing.assert_allclose(maps.max(axis=(1, 2))[~constant], 1, atol=1e-6)
    assert not maps[constant].any()
    # An image's map does not depend on the others in its batch. Noise is drawn for a whole batch at once; sums over
    # batches of other sizes are rounded in another order.
    if name != "smoothgrad":
        np.testing.assert_allclose(explain(model, images[1:2], 2, name, steps=4), maps[1:2], atol=1e-4)


# Both sides compute the same formula in float32; the issue is the order of sums, some 1e-6 of the maximum.
@pytest.mark.parametrize("layer", ["features", "stage2_block1_out", "stage2_block1_conv1"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(gradient.gradcam_gradient, keras_vis.gradcam), (perturbation.scorecam, keras_vis.scorecam)],
)
def test_ours_equal_tf_keras_vis(ours, theirs, layer, model, images):
    classifier = prepare(model)
    targets = np.array([0, 4, 9], np.int32)
    first = normalized(ours(classifier, images, targets, layer=layer))
    second = normalized(theirs(classifier, images, targets, layer=layer))
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_closed_form_equals_gradients(model, images):
    np.testing.assert_allclose(
        explain(model, images, 3, "gradcam_closed_form"), explain(model, images, 3, "gradcam_gradient"), atol=1e-5
    )


def test_hirescam_and_xgradcam_equal_gradcam_on_the_last_map(model, images):
    # Behind GAP the gradient is the same at every place, so its mean is what each place has.
    expected = explain(model, images, 3, "gradcam_gradient")
    for name in ("hirescam", "xgradcam"):
        np.testing.assert_allclose(explain(model, images, 3, name), expected, atol=1e-5)


def test_layercam_equals_hirescam_with_positive_gradients(model, images):
    classifier = prepare(model)
    targets = np.array([1, 2, 3], np.int32)
    layer = "stage2_block1_out"
    outputs = classifier.trunk(layer)(images)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    with tf.GradientTape() as tape:
        tape.watch(outputs[0])
        logits = classifier.tail(layer)(outputs if len(outputs) > 1 else outputs[0])
        score = tf.reduce_sum(tf.gather(logits, targets, axis=1, batch_dims=1))
    expected = tf.reduce_sum(outputs[0] * tf.nn.relu(tape.gradient(score, outputs[0])), axis=-1).numpy()
    expected = RawMaps(expected, np.ones(3))
    actual = keras_vis.layercam(classifier, images, targets, layer=layer)
    np.testing.assert_allclose(normalized(actual), normalized(expected), atol=1e-4)


def test_integrated_gradients_are_complete(model, images):
    classifier = prepare(model)
    targets = np.array([1, 2, 3], np.int32)
    attributions = gradient.integrate_gradients(classifier, images, targets, steps=512, max_batch=64).numpy()
    logits, start = classifier.logits(images).numpy(), classifier.logits(np.zeros_like(images)).numpy()
    change = (logits - start)[np.arange(3), targets]
    # The path's sum has an error of its steps, which ReLU's kinks make larger than a smooth function's.
    np.testing.assert_allclose(attributions.sum(axis=(1, 2, 3)), change, atol=0.02 * np.abs(change).max())


def test_eigencam_is_the_first_singular_vector(model, images):
    classifier = prepare(model)
    for layer in ("features", "stage1_block1_out"):  # more channels than places, and fewer
        features = keras.Model(model.input, model.get_layer(layer).output)(images).numpy()
        raw = gradient.eigencam(classifier, images, np.zeros(3, np.int32), layer=layer).values.numpy()
        for image, actual in zip(features, raw, strict=True):
            rows = image.reshape(-1, image.shape[-1])
            u, s, _ = np.linalg.svd(rows, full_matrices=False)
            expected = u[:, 0] * s[0]
            cosine = np.abs(actual.ravel() @ expected) / np.linalg.norm(actual) / np.linalg.norm(expected)
            assert cosine > 0.9999  # single precision of an eigenvector


def test_ablationcam_in_closed_form(model, images):
    # Behind GAP → Dense, without a channel the logit loses that channel's mean times its weight.
    classifier = prepare(model)
    features = keras.Model(model.input, model.get_layer("features").output)(images).numpy()
    lost = features.mean(axis=(1, 2)) * model.get_layer("logits").kernel.numpy()[:, 3]
    expected = np.einsum("nhwc,nc->nhw", features, lost)
    raw = perturbation.ablationcam(classifier, images, np.full(3, 3, np.int32), layer="features", max_batch=50)
    # Each weight is a small difference of logits of size 1: float32 leaves some 1e-5 of it.
    np.testing.assert_allclose(raw.values, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["scorecam", "ablationcam", "occlusion"])
def test_portions_do_not_change_the_map_and_progress_is_told(name, model, images):
    told = []
    small = explain(model, images, 1, name, max_batch=7, progress=lambda done, count: told.append((done, count)))
    np.testing.assert_allclose(small, explain(model, images, 1, name, max_batch=500), atol=1e-4)
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert max(after[0] - before[0] for before, after in itertools.pairwise(told)) <= 7


def test_gradcam_plus_plus_stands_large_logits(model, images):
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
    from tf_keras_vis.utils.scores import CategoricalScore

    theirs = GradcamPlusPlus(model)(
        CategoricalScore([1, 2, 3]), images, penultimate_layer="features", seek_penultimate_conv_layer=False,
        expand_cam=False, normalize_cam=False,
    )  # fmt: skip
    targets = np.array([1, 2, 3], np.int32)
    ours = keras_vis.gradcam_plus_plus(prepare(model), images, targets, layer="features")
    np.testing.assert_allclose(normalized(ours), normalized(RawMaps(theirs, np.ones(3))), atol=1e-4)
    large = lively(build_model("resnet8", input_shape=SHAPE))
    large.get_layer("logits").bias.assign_add(np.full(10, 200.0))  # its exponential overflows
    assert explain(large, images, 1, "gradcam_plus_plus").max() == 1


def test_occlusion_finds_the_only_place_that_counts():
    inputs = keras.Input((16, 16, 1))
    mask = np.zeros((16, 16, 1, 2), np.float32)
    mask[2:5, 9:12, 0, 1] = 1
    logits = layers.Dense(2, use_bias=False, name="logits")
    network = keras.Model(inputs, logits(layers.Flatten()(inputs)))
    logits.set_weights([mask.reshape(-1, 2)])
    heat = explain(network, np.ones((1, 16, 16, 1), np.float32), 1, "occlusion")[0]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 2 <= row < 5
    assert 9 <= column < 12


def test_nothing_is_traced_again(model, images):
    names = [name for name, method in METHODS.items() if method.source == "ours"]
    for name in names:
        explain(model, images, 1, name, steps=4)
    traces = prepare(model).traces()
    for name in names:
        explain(model, images[:2], None, name, steps=4)  # another number of images, other targets
        explain(model, images, [0, 1, 2], name, steps=4)
    assert prepare(model).traces() == traces


def test_weights_are_read_anew(images):
    for nested in (False, True):
        network = lively(build_model("resnet8", input_shape=SHAPE))
        if nested:
            inputs = keras.Input(SHAPE)
            network = keras.Model(inputs, layers.Softmax()(network(inputs)))
        before = explain(network, images, 3)
        head = next(layer for layer in network._flatten_layers() if layer.name == "logits")
        head.set_weights([-weight for weight in head.get_weights()])
        assert np.abs(explain(network, images, 3) - before).max() > 0.1


def test_nested_sequential_and_mixed_precision_give_the_flat_network_s_maps(model, images):
    expected = explain(model, images, 3)
    inputs = keras.Input(SHAPE)
    nested = keras.Model(inputs, layers.Softmax()(model(inputs)))
    stacked = keras.Sequential([keras.Input(SHAPE), model, layers.Softmax()])
    for network in (nested, stacked):
        for name in ("gradcam", "gradcam_plus_plus"):
            np.testing.assert_allclose(explain(network, images, 3, name), explain(model, images, 3, name), atol=1e-5)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = build_model("resnet8", input_shape=SHAPE)
    finally:
        keras.config.set_dtype_policy(before)
    mixed.set_weights(model.get_weights())
    np.testing.assert_allclose(explain(mixed, images, 3), expected, atol=1e-6)
    assert explain(mixed, images, 3, "layercam").shape == expected.shape


def test_keras_applications_model_is_explained():
    network = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=4)
    maps = explain(network, np.random.default_rng(0).normal(size=(1, 32, 32, 3)), 2, "gradcam", "conv4_block6_out")
    assert maps.shape == (1, 32, 32)
    # "features" stands for the last layer with height and width
    assert prepare(network).layer_name("features") not in ("avg_pool", "predictions")


def test_model_is_saved_and_loaded_as_before(model, images, tmp_path):
    explain(model, images)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(loaded(images).numpy(), model(images).numpy())


def test_predicted_class_is_the_default(model, images):
    predicted = model(images).numpy().argmax(axis=1)
    for name in ("gradcam_gradient", "scorecam", "ablationcam", "occlusion", "layercam", "integrated_gradients"):
        np.testing.assert_array_equal(
            explain(model, images, None, name, steps=4), explain(model, images, predicted, name, steps=4)
        )


def test_batches_give_the_same_maps(model, images):
    many = np.concatenate([images, images[::-1]])
    np.testing.assert_allclose(
        explain(model, many, 1, batch_size=4), np.concatenate([explain(model, images, 1)] * 2)[[0, 1, 2, 5, 4, 3]],
        atol=1e-5,
    )  # fmt: skip
    assert explain(model, images[:0]).shape == (0, 16, 16)


def test_flipped_image_has_the_flipped_smoothed_map(model, images):
    smoothed = explain(model, images, 1, smooth="flips")
    np.testing.assert_allclose(explain(model, images[:, :, ::-1], 1, smooth="flips"), smoothed[:, :, ::-1], atol=1e-5)
    scaled = explain(model, images, 1, smooth="flips+scales")
    assert scaled.shape == smoothed.shape
    # Where no location speaks for the class the map is empty, smoothed or not.
    constant = is_constant(scaled)
    assert not constant.all()
    np.testing.assert_allclose(scaled.max(axis=(1, 2))[~constant], 1, atol=1e-6)


def test_layers_are_combined(model, images):
    names = ["stage2_block1_out", "features"]
    first, second = (explain(model, images, 1, "layercam", name) for name in names)
    for how, function in (("mean", np.mean), ("max", np.max), ("product", np.prod)):
        together = function(np.stack([first, second]), axis=0)
        together /= together.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(explain(model, images, 1, "layercam", names, combine=how), together, atol=1e-6)


def test_maps_are_laid_back_onto_images_of_any_size(model):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 24, 3), np.uint8)
    squash = Preprocessing(16, 16, 3, (0.5,) * 3, (0.25,) * 3)
    assert explain(model, pixels, 1, preprocessing=squash).shape == (2, 40, 24)
    crop = Preprocessing(16, 16, 3, (0.5,) * 3, (0.25,) * 3, resize="crop", crop_fraction=0.8)
    maps = explain(model, pixels, 1, "occlusion", preprocessing=crop)
    assert maps.shape == (2, 40, 24)
    # 24 pixels cover 16 / 0.8 = 20: the crop of 16 is 19 pixels of the image, and the rest was never seen.
    seen = maps.max(axis=0) > 0
    assert not seen[:10].any()
    assert not seen[30:].any()
    assert seen[12:28, 4:20].any()


def test_constant_maps_are_zero_and_noise_is_not_shown(model, images):
    network = lively(build_model("resnet8", input_shape=SHAPE))
    head = network.get_layer("logits")
    head.set_weights([np.zeros_like(weight) for weight in head.get_weights()])
    for name in DISTINCT:
        # Nothing speaks for any class: the logits do not depend on the image.
        if name not in ("eigencam", "scorecam", "faster_scorecam"):  # these weigh channels by other things
            assert is_constant(explain(network, images, 1, name, steps=4)).all(), name
    # Covering with the mean colour what has the mean colour changes nothing but rounding.
    assert is_constant(explain(model, np.zeros((2, *SHAPE)), 1, "occlusion")).all()
    against = RawMaps(tf.constant(-np.random.default_rng(0).random((1, 4, 4)), tf.float32), tf.constant([1.0]))
    assert is_constant(finish_maps(against, 8, 8, what="")).all()
    rounding = RawMaps(
        tf.constant(5 + 1e-6 * np.random.default_rng(0).random((1, 4, 4)), tf.float32), tf.constant([5.0])
    )
    assert is_constant(finish_maps(rounding, 8, 8, what="")).all()


def test_resizing_is_scipy_s_linear_zoom():
    from scipy.ndimage import zoom

    maps = np.random.default_rng(0).random((2, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(resize_maps(maps, 12, 15).numpy(), zoom(maps, (1, 3, 3), order=1), atol=1e-6)


def test_random_baseline_is_reproducible_and_gaussian_is_centred(model, images):
    assert BASELINES == ("gaussian", "random")
    np.testing.assert_array_equal(explain(model, images, 1, "random"), explain(model, images, 2, "random"))
    assert np.abs(explain(model, images, 1, "random") - explain(model, images, 1, "random", seed=1)).max() > 0.1
    bell = explain(model, images, 1, "gaussian")[0]
    np.testing.assert_allclose(bell, bell[::-1, ::-1], atol=1e-6)
    assert bell[8, 8] == bell.max()


def test_smoothgrad_leaves_the_global_generator_alone(model, images):
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    first = explain(model, images, 1, "smoothgrad", samples=2)
    assert np.random.random() == expected
    np.testing.assert_array_equal(first, explain(model, images, 1, "smoothgrad", samples=2))


@pytest.mark.filterwarnings("error:The structure of `inputs`")
def test_tf_keras_vis_says_nothing(model, images, capsys):
    for name in ("gradcam_tf_keras_vis", "faster_scorecam", "saliency"):
        explain(model, images, 1, name)
    assert capsys.readouterr().out == ""


def test_drawn_image_excites_its_class():
    # Class 1 likes red, class 0 does not.
    inputs = keras.Input((16, 16, 3))
    logits = layers.Dense(2, name="logits")
    network = keras.Model(inputs, logits(layers.GlobalAveragePooling2D()(inputs)))
    logits.set_weights([np.array([[-4, 4], [0, 0], [0, 0]], np.float32), np.zeros(2, np.float32)])
    told = []
    pixels = maximize_activation(network, 1, steps=30, progress=lambda done, count: told.append(done))
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    assert pixels[..., 0].mean() > 170  # it starts at 128
    assert told == list(range(1, 31))
    np.testing.assert_array_equal(pixels, maximize_activation(network, 1, steps=30))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "gradcm"}, "Unknown method 'gradcm'. Closest: 'gradcam'"),
        ({"layer": "avg_pool"}, "needs a layer with height and width.*Valid: features"),
        ({"layer": "stage9"}, "Unknown layer 'stage9'.*Valid: features, stage3_block1_out"),
        ({"targets": 10}, "Class 10 is out of range: the model has the classes 0 to 9"),
        ({"targets": -2}, "out of range"),
        ({"targets": "dog"}, "Unknown class 'dog'.*number from 0 to 9"),
        ({"targets": [1, 2]}, "2 targets for 3 images"),
        ({"smooth": "flip"}, "Unknown smoothing 'flip'. Closest: 'flips'"),
        ({"combine": "sum"}, "Unknown combination 'sum'"),
        ({"max_batch": 0}, "max_batch must be at least 1"),
        ({"layer": []}, "at least one layer"),
        ({"method": "cam", "layer": "stage1_block1_out"}, "needs global average pooling"),
    ],
)
def test_mistakes_are_named(arguments, sentence, model, images):
    with pytest.raises(UserError, match=sentence):
        explain(model, images, **arguments)


def test_images_that_do_not_fit_are_named(model, images):
    with pytest.raises(UserError, match=r"got one image \(16, 16, 3\)"):
        explain(model, images[0])
    with pytest.raises(UserError, match=r"takes images \(16, 16, 3\), got \(8, 16, 3\)"):
        explain(model, images[:, :8])
    with pytest.raises(UserError, match="images hold NaN"):
        explain(model, np.full_like(images, np.nan))
    with pytest.raises(UserError, match="numbers"):
        explain(model, images.astype(str))


def test_nan_in_a_map_is_named(images):
    network = build_model("resnet8", input_shape=SHAPE)
    head = network.get_layer("logits")
    head.set_weights([np.full_like(weight, 3e38) for weight in head.get_weights()])  # finite, but their sums are not
    for name in ("gradcam", "gradcam_gradient", "layercam", "occlusion"):
        with pytest.raises(UserError, match="map of image 1 holds NaN"):
            explain(network, images, 1, name)


def test_targets_by_label():
    labels = ("cat", "dog", "7")
    np.testing.assert_array_equal(resolve_targets(["dog", 0, "predicted", "7", None], 3, 5, labels), [1, 0, -1, 2, -1])
    with pytest.raises(UserError, match=r"Unknown class 'dgo'. Closest: 'dog'. Valid: cat, dog, 7\."):
        resolve_targets("dgo", 3, 1, labels)
    with pytest.raises(UserError, match="Unknown class"):
        resolve_targets([0.5], 3, 1, labels)
