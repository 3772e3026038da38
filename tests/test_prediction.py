import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnet.artifact import artifact_of, load_artifact
from keras_resnet.data.feeding import file_reader
from keras_resnet.data.images import read_image
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import normalize, preprocess, resize_image
from keras_resnet.errors import UserError
from keras_resnet.export.saved_model import export_saved_model
from keras_resnet.export.serving import serving_network
from keras_resnet.export.tflite import convert
from keras_resnet.export.tflite_metadata import add_metadata
from keras_resnet.models.resnet import build_model
from keras_resnet.prediction import BatchSize, predict_images
from keras_resnet.storage import save_model


@pytest.fixture(scope="module")
def preprocessing():
    return Preprocessing(
        6, 8, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), color_order="bgr", labels=("red", "green", "blue", "none")
    )


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)]
    return keras.Sequential([keras.Input((6, 8, 3)), *layers])


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    for name, size in (("a.png", (12, 9, 3)), ("b.jpg", (6, 8, 3)), ("c.bmp", (40, 50, 3))):
        Image.fromarray(random.integers(0, 256, size, np.uint8)).save(tmp_path / name)
    return sorted(tmp_path.iterdir())


def test_a_predictor_normalizes_and_returns_probabilities(model, preprocessing):
    images = np.random.default_rng(1).uniform(0, 255, (3, 6, 8, 3)).astype("float32")
    probabilities = artifact_of(model, preprocessing).probabilities(images)
    expected = keras.ops.softmax(model(normalize(images, preprocessing)))
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5, atol=1e-6)  # float32, compiled and eager
    assert probabilities.dtype == np.float32


def test_pixels_are_resized_and_nothing_else(model, preprocessing):
    images = np.random.default_rng(2).integers(0, 256, (2, 6, 8, 3), np.uint8)
    np.testing.assert_array_equal(preprocess(images, artifact_of(model, preprocessing).pixels), images)


def test_predictions_keep_order_across_batches_and_errors(model, preprocessing, files, tmp_path):
    predictor = artifact_of(model, preprocessing)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    paths = [files[2], tmp_path / "broken.jpg", files[0], tmp_path / "absent.png", files[1]]
    predictions = list(predict_images(predictor, paths, top=9, batch_size=2))
    assert [prediction.file for prediction in predictions] == [str(path) for path in paths]
    assert [prediction.error is None for prediction in predictions] == [True, False, True, False, True]
    assert "broken.jpg" in predictions[1].error
    for prediction in predictions:
        if prediction.error is None:
            chances = [probability for _, probability in prediction.classes]
            assert len(chances) == 4
            assert chances == sorted(chances, reverse=True)
            image = preprocess(read_image(prediction.file, 3), preprocessing)
            expected = np.asarray(keras.ops.softmax(model(image[np.newaxis])))[0]
            assert prediction.classes[0][0] == preprocessing.labels[expected.argmax()]
            assert chances[0] == pytest.approx(expected.max(), rel=1e-4)


