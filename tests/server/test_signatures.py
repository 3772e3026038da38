"""The REST form of requests, and answers equal to those of the SavedModel's own signatures."""

import base64
import json

import numpy as np
import pytest

pytest.importorskip("fastapi")

from keras_resnet.errors import UserError
from keras_resnet.server.backends import Backend, choose_backend
from keras_resnet.server.layout import ServableFile, versions_at
from keras_resnet.server.signatures import read_predict, write_predict

LIMITS = {"max_images": 8, "max_pixels": 10_000}


@pytest.fixture(scope="module", params=["saved_model", "float32"])
def backend(request, flowers):
    (file,) = [file for file in versions_at(flowers)[1].files if file.format == request.param]
    return Backend(file)


@pytest.fixture(scope="module")
def signatures(flowers):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(flowers / "1"))
    return lambda name, **inputs: (
        {key: value.numpy() for key, value in loaded.signatures[name](**inputs).items()} | {"keep": loaded}
    )


def ask(backend, body):
    asked = read_predict(json.dumps(body).encode(), backend, **LIMITS)
    return write_predict(backend.answer(asked.questions), asked, backend.labels)


def b64(contents):
    return {"b64": base64.b64encode(contents).decode()}


def assert_same(found, expected, *, heatmap):
    # Resizing by Pillow and by TensorFlow differs by some thousandths of a pixel's value.
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], atol=2e-4)
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=2e-4)
    assert found["labels"] == [[label.decode() for label in row] for row in expected["labels"]]
    assert ("heatmap" in found) == heatmap


def correlation(one, other):
    return np.corrcoef(np.ravel(one), np.ravel(other))[0, 1]


def test_pixels_at_the_networks_size(backend, signatures):
    import tensorflow as tf

    images = np.random.default_rng(0).uniform(0, 255, (3, 16, 20, 3)).astype(np.float32)
    expected = signatures("serving_default", images=tf.constant(images))
    heatmap = backend.answers_heatmap
    for name in ({}, {"signature_name": "serving_default"}, {"signature_name": ""}):
        assert_same(ask(backend, {**name, "inputs": images.tolist()})["outputs"], expected, heatmap=heatmap)
    assert_same(ask(backend, {"inputs": {"images": images.tolist()}})["outputs"], expected, heatmap=heatmap)
    rows = ask(backend, {"instances": images.tolist()})["predictions"]
    assert rows == ask(backend, {"instances": [{"images": image} for image in images.tolist()]})["predictions"]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    assert_same(columns, expected, heatmap=heatmap)


def test_bytes_of_pixels_of_any_size(backend, signatures):
    import tensorflow as tf

    images = np.random.default_rng(0).integers(0, 256, (2, 33, 27, 3))
    expected = signatures("serve_uint8", images=tf.constant(images, tf.uint8))
    found = ask(backend, {"signature_name": "serve_uint8", "inputs": images.tolist()})["outputs"]
    assert_same(found, expected, heatmap=backend.answers_heatmap)


def test_files_and_their_heat_maps(backend, signatures, pictures):
    import tensorflow as tf

    files = tf.constant(pictures[:3])
    body = {"inputs": [b64(picture) for picture in pictures[:3]]}
    found = ask(backend, {"signature_name": "serve_bytes", **body})["outputs"]
    assert_same(found, signatures("serve_bytes", images=files), heatmap=backend.answers_heatmap)
    expected = signatures("explain_bytes", images=files)
    found = ask(backend, {"signature_name": "explain_bytes", **body})["outputs"]
    assert_same(found, expected, heatmap=True)
    # The SavedModel draws from pixels that were rounded to 8 bits.
    assert correlation(found["heatmap"], expected["heatmap"]) > 0.9999
    target = [3, -1, 1]
    expected = signatures("explain_class_bytes", images=files, target=tf.constant(target))
    inputs = {"images": body["inputs"], "target": target}
    found = ask(backend, {"signature_name": "explain_class_bytes", "inputs": inputs})["outputs"]
    assert_same(found, expected, heatmap=True)
    assert correlation(found["heatmap"], expected["heatmap"]) > 0.9999
    rows = [{"images": image, "target": number} for image, number in zip(body["inputs"], target, strict=True)]
    again = ask(backend, {"signature_name": "explain_class_bytes", "instances": rows})["predictions"]
    assert [row["heatmap"] for row in again] == found["heatmap"]


