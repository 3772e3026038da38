"""One loader for every format, one meaning of probabilities, labels and heat maps."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet.artifact import artifact_of, load_artifact, load_network
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.export import export
from keras_resnet.export.formats import ExportSettings
from keras_resnet.models.resnet import build_model
from keras_resnet.prediction import predict_images

FORMATS = ("saved_model", "float32", "onnx", "openvino")


@pytest.fixture(scope="module")
def preprocessing():
    return Preprocessing(
        16, 16, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), color_order="bgr", labels=("red", "green", "blue")
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network(preprocessing):
    keras.utils.set_random_seed(0)
    return build_model("resnet8", num_classes=3, input_shape=(16, 16, 3))


@pytest.fixture(scope="module")
def exported(network, preprocessing, images, tmp_path_factory, untimed_module):
    folder = tmp_path_factory.mktemp("exported") / "colours"
    settings = ExportSettings(heatmap="top")
    export(artifact_of(network, preprocessing), folder, formats=FORMATS, parity=(images, None), settings=settings)
    return folder


@pytest.mark.parametrize("name", ["", "1", "float32.tflite", "model.onnx", "openvino/model.xml", "model.keras"])
def test_every_format_answers_as_the_network(exported, network, preprocessing, images, name):
    expected = artifact_of(network, preprocessing).probabilities(images)
    artifact = load_artifact(exported / name)
    assert (artifact.labels, artifact.preprocessing) == (preprocessing.labels, preprocessing)
    found = artifact.probabilities(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)  # the limit of exact formats
    maps = artifact.heatmaps(images)
    if artifact.model is None:
        assert maps.shape == (5, 4, 4)
        np.testing.assert_allclose(maps, load_artifact(exported / "1").heatmaps(images), rtol=1e-3, atol=1e-4)
    else:
        assert maps is None
        assert artifact.head == "linear"


def test_bytes_are_predicted_like_files(exported, tmp_path):
    from PIL import Image

    Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    artifact = load_artifact(exported / "float32.tflite")
    contents = (tmp_path / "a.png").read_bytes()
    by_file, by_bytes, broken = predict_images(artifact, [tmp_path / "a.png", contents, contents[:50]])
    assert (by_bytes.file, by_bytes.classes) == ("image 2", by_file.classes)
    assert broken.error.startswith("image 3 is not")


def test_layers_are_asked_for_where_there_are_any(exported):
    assert load_network(exported).model is not None
    for name, message in (("float32.tflite", r"is not a \.keras file"), ("1", "is not a run directory")):
        with pytest.raises(UserError, match=message):
            load_network(exported / name)


@pytest.mark.parametrize("name", ["float32.tflite", "model.onnx", "openvino/model.xml"])
def test_damaged_files_are_one_sentence(exported, tmp_path, name):
    source = exported / name
    damaged = tmp_path / source.name
    damaged.write_bytes(source.read_bytes()[:100])
    (tmp_path / "preprocessing.json").write_bytes((exported / "preprocessing.json").read_bytes())
    with pytest.raises(UserError, match=f"{source.name} is not a complete"):
        load_artifact(damaged)


def test_an_exported_file_needs_neither_tensorflow_nor_keras(exported):
    program = (
        "import sys, numpy as np\n"
        "from keras_resnet.artifact import load_artifact\n"
        "artifact = load_artifact(sys.argv[1])\n"
        "assert artifact.probabilities(np.zeros((2, 16, 16, 3), np.float32)).shape == (2, 3)\n"
        "loaded = {'tensorflow', 'keras'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", program, exported / "float32.tflite"], cwd=root, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-1500:]