def test_folders_stand_for_their_images(model, preprocessing, files, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    predictor = artifact_of(model, preprocessing)
    predictions = list(predict_images(predictor, [tmp_path, tmp_path / "empty"]))
    assert [prediction.file for prediction in predictions[:-1]] == [str(file) for file in files]
    assert "holds no images" in predictions[-1].error


def test_every_artifact_answers_alike(model, preprocessing, tmp_path):
    save_model(model, tmp_path / "m.keras", preprocessing)
    saved = export_saved_model(model, preprocessing, tmp_path / "served")
    images = np.random.default_rng(3).uniform(0, 255, (5, 6, 8, 3)).astype("float32")
    expected = artifact_of(model, preprocessing).probabilities(images)
    for artifact in (tmp_path / "m.keras", saved, tmp_path / "served"):
        predictor = load_artifact(artifact)
        assert predictor.labels == preprocessing.labels
        np.testing.assert_allclose(predictor.probabilities(images), expected, rtol=1e-4, atol=1e-6)


def test_a_tflite_file_answers_alike(model, preprocessing, tmp_path):
    pytest.importorskip("ai_edge_litert")
    export_saved_model(model, preprocessing, tmp_path / "served")
    (tmp_path / "served" / "m.tflite").write_bytes(convert(serving_network(model, preprocessing), "float32"))
    images = np.random.default_rng(4).uniform(0, 255, (3, 6, 8, 3)).astype("float32")
    predictor = load_artifact(tmp_path / "served" / "m.tflite")
    expected = artifact_of(model, preprocessing).probabilities(images)
    np.testing.assert_allclose(predictor.probabilities(images), expected, rtol=1e-4, atol=1e-5)


def test_what_is_no_model_is_refused(model, preprocessing, tmp_path, files):
    save_model(model, tmp_path / "plain.keras")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "rubbish.tflite").write_bytes(b"rubbish")
    (tmp_path / "served" / "bfloat16" / "1").mkdir(parents=True)
    (tmp_path / "served" / "bfloat16" / "1" / "saved_model.pb").touch()
    (tmp_path / "served" / "int8.tflite").touch()
    (tmp_path / "served" / "labels.txt").touch()
    for path, message in (
        ("absent", "There is no model at"),
        ("plain.keras", "has no preprocessing"),
        ("run", "has no model yet"),
        ("folder", "is not a model"),
        ("served", r"Name one that it holds: bfloat16, int8.tflite\.$"),
        (files[0].name, "is not a model"),
        ("rubbish.tflite", "not a complete .tflite file"),
    ):
        with pytest.raises(UserError, match=message):
            load_artifact(tmp_path / path)
    with pytest.raises(UserError, match="at least 1"):
        list(predict_images(artifact_of(model, preprocessing), files, top=0))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probabilities_are_not_squashed_twice(model, preprocessing, tmp_path, files, activation):
    ended = keras.Sequential([*model.layers, keras.layers.Dropout(0.5), keras.layers.Activation(activation)])
    ended.build((None, 6, 8, 3))
    save_model(ended, tmp_path / "m.keras", preprocessing)
    images = np.random.default_rng(1).uniform(0, 255, (3, 6, 8, 3)).astype("float32")
    expected = ended(normalize(images, preprocessing))
    np.testing.assert_allclose(
        load_artifact(tmp_path / "m.keras").probabilities(images), expected, rtol=1e-5, atol=1e-6
    )


def test_the_default_network_of_applications_answers_as_keras_does(tmp_path):
    from keras_resnet.applications import ResNet18

    network = ResNet18(weights=None, classes=3, input_shape=(32, 32, 3))
    settings = Preprocessing(32, 32, 3, (0.5,) * 3, (0.2,) * 3)
    save_model(network, tmp_path / "m.keras", settings)
    images = np.random.default_rng(1).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    expected = network(normalize(images, settings))
    np.testing.assert_allclose(
        load_artifact(tmp_path / "m.keras").probabilities(images), expected, rtol=1e-4, atol=1e-5
    )


def test_damaged_weights_and_other_outputs_are_one_sentence(preprocessing, tmp_path):
    image = keras.Input((6, 8, 3))
    maps = keras.layers.Conv2D(4, 3)(image)
    scores = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(maps))
    lost = keras.Model(image, scores)
    lost.layers[1].set_weights([np.full_like(weight, np.nan) for weight in lost.layers[1].get_weights()])
    scalar = keras.ops.sum(scores, axis=1)
    for network, message in (
        (lost, "holds NaN or infinity"),
        (keras.Model(image, maps), "no classification head"),
        (keras.Model(image, scalar), "no classification head"),
        (keras.Model(image, [scores, maps]), "2 outputs"),
    ):
        with pytest.raises(UserError, match=message):
            artifact_of(network, preprocessing)


def test_an_answer_that_is_not_a_number_is_refused(model, preprocessing):
    predictor = artifact_of(model, preprocessing)
    with pytest.raises(UserError, match="answers NaN"):
        predictor.probabilities(np.full((1, 6, 8, 3), np.nan, np.float32))