def test_base64_may_have_line_ends_and_lack_its_padding(backend, pictures):
    text = base64.encodebytes(pictures[0]).decode()
    whole = ask(backend, {"signature_name": "serve_bytes", "instances": [b64(pictures[0])]})
    assert ask(backend, {"signature_name": "serve_bytes", "instances": [{"b64": text.rstrip("\n=")}]}) == whole
    named = {"signature_name": "serve_bytes", "instances": [{"images": b64(pictures[0])}]}
    assert ask(backend, named) == whole


IMAGE = np.zeros((16, 20, 3), int).tolist()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5000, "not JSON"),
        (b"[]", "must be a JSON object, got a list"),
        (b"null", "got null"),
        ({}, 'needs either "instances"'),
        ({"instances": [IMAGE], "inputs": [IMAGE]}, 'needs either "instances"'),
        ({"instances": []}, "1 to 8 images, got 0"),
        ({"instances": [IMAGE] * 9}, "1 to 8 images, got 9"),
        ({"instances": {"images": [IMAGE]}}, '"instances" is a list'),
        ({"instances": [{"image": IMAGE}]}, "Each instance must hold images, got image"),
        ({"instances": [{}]}, "got nothing"),
        ({"inputs": {"image": [IMAGE]}}, '"inputs" must hold images, got image'),
        ({"inputs": {"images": 3}}, "a list for each input, got a number"),
        ({"inputs": "x"}, "got a string"),
        ({"instances": [IMAGE[1:]]}, r"takes images of shape (batch, 16, 20, 3), got [1, 15, 20, 3]"),
        ({"instances": [1.0, 2.0]}, "got [2]"),
        ({"instances": [IMAGE, IMAGE[1:]]}, "lists of different lengths"),
        ({"instances": [[[["x"] * 3] * 20] * 16]}, "something that is not a number"),
        ({"instances": [[[[True] * 3] * 20] * 16]}, "something that is not a number"),
        ({"instances": [[[[None] * 3] * 20] * 16]}, "something that is not a number"),
        ({"instances": [[[[float("nan")] * 3] * 20] * 16]}, "finite pixels, 0..255, got NaN or infinity"),
        ({"instances": [[[[1e300] * 3] * 20] * 16]}, "finite pixels"),
        ({"instances": [[[[10**400, 0.5, 0.5]] * 20] * 16]}, "serving_default takes images"),
        ({"signature_name": "serve", "instances": [IMAGE]}, "Unknown signature 'serve'. Closest: 'serve_"),
        ({"signature_name": 3, "instances": [IMAGE]}, "Unknown signature '3'"),
        ({"signature_name": ["x"], "instances": [IMAGE]}, "Unknown signature"),
        ({"signature_name": "serve_uint8", "instances": [[[[256] * 3]]]}, "whole pixels, 0..255"),
        ({"signature_name": "serve_uint8", "instances": [[[[0.5] * 3]]]}, "whole pixels, 0..255"),
        ({"signature_name": "serve_uint8", "instances": [[[[1] * 4]]]}, r"any width, 3), got [1, 1, 1, 4]"),
        ({"signature_name": "serve_uint8", "instances": [[]]}, "got [1, 0]"),
        ({"signature_name": "serve_uint8", "instances": [[[[0] * 3] * 200] * 51]}, "at most 10,000 pixels"),
        ({"signature_name": "serve_bytes", "instances": [{"b64": "%%%"}]}, "Image 1 is not base64"),
        ({"signature_name": "serve_bytes", "instances": [{"b64": 3}]}, 'must be the bytes of an image file, {"b64"'),
        ({"signature_name": "serve_bytes", "instances": ["plain text"]}, "Image 1 is not an image that can be read"),
        ({"signature_name": "serve_bytes", "instances": ["\ud800"]}, "Image 1 is not an image that can be read"),
        ({"signature_name": "serve_bytes", "instances": [7]}, "got a number"),
        ({"signature_name": "serve_bytes", "inputs": {"b64": "eA=="}}, '"inputs" must hold images, got b64'),
        ({"signature_name": "explain_class_bytes", "instances": [{"b64": "eA=="}]}, "images and target, got b64"),
        (
            {"signature_name": "explain_class_bytes", "inputs": {"images": ["x"], "target": [1, 2]}},
            "one class per file, got 1 images and 2 target",
        ),
    ],
)
def test_what_is_no_request_is_a_sentence(backend, body, message):
    with pytest.raises(UserError) as raised:
        read_predict(body if isinstance(body, bytes) else json.dumps(body).encode(), backend, **LIMITS)
    assert message in str(raised.value)


