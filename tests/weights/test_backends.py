"""One `.keras` file gives the same logits under TensorFlow, JAX and PyTorch, for a network of every group."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from named_tensors import named_state

from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.registry import REGISTRY
from keras_resnet.models.resnet import build_model
from keras_resnet.weights.loading import load_weights

pytest.importorskip("torch")
pytest.importorskip("jax")

# One network of every group, the smallest where it shows the group's own operators.
NETWORKS = {
    "CIFAR v1": "resnet20",
    "CIFAR v2": "resnetv2_20",
    "CIFAR wide": "wrn_16_4",
    "ImageNet v1.5": "resnet18",
    "ImageNet v1": "resnet50_v1",
    "ImageNet v2": "resnetv2_50",
    "ResNeXt": "resnext29_8x64d",
    "Wide": "wide_resnet50_2",
    "-C / -D": "resnet18d",
    "SE, ECA": "ecaresnet50d",
    "anti-aliased": "resnetblur50",
    "ResNet-RS": "resnetrs50",
    "microcontrollers": "resnet8_mlperf_tiny",
    "the article's": "article_resnet",
    "-S / -T": "resnet10t",
    "BiT": "resnetv2_50x1_bit",
    "ResNeSt": "resnest14d",
    "SK": "skresnet18",
    "Res2Net": "res2net50_26w_4s",
}
# 72 pixels become 9, 5 and 3: pooling "same" over odd maps is where backends could differ.
SIDES = {"imagenet": 72, "cifar": 32}

CODE = """
import sys
import keras, numpy as np
from keras_resnet import WeightStandardizedConv2D  # BiT's: the one layer that Keras does not know
folder, backend = sys.argv[1:]
assert keras.backend.backend() == backend
# The file's kernels follow; drawing fresh ones takes longer than all else here.
keras.initializers.VarianceScaling.__call__ = lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype)
data = np.load(f"{folder}/images.npz")
logits = {}
for name in data:
    model = keras.saving.load_model(f"{folder}/{name}.keras", compile=False)
    logits[name] = keras.ops.convert_to_numpy(model(data[name], training=False))
np.savez(f"{folder}/{backend}.npz", **logits)
"""


def side(name: str) -> int:
    return SIDES["cifar" if REGISTRY[name].input_shape[0] == 32 else "imagenet"]


def small(config: ResNetConfig) -> ResNetConfig:
    """At most two blocks a stage, so that there is a first one and one that follows; half as wide where it is wide."""
    part = 2 if max(config.widths) > 64 else 1
    return config.replace(
        depths=tuple(min(depth, 2) for depth in config.depths),
        widths=tuple(width // part for width in config.widths),
        stem_width=config.stem_width // part,
    )


def test_every_group_is_here():
    assert set(NETWORKS) == {config.group for config in REGISTRY.values()}
    assert all(REGISTRY[name].group == group for group, name in NETWORKS.items())


def write_files(folder: Path) -> dict[str, np.ndarray]:
    """Writes a `.keras` file of each network and images for it; returns the logits under TensorFlow."""
    images, logits = {}, {}
    for name in NETWORKS.values():
        shape = (side(name), side(name), 3)
        model = build_model(small(REGISTRY[name]), num_classes=10, input_shape=shape)
        load_weights(model, named_state(model))
        model.save(folder / f"{name}.keras")
        images[name] = np.random.RandomState(2).uniform(-2, 2, (2, *shape)).astype(np.float32)
        loaded = keras.saving.load_model(folder / f"{name}.keras", compile=False)
        logits[name] = np.asarray(loaded(images[name], training=False))
    np.savez(folder / "images.npz", **images)
    return logits


def run(folder: Path, backend: str) -> dict[str, np.ndarray]:
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # What JAX compiles here runs once.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), backend], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(np.load(folder / f"{backend}.npz"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backends")
    return folder, write_files(folder)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_logits_are_tensorflows(backend, files):
    folder, expected = files
    found = run(folder, backend)
    differences = {
        name: float(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()) for name in expected
    }
    # float32 on three libraries with sums in another order; measured up to 2e-6.
    assert {name: value for name, value in differences.items() if not value < 1e-4} == {}
    assert set(differences) == set(NETWORKS.values())