def test_unfinished_and_hidden_models_are_never_offered(tmp_path, model, preprocessing):
    save_model(model, tmp_path / ".0a1b2c-1-01234567.tmp-m.keras", preprocessing)
    save_model(model, tmp_path / "good.keras", preprocessing)
    with pytest.raises(UserError, match=r"Name one that it holds: good\.keras\.$"):
        load_artifact(tmp_path)


def test_folding_changes_nothing_but_speed(preprocessing):
    """Tolerance: sums in another order in float32, through nine convolutions."""
    keras.utils.set_random_seed(0)
    network = build_model("resnet8", num_classes=4, input_shape=(6, 8, 3))
    random = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    artifact = artifact_of(network, preprocessing)
    folded = artifact.folded()
    assert folded.model is network
    images = random.uniform(0, 255, (3, 6, 8, 3)).astype("float32")
    before = artifact.probabilities(images)
    np.testing.assert_allclose(folded.probabilities(images), before, atol=1e-5)
    network.layers[1].set_weights([np.zeros_like(weight) for weight in network.layers[1].get_weights()])
    assert np.abs(artifact.probabilities(images) - before).max() > 1e-3
    np.testing.assert_allclose(folded.probabilities(images), before, atol=1e-5)  # a copy


def test_many_images_are_answered_as_each_alone(model, preprocessing, files):
    predictor = artifact_of(model, preprocessing)
    alone = [prediction.classes for file in files for prediction in predict_images(predictor, [file], top=4)]
    many = [prediction.classes for prediction in predict_images(predictor, files * 100, top=4)]
    for number, found in enumerate(many):
        expected = dict(alone[number % len(files)])
        assert dict(found) == pytest.approx(expected, abs=1e-5)


def test_the_batch_grows_as_long_as_that_gains():
    """Seconds of a machine that needs 10 ms a call and 1 ms an image, and from 32 images on 3 ms an image."""
    size = BatchSize(first=8, largest=128)
    sizes = []
    for _ in range(12):
        sizes.append(size.count)
        size.record(size.count, 0.01 + size.count * (0.001 if size.count < 64 else 0.003))
    assert sizes == [8, 8, 16, 16, 32, 32, 64, 64, 32, 32, 32, 32]
    fixed = BatchSize(5, is_fixed=True)
    fixed.record(5, 1.0)
    fixed.record(5, 1e-6)
    assert fixed.count == 5


@pytest.mark.parametrize("name", ["plain.jpg", "turned.jpg", "image.png", "image.tiff"])
def test_a_file_is_read_alike_by_either_decoder(tmp_path, preprocessing, name):
    pixels = np.random.default_rng(5).integers(0, 256, (40, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / name, **({"exif": exif} if name == "turned.jpg" else {}))
    contents = (tmp_path / name).read_bytes()
    by_pillow = np.asarray(resize_image(read_image(tmp_path / name, 3), preprocessing))
    np.testing.assert_array_equal(file_reader(preprocessing)(contents, name), by_pillow)
    with pytest.raises(UserError, match="of mine is not"):
        file_reader(preprocessing)(contents[:60], "this of mine")


def test_a_tflite_file_needs_no_tensorflow(model, preprocessing, files, tmp_path):
    """Nor Keras: a process of its own, as predict.py starts."""
    path = tmp_path / "m.tflite"
    network = convert(serving_network(model, preprocessing), "float32")
    path.write_bytes(add_metadata(network, preprocessing, preprocessing.labels, name="m"))
    code = (
        "import sys; from keras_resnet.cli.predict import main; assert main(sys.argv[1:]) == 0; "
        "assert not {'tensorflow', 'keras', 'jax'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(path), str(files[0])]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert answer.returncode == 0, answer.stderr
    (expected,) = predict_images(artifact_of(model, preprocessing), [files[0]])
    assert expected.classes[0][0] in answer.stdout
