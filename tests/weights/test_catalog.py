"""The catalogue is consistent, and agrees with what Keras' own source says."""

import re

import keras
import pytest

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.models.registry import REGISTRY
from keras_resnet.weights.catalog import CATALOG, find_by_filename, find_weights, list_weights


def test_every_entry_is_whole():
    seen = set()
    for entry in CATALOG:
        assert entry.model in REGISTRY
        assert (entry.model, entry.tag) not in seen
        seen.add((entry.model, entry.tag))
        assert entry.url.startswith("https://")
        assert re.fullmatch(r"(sha256:[0-9a-f]{8}|md5:[0-9a-f]{32}|)", entry.digest)
        # A file name that carries a digest carries the one given.
        assert entry.digest.removeprefix("sha256:") in entry.url or entry.digest.startswith("md5:")
        assert entry.licence
        assert entry.accuracy_source
        assert entry.top1 is None or 60 < entry.top1 < (entry.top5 or 100) <= 100
        preprocessing = Preprocessing(**entry.preprocessing(entry.size, entry.size, 3))
        assert preprocessing.labels == () or len(preprocessing.labels) == REGISTRY[entry.model].num_classes


def test_resized_side_is_torchvisions():
    for name, tag, side in (
        ("resnet50", "torchvision:IMAGENET1K_V2", 232),
        ("resnet18", "torchvision:IMAGENET1K_V1", 256),
    ):
        entry = find_weights(name, tag)
        assert round(entry.size / entry.crop_fraction) == side


def test_one_file_name_stands_for_one_file():
    urls = {}
    for entry in CATALOG:
        urls.setdefault(entry.filename, set()).add(entry.url)
    assert all(len(found) == 1 for found in urls.values())


def test_digests_are_kerass():
    source = keras.src.applications.resnet
    for entry in CATALOG:
        if entry.tag == "keras:imagenet":
            stem = entry.filename.split("_")[0]
            assert entry.digest == f"md5:{source.WEIGHTS_HASHES[stem][0]}"
            assert entry.url.startswith(source.BASE_WEIGHTS_PATH)


@pytest.mark.parametrize(("function", "name"), [("resnet", "resnet50_v1"), ("resnet_v2", "resnetv2_50")])
def test_normalisation_is_keras_preprocess_input(function, name):
    import numpy as np

    from keras_resnet.data.transforms import normalize

    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.float32)
    preprocessing = Preprocessing(**find_weights(name, "imagenet").preprocessing(4, 4, 3))
    expected = getattr(keras.applications, function).preprocess_input(pixels.copy())
    # Pixels up to 151 in float32, reached over other steps.
    np.testing.assert_allclose(normalize(pixels, preprocessing), expected, atol=1e-4)


def test_defaults_and_refusals():
    assert find_weights("resnet50", "imagenet").tag == "torchvision:IMAGENET1K_V2"
    assert find_weights("resnet50_v1", "imagenet").tag == "keras:imagenet"
    assert find_weights("resnet50d", "imagenet").tag.startswith("timm:")
    with pytest.raises(UserError, match="torchvision:IMAGENET1K_V2"):
        find_weights("resnet50", "torchvision:IMAGENET1K_V3")
    with pytest.raises(UserError, match="no published weights"):
        find_weights("resnet200", "imagenet")
    with pytest.raises(UserError, match="akamaster:cifar10"):
        find_weights("resnet20", "imagenet")
    assert "timm:a1_in1k" in list_weights("resnet50")
    assert find_by_filename("resnet50-11ad3fa6.pth").tag == "torchvision:IMAGENET1K_V2"
    assert find_by_filename("mine.pth") is None
