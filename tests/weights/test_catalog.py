"""The catalogue is consistent, and agrees with what Keras' own source says."""

import re

import keras
import pytest

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.models.registry import REGISTRY
from keras_resnet.weights.catalog import CATALOG, find_by_filename, find_weights, list_weights
from keras_resnet.weights.published import HALF, IMAGENET


def test_every_entry_is_whole():
    seen = set()
    for entry in CATALOG:
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
        assert preprocessing.labels == () or len(preprocessing.labels) == entry.classes
        # Where no accuracy is published: other classes than ImageNet-1k's, and the README's table of CIFAR networks.
        assert (entry.top1 is None) == (entry.classes > 1000 or entry.model == "resnet1202")


def test_every_network_with_weights_is_in_the_table():
    assert {entry.model for entry in CATALOG} <= set(REGISTRY)


# As timm's source has them: preprocessing of `default_cfgs` at the size of training, accuracy of its results.
@pytest.mark.parametrize(
    ("model", "tag", "file", "images", "digest", "licence", "accuracies"),
    [
        ("resnest269e", "in1k", "resnest269e.in1k/resolve/main/model.safetensors", (416, 0.928, "bicubic", IMAGENET),
         "", "Apache-2.0", (84.542, 96.988)),
        ("resnetv2_152x4_bit", "goog_in21k_ft_in1k",
         "resnetv2_152x4_bit.goog_in21k_ft_in1k/resolve/main/model.safetensors", (480, 1.0, "bilinear", HALF),
         "", "Apache-2.0", (84.936, 97.456)),
        ("resnetv2_50_timm", "a1h_in1k", "resnetv2_50.a1h_in1k/resolve/main/model.safetensors",
         (224, 0.95, "bicubic", HALF), "", "Apache-2.0", (80.41, 95.082)),
        ("senet154", "gluon_in1k", "v0.1/gluon_senet154-70a1a3c0.pth", (224, 0.875, "bicubic", IMAGENET),
         "sha256:70a1a3c0", "Apache-2.0", (81.258, 95.358)),
        ("resnext101_32x32d", "fb_wsl_ig1b_ft_in1k", "models/ig_resnext101_32x32-e4b90b00.pth",
         (224, 0.875, "bilinear", IMAGENET), "sha256:e4b90b00", "CC-BY-NC-4.0", (85.09, 97.442)),
        ("res2net50d", "in1k", "res2net50d.in1k/resolve/main/model.safetensors", (224, 0.875, "bilinear", IMAGENET),
         "", "unknown", (80.28, 95.028)),
        ("resnet10t", "c3_in1k", "v0.1-rsb-weights/resnet10t_176_c3-f3215ab1.pth", (176, 0.875, "bicubic", IMAGENET),
         "sha256:f3215ab1", "Apache-2.0", (66.724, 86.976)),
        ("resnetaa50d", "d_in12k", "resnetaa50d.d_in12k/resolve/main/model.safetensors",
         (224, 0.95, "bicubic", IMAGENET), "", "Apache-2.0", (None, None)),
    ],
)  # fmt: skip
def test_entries_are_timms(model, tag, file, images, digest, licence, accuracies):
    entry = find_weights(model, f"timm:{tag}")
    assert entry.url.endswith(f"/{file}")
    assert (entry.size, entry.crop_fraction, entry.interpolation, entry.normalization) == images
    assert (entry.digest, entry.licence, (entry.top1, entry.top5)) == (digest, licence, accuracies)


def test_heads_of_other_classes_are_no_default():
    assert find_weights("resnetv2_50x1_bit", "timm:goog_in21k").classes == 21_843
    assert find_weights("resnetaa101d", "timm:sw_in12k").data_set == "ImageNet-12k"
    for model in {entry.model for entry in CATALOG if entry.classes > 1000}:
        assert find_weights(model, "imagenet").classes == 1000


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
