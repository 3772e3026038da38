import dataclasses
import io
import json
import os
import subprocess
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

ai_edge_litert = pytest.importorskip("ai_edge_litert.interpreter")

from keras_resnet.artifact import load_artifact  # noqa: E402
from keras_resnet.data.transforms import normalize  # noqa: E402
from keras_resnet.errors import UserError  # noqa: E402
from keras_resnet.export.serving import explained_scores, serving_network  # noqa: E402
from keras_resnet.export.tflite import VARIANTS, convert  # noqa: E402
from keras_resnet.export.tflite_file import read_operators, share_head  # noqa: E402
from keras_resnet.export.tflite_metadata import add_metadata  # noqa: E402
from keras_resnet.models.resnet import build_model  # noqa: E402

# How far a probability may be from float32's: rounding; half-precision weights; 8-bit weights; 8 bits everywhere.
LARGEST_DIFFERENCE = {"float32": 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.15, "int16x8": 0.1}


@pytest.fixture(scope="module")
def network(model, preprocessing):
    return serving_network(model, preprocessing)


@pytest.fixture(scope="module")
def calibration(pixels):
    return pixels[0][:30].astype(np.float32)


@pytest.fixture(scope="module")
def int8(network, calibration, preprocessing):
    return add_metadata(
        convert(network, "int8", calibration=calibration), preprocessing, preprocessing.labels, name="colours"
    )


def interpreter_of(contents):
    interpreter = ai_edge_litert.Interpreter(model_content=contents)
    interpreter.allocate_tensors()
    return interpreter


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_answers_as_the_network(variant, network, model, preprocessing, pixels, calibration, tmp_path):
    contents = convert(network, variant, calibration=calibration)
    path = tmp_path / f"{variant}.tflite"
    path.write_bytes(add_metadata(contents, preprocessing, preprocessing.labels, name="colours"))
    images = pixels[0][:40].astype(np.float32)
    expected = tf.nn.softmax(model(normalize(images, preprocessing))).numpy()

    predictor = load_artifact(path)
    found = predictor.probabilities(images)

    assert predictor.preprocessing == preprocessing
    assert np.abs(found - expected).max() <= LARGEST_DIFFERENCE[variant]
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.97
    operators = read_operators(contents)
    assert not any(name.startswith("Flex") for name in operators)
    # Batch norms are in the convolutions, each strided shortcut is one more, the normalisation is one subtraction.
    assert operators["CONV_2D"] == 7 + 2
    assert operators["SUB"] == 1
    assert "MUL" not in operators


def test_the_app_feeds_pixels_as_they_are(int8):
    (inputs,) = interpreter_of(int8).get_input_details()
    assert inputs["dtype"] == np.uint8
    assert inputs["quantization"] == (1.0, 0)


@pytest.mark.parametrize(("io_type", "dtype"), [("int8", np.int8), ("float32", np.float32)])
def test_int8_speaks_other_types_by_choice(network, calibration, io_type, dtype):
    interpreter = interpreter_of(convert(network, "int8", calibration=calibration, io_type=io_type))
    details = interpreter.get_input_details() + interpreter.get_output_details()
    assert {entry["dtype"] for entry in details} == {dtype}


