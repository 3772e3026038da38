import dataclasses
import io
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from keras_resnet.artifact import load_artifact
from keras_resnet.data.decoding import decode_image
from keras_resnet.data.transforms import normalize, preprocess
from keras_resnet.errors import UserError
from keras_resnet.export import saved_model
from keras_resnet.export.saved_model import export_saved_model, write_saved_model
from keras_resnet.export.serving import explained_scores


@pytest.fixture(scope="module", params=["constants", "variables"])
def folder(request, model, preprocessing, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "variables":
            patch.setattr(saved_model, "CONSTANT_BYTES", 0)
        folder = export_saved_model(model, preprocessing, tmp_path_factory.mktemp("served") / "colours")
    weights = sum(weight.numpy().nbytes for weight in model.trainable_weights)
    beside = sum(path.stat().st_size for path in (folder / "variables").iterdir())
    assert (beside > 0.9 * weights) == (request.param == "variables")
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return tf.saved_model.load(str(folder))


@pytest.fixture(scope="module")
def files(pixels):
    """Three files of different sizes and kinds."""
    contents = []
    for number, (kind, size) in enumerate((("PNG", (16, 16)), ("JPEG", (40, 31)), ("PNG", (9, 25)))):
        stream = io.BytesIO()
        Image.fromarray(pixels[0][number]).resize(size).save(stream, kind)
        contents.append(stream.getvalue())
    return contents


def expected_probabilities(model, preprocessing, images):
    return tf.nn.softmax(model(normalize(images, preprocessing), training=False)).numpy()


# Float32 on both sides, with weights folded on one: 1e-4 is the format's limit, and measured it is below 1e-5.
SAME = {"rtol": 0, "atol": 1e-4}


def test_every_signature_answers_as_the_network(model, preprocessing, pixels, loaded, files):
    images = pixels[0][:7]
    expected = expected_probabilities(model, preprocessing, images)
    answer = loaded.signatures["serving_default"](images=tf.constant(images, tf.float32))
    np.testing.assert_allclose(answer["probabilities"], expected, **SAME)
    best = np.argsort(-expected, axis=1)
    np.testing.assert_allclose(answer["scores"], np.take_along_axis(expected, best, axis=1), **SAME)
    names = np.array(preprocessing.labels, dtype=object)[best]
    assert [[label.decode() for label in row] for row in answer["labels"].numpy()] == names.tolist()
    np.testing.assert_allclose(
        loaded.signatures["serve_uint8"](images=tf.constant(images))["probabilities"], expected, **SAME
    )
    prepared = np.stack([preprocess(decode_image(tf.constant(file), 3), preprocessing) for file in files])
    expected = tf.nn.softmax(model(prepared)).numpy()
    answer = loaded.signatures["serve_bytes"](images=tf.constant(files))
    np.testing.assert_allclose(answer["probabilities"], expected, **SAME)


def test_fewer_than_five_classes_without_names(model, preprocessing, pixels, tmp_path):
    path = export_saved_model(model, dataclasses.replace(preprocessing, labels=()), tmp_path / "numbers")
    answer = tf.saved_model.load(str(path)).signatures["serving_default"](images=tf.constant(pixels[0][:2], tf.float32))
    best = np.argsort(-answer["probabilities"].numpy(), axis=1)
    assert [[int(label) for label in row] for row in answer["labels"].numpy()] == best.tolist()


def test_uint8_of_any_size_is_resized_as_in_training(model, preprocessing, loaded):
    images = np.random.default_rng(0).integers(0, 256, (2, 50, 33, 3), np.uint8)
    expected = tf.nn.softmax(model(preprocess(images, preprocessing))).numpy()
    answer = loaded.signatures["serve_uint8"](images=tf.constant(images))
    np.testing.assert_allclose(answer["probabilities"], expected, **SAME)


def test_the_heat_map_is_grad_cam_of_the_class_asked_for(model, preprocessing, loaded, files):
    prepared = np.stack([preprocess(decode_image(tf.constant(file), 3), preprocessing) for file in files])
    shown = loaded.signatures["explain_bytes"](images=tf.constant(files))["heatmap"].numpy()
    for own, reference in zip(shown, explained_scores(model)(prepared)[1].numpy(), strict=True):
        assert np.corrcoef(own.ravel(), reference.ravel())[0, 1] > 0.999
    other = loaded.signatures["explain_class_bytes"](images=tf.constant(files), target=tf.constant([2, 2, 2]))
    reference = explained_scores(model)(prepared, np.array([2, 2, 2]))[1].numpy()
    # Grad-CAM averages the gradient over positions: its map is the summands divided by their number.
    np.testing.assert_allclose(other["heatmap"], reference * reference[0].size, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 15, 16, 3), (2, 16, 16, 1), (1, 3, 16, 16)])
def test_a_wrong_shape_raises_instead_of_answering(loaded, shape):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"batch, 16, 16, 3"):
        loaded.signatures["serving_default"](images=tf.zeros(shape))


def test_wrong_channels_targets_and_files_raise(loaded, files):
    with pytest.raises(tf.errors.InvalidArgumentError, match="any height"):
        loaded.signatures["serve_uint8"](images=tf.zeros((1, 20, 20, 4), tf.uint8))
    for target in ([0], [0, 1, 3]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="one class per file"):
            loaded.signatures["explain_class_bytes"](images=tf.constant(files), target=tf.constant(target))
    with pytest.raises(tf.errors.InvalidArgumentError):
        loaded.signatures["serve_bytes"](images=tf.constant([b"no image"]))


