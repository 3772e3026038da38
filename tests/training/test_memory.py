"""How much memory a step needs, reported before the system ends the process."""

import keras
import pytest

from keras_resnet.distribution import create_strategy
from keras_resnet.models.resnet import build_model
from keras_resnet.training import setup
from keras_resnet.training.memory import activation_bytes, available_bytes, memory_warning
from keras_resnet.training.recipes import Recipe


def test_the_activations_of_a_network_are_those_counted_by_hand():
    inputs = keras.Input((8, 8, 3))
    features = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    features = keras.layers.BatchNormalization()(features)
    features = keras.layers.ReLU()(features)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(features))
    assert activation_bytes(model) == 4 * 2 * 8 * 8 * 4


def test_half_precision_takes_half():
    network = build_model("resnet8")
    single, half = (activation_bytes(network, precision=name) for name in ("float32", "mixed_bfloat16"))
    assert half == single / 2


@pytest.mark.parametrize(
    ("limit", "used", "expected"), [("max", "1", 3_072_000), ("2000000", "500000", 1_550_000), (None, None, 3_072_000)]
)
def test_memory_is_what_system_and_control_group_leave(limit, used, expected, tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:  3000 kB\n")
    if limit is not None:
        group = tmp_path / "sys" / "fs" / "cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text("anon 400000\ninactive_file 50000\n")
    assert available_bytes(tmp_path) == expected


def test_a_system_that_does_not_say_is_no_reason_to_warn(tmp_path):
    assert available_bytes(tmp_path) is None
    assert memory_warning(build_model("resnet8"), 10**9, available=None) is None


def test_smaller_training_images_take_less():
    network = build_model("resnet8")
    needed = 100 * activation_bytes(network)
    assert memory_warning(network, 100, available=needed) is None
    assert "A step of 100 images needs at least" in memory_warning(network, 100, available=needed - 1)
    assert memory_warning(network, 400, available=needed, side=0.5) is None


@pytest.mark.parametrize("train_image_size", [None, 12])
def test_training_says_that_a_step_will_not_fit(train_image_size, tiny_data, monkeypatch):
    recipe = Recipe(dataset=tiny_data, model="resnet8", batch_size=16, train_image_size=train_image_size)
    for available, count in ((10**5, 1), (10**12, 0)):
        monkeypatch.setattr(setup, "available_bytes", lambda available=available: available)
        lines = []
        setup.prepare(recipe, create_strategy("cpu"), report=lines.append)
        assert len([line for line in lines if "A step of 16 images needs at least" in line]) == count