@pytest.mark.parametrize("batch", [4, None])
def test_batches_fixed_and_open(network, model, preprocessing, pixels, batch, tmp_path):
    contents = add_metadata(convert(network, "float32", batch=batch), preprocessing, preprocessing.labels, name="x")
    (inputs,) = interpreter_of(contents).get_input_details()
    assert inputs["shape_signature"][0] == (batch or -1)
    (tmp_path / "x.tflite").write_bytes(contents)
    images = pixels[0][:6].astype(np.float32)  # not a multiple of four
    expected = tf.nn.softmax(model(normalize(images, preprocessing))).numpy()
    np.testing.assert_allclose(load_artifact(tmp_path / "x.tflite").probabilities(images), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "options", "least"),
    [
        ("float32", {"heatmap": "input"}, 0.999),
        ("dynamic", {"heatmap": "input", "classes": "scaled row"}, 0.99),
        ("int8", {"heatmap": "input", "classes": "scaled row"}, 0.95),
        ("int16x8", {"heatmap": "top", "classes": "all"}, 0.95),
    ],
)
def test_the_heat_map_is_grad_cam_of_the_original(variant, options, least, model, preprocessing, pixels, calibration):
    network = serving_network(model, preprocessing, **options)
    serve = interpreter_of(convert(network, variant, calibration=calibration)).get_signature_runner("serving_default")
    images = pixels[0][:20]
    normalized = np.asarray(normalize(images, preprocessing))
    for target in (-1, 1) if options["heatmap"] == "input" else (-1,):
        chosen = {"target": np.array([target], np.int32)} if options["heatmap"] == "input" else {}
        reference = explained_scores(model)(normalized, np.full(len(images), target))[1].numpy()
        found = []
        for image, expected in zip(images, reference, strict=True):
            given = image[np.newaxis].astype(serve.get_input_details()["images"]["dtype"])
            own = serve(images=given, **chosen)["heatmap"][0].astype(np.float64)
            if expected.std() > 1e-6 * max(1.0, expected.max()) and own.std() > 0:
                found.append(np.corrcoef(own.ravel(), expected.ravel())[0, 1])
        assert len(found) >= 5
        assert np.mean(found) >= least


@pytest.mark.parametrize("variant", ["dynamic", "int8"])
def test_the_heat_map_reads_the_weights_of_the_head(variant, preprocessing, calibration):
    """Of 100 classes, whose weights are of very different size: stored once, and the map is in units of the logit."""
    wide = build_model("resnet8", num_classes=100, input_shape=(16, 16, 3))
    head = wide.layers[-1]
    sizes = np.geomspace(0.2, 2.0, 100, dtype=np.float32)
    head.kernel.assign(np.asarray(head.kernel) * sizes)
    images = calibration[:10].astype(np.uint8)
    preprocessing = dataclasses.replace(preprocessing, labels=())  # the colours' names are three
    contents = {}
    for classes in ("row", "scaled row"):
        network = serving_network(wide, preprocessing, heatmap="input", classes=classes)
        # Often enough that calibration asks for most classes.
        images = np.tile(calibration, (5, 1, 1, 1))
        contents[classes] = convert(network, variant, calibration=images, io_type="float32")
    serve = interpreter_of(contents["scaled row"]).get_signature_runner("serving_default")
    images = np.repeat(calibration[:10], 12, axis=0)
    targets = np.tile(np.arange(0, 100, 9, dtype=np.int32), 10)
    expected = network({"images": images, "target": targets})["heatmap"].numpy()

    found = [
        serve(images=image[np.newaxis], target=np.array([target]))["heatmap"][0]
        for image, target in zip(images, targets, strict=True)
    ]

    # A table of 64 bytes a class less; the scales and operators that come in its place take some back.
    assert len(contents["scaled row"]) < len(contents["row"]) - 64 * 100 / 2
    assert share_head(contents["scaled row"]) == contents["scaled row"]
    # Eight bits for the largest map of any class, in features, weights and result.
    np.testing.assert_allclose(found, expected, atol=0.05 * expected.max())


def test_mixed_precision_runs_on_builtin_operators(preprocessing):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        mixed = build_model("resnet8", num_classes=3, input_shape=(16, 16, 3))
    finally:
        keras.config.set_dtype_policy(before)
    interpreter = interpreter_of(convert(serving_network(mixed, preprocessing), "float32"))
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ones((1, 16, 16, 3), np.float32))
    interpreter.invoke()
    assert np.isfinite(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])).all()


def test_an_operator_that_needs_flex_is_named(preprocessing):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    x = keras.ops.erfinv(x)
    network = serving_network(keras.Model(inputs, keras.layers.Dense(3)(x)), preprocessing)
    with pytest.raises(UserError, match=r"no builtin operator for .*[Ee]rfinv"):
        convert(network, "float32")


