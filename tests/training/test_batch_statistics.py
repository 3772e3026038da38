import keras
import numpy as np

from keras_resnet.models.resnet import build_model
from keras_resnet.training.batch_statistics import BatchStatistics
from keras_resnet.training.fused_normalization import training_twin


def test_statistics_are_those_of_all_images():
    rng = np.random.default_rng(0)
    model = training_twin(build_model("resnet8", num_classes=3, input_shape=(8, 8, 1), drop_rate=0.5))
    batches = [(rng.normal(size=(16, 8, 8, 1)).astype("float32"), None) for _ in range(4)]
    BatchStatistics(model).measure(batches)
    stem = keras.Model(model.inputs, model.get_layer("stem_conv").output)
    features = stem.predict(np.concatenate([images for images, _ in batches]), verbose=0)
    norm = model.get_layer("stem_norm")
    # Of float32 numbers of size 1.
    np.testing.assert_allclose(norm.moving_mean, features.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, features.var((0, 1, 2)), rtol=1e-4)


def test_one_batch_gives_what_training_would_see():
    """With the statistics of a single batch, evaluation of it equals the network in training mode, dropout aside."""
    images = np.random.default_rng(1).normal(size=(32, 8, 8, 1)).astype("float32")
    model = training_twin(build_model("resnet8", num_classes=3, input_shape=(8, 8, 1)))
    expected = np.asarray(model(images, training=True))
    BatchStatistics(model).measure([(images, None)])
    np.testing.assert_allclose(np.asarray(model(images, training=False)), expected, atol=1e-4)  # float32, 9 norms deep


def test_frozen_statistics_stay():
    images = np.random.default_rng(1).normal(size=(32, 8, 8, 1)).astype("float32")
    model = training_twin(build_model("resnet8", num_classes=3, input_shape=(8, 8, 1)))
    model.get_layer("stem_norm").trainable = False
    before = [np.asarray(w) for w in model.get_layer("stem_norm").weights]
    BatchStatistics(model).measure([(images, None)])
    for old, new in zip(before, model.get_layer("stem_norm").weights, strict=True):
        np.testing.assert_array_equal(np.asarray(new), old)
    assert np.abs(np.asarray(model.get_layer("stage3_block1_norm1").moving_mean)).max() > 0