def test_runs_with_tensorflow_alone(folder, pixels, loaded):
    program = (
        "import sys; sys.modules['keras'] = None\n"
        "import tensorflow as tf\n"
        f"loaded = tf.saved_model.load({str(folder)!r})\n"
        "print(sorted(loaded.signatures), loaded.signatures['serving_default'](images=tf.zeros([2, 16, 16, 3])).keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for name in ("serving_default", "serve_uint8", "serve_bytes", "explain_bytes", "probabilities", "scores"):
        assert name in done.stdout


def test_weights_are_stored_once(model, folder):
    weights = 4 * model.count_params()
    stored = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    # What the graph itself takes: five signatures and the decoding of five image formats, whatever the network.
    assert stored < weights + 400_000


@pytest.mark.parametrize("constant_bytes", [0, saved_model.CONSTANT_BYTES])
def test_bfloat16_computes_every_convolution_so_and_halves_the_weights(
    constant_bytes, model, preprocessing, pixels, files, tmp_path, monkeypatch
):
    monkeypatch.setattr(saved_model, "CONSTANT_BYTES", constant_bytes)
    sizes = {}
    for precision in ("float32", "bfloat16"):
        path = tmp_path / precision / "1"
        write_saved_model(model, preprocessing, path, with_heatmap=True, precision=precision)
        sizes[precision] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    weights = 4 * model.count_params()
    assert sizes["float32"] - sizes["bfloat16"] > 0.4 * weights

    served = saved_model_pb2.SavedModel.FromString((tmp_path / "bfloat16" / "1" / "saved_model.pb").read_bytes())
    functions = served.meta_graphs[0].graph_def.library.function
    types = [node.attr["T"].type for f in functions for node in f.node_def if node.op == "Conv2D"]
    # Each strided shortcut is a convolution, too.
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    shortcuts = [layer for layer in model.layers if layer.name.endswith("_shortcut_pool")]
    assert types == [tf.bfloat16.as_datatype_enum] * (len(convolutions) + len(shortcuts))

    loaded = tf.saved_model.load(str(tmp_path / "bfloat16" / "1"))
    answer = loaded.signatures["serving_default"](images=tf.constant(pixels[0], tf.float32))
    expected = expected_probabilities(model, preprocessing, pixels[0])
    assert answer["probabilities"].dtype == answer["heatmap"].dtype == tf.float32
    # Feature maps of 8 significant bits move probabilities by hundredths.
    np.testing.assert_allclose(answer["probabilities"], expected, atol=0.05)
    assert (np.argmax(answer["probabilities"], axis=1) == expected.argmax(axis=1)).mean() >= 0.99
    shown = loaded.signatures["explain_bytes"](images=tf.constant(files))["heatmap"].numpy()
    prepared = np.stack([preprocess(decode_image(tf.constant(file), 3), preprocessing) for file in files])
    for own, reference in zip(shown, explained_scores(model)(prepared)[1].numpy(), strict=True):
        assert np.corrcoef(own.ravel(), reference.ravel())[0, 1] > 0.99
    images = pixels[0].astype(np.float32)
    found = load_artifact(tmp_path / "bfloat16").probabilities(images)
    np.testing.assert_allclose(found, answer["probabilities"], atol=1e-6)  # the same file, loaded once more


def test_an_unknown_precision_is_refused(model, preprocessing, tmp_path):
    with pytest.raises(UserError, match="Closest: 'bfloat16'"):
        write_saved_model(model, preprocessing, tmp_path / "1", precision="bfloat")


def test_the_recorded_preprocessing_must_not_be_contradicted(folder, tmp_path, preprocessing):
    import dataclasses
    import shutil

    from keras_resnet.storage import write_json

    copy = tmp_path / "colours"
    shutil.copytree(folder.parent, copy)
    write_json(copy / "preprocessing.json", dataclasses.replace(preprocessing, mean=(0.1, 0.1, 0.1)).to_dict())
    with pytest.raises(UserError, match=r"another preprocessing.*mean"):
        load_artifact(copy)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_raise_instead_of_being_rectified_away(loaded, value):
    images = np.full((2, 16, 16, 3), 100, np.float32)
    images[1, 3, 4, 2] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match="finite pixels"):
        loaded.signatures["serving_default"](images=tf.constant(images))


def test_an_animated_webp_is_refused_by_the_served_graph(folder, tmp_path):
    """In a process of its own: TensorFlow's decoder wrote past its buffer."""
    random = np.random.default_rng(0)
    frames = [Image.fromarray(random.integers(0, 256, (20, 20, 3), np.uint8)) for _ in range(5)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    program = (
        "import sys, tensorflow as tf\n"
        "serve = (loaded := tf.saved_model.load(sys.argv[1])).signatures['serve_bytes']\n"
        "for _ in range(20):\n"
        "    try:\n        serve(images=tf.constant([open(sys.argv[2], 'rb').read()]))\n"
        "    except tf.errors.InvalidArgumentError as error:\n        assert 'animated' in str(error)\n"
        "print('refused')"
    )
    arguments = [sys.executable, "-c", program, str(folder), str(tmp_path / "a.webp")]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr[-1000:]