def test_labels_and_preprocessing_lie_where_android_looks(int8, preprocessing):
    with zipfile.ZipFile(io.BytesIO(int8)) as archive:
        assert archive.read("labels.txt").decode().split() == list(preprocessing.labels)
        assert json.loads(archive.read("preprocessing.json")) == preprocessing.to_dict()
        # Android maps the files in place.
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_metadata_changes_nothing_that_runs(network, preprocessing, pixels):
    plain = convert(network, "float32")
    described = add_metadata(plain, preprocessing, preprocessing.labels, name="colours")
    answers = []
    for contents in (plain, described):
        interpreter = interpreter_of(contents)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[0][:1].astype(np.float32))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).copy())
    np.testing.assert_array_equal(*answers)


def test_broken_files_are_refused(tmp_path, preprocessing, int8):
    with pytest.raises(UserError, match="TFL3"):
        read_operators(b"")
    for name, contents in (("empty", b""), ("cut", int8[: len(int8) // 3]), ("noise", os.urandom(2000))):
        (tmp_path / f"{name}.tflite").write_bytes(contents)
        with pytest.raises(UserError, match="not a complete"):  # and not that its preprocessing is missing
            load_artifact(tmp_path / f"{name}.tflite")
        (tmp_path / f"{name}.preprocessing.json").write_text(json.dumps(preprocessing.to_dict()))
        with pytest.raises(UserError, match=name):
            load_artifact(tmp_path / f"{name}.tflite")


def test_a_file_of_something_else_is_refused(tmp_path, preprocessing):
    numbers = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    (tmp_path / "numbers.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(numbers).convert())
    with pytest.raises(UserError, match="takes no images"):
        load_artifact(tmp_path / "numbers.tflite")


def test_the_other_quantizer(network, preprocessing, pixels, model, calibration, tmp_path):
    pytest.importorskip("litert_quantizer")
    images = pixels[0][:40].astype(np.float32)
    expected = tf.nn.softmax(model(normalize(images, preprocessing))).numpy()
    for variant in ("dynamic", "int8"):
        contents = convert(network, variant, calibration=calibration, quantizer="litert", io_type="int8")
        (tmp_path / "x.tflite").write_bytes(add_metadata(contents, preprocessing, preprocessing.labels, name="x"))
        found = load_artifact(tmp_path / "x.tflite").probabilities(images)
        assert np.abs(found - expected).max() <= LARGEST_DIFFERENCE[variant]
    with pytest.raises(UserError, match="int8 input and output only"):
        convert(network, "int8", calibration=calibration, quantizer="litert")


def test_wrong_options_are_refused(network):
    with pytest.raises(UserError, match="Unknown TFLite variant"):
        convert(network, "int9")
    with pytest.raises(UserError, match="calibration images"):
        convert(network, "int8")
    with pytest.raises(UserError, match="at least 1"):
        convert(network, "float32", batch=0)


@pytest.mark.slow
def test_mediapipe_reads_the_same_labels(int8, pixels, model, preprocessing, tmp_path):
    python = os.environ.get("MEDIAPIPE_PYTHON")
    if not python:
        pytest.skip("set MEDIAPIPE_PYTHON to the Python of an environment with mediapipe to run this")
    (tmp_path / "colours.tflite").write_bytes(int8)
    for number, image in enumerate(pixels[0][:6]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    program = """
import sys
import mediapipe as mp
from mediapipe.tasks import python
from mediapipe.tasks.python import vision
folder = sys.argv[1]
options = vision.ImageClassifierOptions(python.BaseOptions(model_asset_path=folder + "/colours.tflite"), max_results=1)
with vision.ImageClassifier.create_from_options(options) as classifier:
    for number in range(6):
        found = classifier.classify(mp.Image.create_from_file(f"{folder}/{number}.png"))
        print("label", found.classifications[0].categories[0].category_name)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, "-c", program, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = model(normalize(pixels[0][:6], preprocessing)).numpy().argmax(axis=1)
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("label ")] == [
        preprocessing.labels[index] for index in expected
    ]
