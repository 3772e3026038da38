"""Files explained from a program; the command line's tests look at the pictures."""

import numpy as np
import pytest
from PIL import Image

from keras_resnet.artifact import artifact_of
from keras_resnet.data.images import read_image
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.explanation.files import Overlay, explain_files
from keras_resnet.explanation.inputs import UnreadableImage, read_inputs
from keras_resnet.explanation.methods import explain
from keras_resnet.models.resnet import build_model


@pytest.fixture(scope="module")
def artifact():
    settings = Preprocessing(16, 16, 3, (0.5,) * 3, (0.2,) * 3, labels=("a", "b", "c", "d"))
    return artifact_of(build_model("resnet8", num_classes=4, input_shape=(16, 16, 3)), settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "1.jpg").write_bytes(b"no image")
    return folder


def test_files_are_explained_as_their_arrays_are(artifact, folder, tmp_path):
    found = list(explain_files(artifact, [folder], tmp_path, batch_size=2, with_arrays=True, with_sheet=True))
    bad = [row for row in found if isinstance(row, UnreadableImage)]
    drawn = [row for row in found if isinstance(row, Overlay)]
    assert [row.file.name for row in bad] == ["1.jpg"]
    assert [row.file.name for row in drawn] == ["0.png", "1.png", "2.png"]
    pixels = np.stack([read_image(row.file) for row in drawn])
    expected = explain(artifact.model, pixels, preprocessing=artifact.preprocessing)
    for row, heat in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(np.load(row.array), heat, atol=1e-5)  # float32, another batch size
        assert row.overlay.is_file()
        assert row.label in artifact.labels
    assert (tmp_path / "grid.png").is_file()


def test_the_classes_asked_for_are_drawn(artifact, folder, tmp_path):
    top = list(explain_files(artifact, [folder / "0.png"], tmp_path, target="top3"))
    assert len({row.label for row in top}) == 3
    assert [row.probability for row in top] == sorted((row.probability for row in top), reverse=True)
    (given,) = explain_files(artifact, [folder / "0.png"], tmp_path, target=2)
    assert given.label == "c"


def test_inputs_are_read_up_to_a_limit(artifact, folder):
    inputs, unreadable = read_inputs([folder], artifact, 2)
    assert inputs.shape == (2, 16, 16, 3)
    assert [image.file.name for image in unreadable] == ["1.jpg"]
    with pytest.raises(UserError, match=r"no image that can be read.*1\.jpg is not an image"):
        read_inputs([folder / "1.jpg"], artifact, 2)