@pytest.mark.parametrize("target", [4, -2, 1.0, True, None, "red", 10**30])
def test_a_class_that_is_not_there_is_a_sentence(backend, pictures, target):
    inputs = {"images": [b64(pictures[0])], "target": [target]}
    with pytest.raises(UserError, match=r"target holds one class per file: 0\.\.3, or -1"):
        ask(backend, {"signature_name": "explain_class_bytes", "inputs": inputs})


def test_an_open_batch_and_a_fixed_one_answer_alike(flowers, plain, pictures, expected):
    fixed, is_open = Backend(ServableFile("float32", flowers / "float32.tflite")), Backend(ServableFile("plain", plain))
    for count in (7, 3, 1, 5):  # the file is reshaped again and again
        body = {"signature_name": "serve_bytes", "inputs": [b64(picture) for picture in pictures[:count]]}
        one = ask(fixed, body)["outputs"]["probabilities"]
        np.testing.assert_allclose(one, expected[:count], atol=1e-6)
        # Other kernels for other batches: rounding.
        np.testing.assert_allclose(ask(is_open, body)["outputs"]["probabilities"], one, atol=1e-5)


def test_the_fastest_of_those_that_answer_alike_is_chosen(flowers, tmp_path, monkeypatch):
    files = versions_at(flowers)[1].files
    took = {"saved_model": (9.0, 90.0), "float32": (10.0, 80.0)}
    monkeypatch.setattr(Backend, "measure", lambda self, batch: took[self.file.format])
    choice = choose_backend(files, "auto", 32)
    assert choice.backend.file.format == "float32"
    assert [(file.format, one, full) for file, one, full in choice.measured] == [
        ("saved_model", 9.0, 90.0),
        ("float32", 10.0, 80.0),
    ]
    took["saved_model"] = (9.0, 70.0)
    assert choose_backend(files, "auto", 32).backend.file.format == "saved_model"
    assert choose_backend(files, "tflite", 32).backend.file.format == "float32"
    with pytest.raises(UserError, match="needs a file that is not there; there is saved_model, float32"):
        choose_backend(files, "int8", 32)
    # What cannot be opened is passed over, and named.
    broken = tmp_path / "float32.tflite"
    broken.write_bytes(b"rubbish")
    choice = choose_backend((files[0], ServableFile("float32", broken)), "auto", 32)
    assert choice.backend.file.format == "saved_model"
    assert "not a complete .tflite file" in choice.refused[0]
    with pytest.raises(UserError, match="not a complete"):
        choose_backend((ServableFile("float32", broken),), "auto", 32)


def test_int8_is_not_chosen_by_its_speed(flowers, monkeypatch):
    monkeypatch.setattr(Backend, "measure", lambda self, batch: (1.0, 1.0 if self.file.format == "int8" else 2.0))
    float32 = flowers / "float32.tflite"
    files = (ServableFile("float32", float32), ServableFile("int8", float32))
    assert choose_backend(files, "auto", 32).backend.file.format == "float32"
    assert choose_backend(files, "int8", 32).backend.file.format == "int8"
    # Where nothing answers as the network does, the most exact one.
    assert choose_backend(files[1:], "auto", 32).backend.file.format == "int8"


def test_a_file_may_be_overwritten_while_it_answers(flowers, tmp_path, pictures, expected):
    file = tmp_path / "float32.tflite"
    file.write_bytes((flowers / "float32.tflite").read_bytes())
    backend = Backend(ServableFile("float32", file))
    file.write_bytes(b"")  # the same file, as `cp` does it: one that is mapped would end the process here
    found = ask(backend, {"signature_name": "serve_bytes", "inputs": [b64(pictures[0])]})["outputs"]
    np.testing.assert_allclose(found["probabilities"], expected[:1], atol=1e-6)


def test_images_that_nobody_waits_for_are_not_decoded(backend, pictures):
    body = {"signature_name": "serve_bytes", "instances": [b64(picture) for picture in pictures[:3]]}
    with pytest.raises(UserError, match="Time was up at image 1 of 3"):
        read_predict(json.dumps(body).encode(), backend, **LIMITS, until=0.0)
