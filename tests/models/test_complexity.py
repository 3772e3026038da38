"""Multiply-adds and feature maps against the papers, and the picture of a network."""

import itertools
import resource

import keras
import pytest
from keras.src.backend.common import global_state
from PIL import Image

from keras_resnet.errors import UserError
from keras_resnet.models.complexity import DIFFERENT_BLOCKS, complexity, cost_of, measure, multiply_adds
from keras_resnet.models.costs import recorded_cost
from keras_resnet.models.diagram import draw_network
from keras_resnet.models.registry import REGISTRY, get_config
from keras_resnet.models.resnet import build_model


@pytest.mark.parametrize(
    ("name", "published", "unit"),
    [
        ("resnet18", 1.8, 1e9),  # He 2015, table 1
        ("resnet50", 4.1, 1e9),  # torchvision's model table: 4.09
        ("resnet20", 41, 1e6),  # Idelbayev's table of CIFAR networks: 40.8 with the shortcuts' own operations
        ("resnext50_32x4d", 4.2, 1e9),  # Xie 2017, table 1
        ("wide_resnet50_2", 11.4, 1e9),  # torchvision's model table
    ],
)
def test_multiply_adds_round_to_the_published_figure(name, published, unit):
    digits = 0 if published == 41 else 1
    # Xie counts 4.2 G; the exact sum over its table's layers is 4.23.
    assert round(cost_of(get_config(name)).multiply_adds / unit, digits) == published


def test_multiply_adds_of_each_kind_of_layer_equal_a_count_by_hand():
    images = keras.Input((10, 8, 4))
    x = keras.layers.Conv2D(6, 3, strides=2, groups=2, padding="same")(images)  # 5·4 pixels, 6 outputs, 3·3·2 each
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)  # 5·4 pixels, 6 channels, 3·3 each
    x = keras.layers.Reshape((20, 6))(x)
    x = keras.layers.Conv1D(2, 5, padding="same")(x)  # 20 places, 2 outputs, 5·6 each
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(3)(x)  # 40·3
    assert multiply_adds(keras.Model(images, x)) == 20 * 6 * 18 + 20 * 6 * 9 + 20 * 2 * 30 + 120


def longest(group):
    """The smallest network of a group that has a stage of more blocks than are built to be counted, or its smallest."""
    rows = [config for config in REGISTRY.values() if config.group == group]
    return min(rows, key=lambda config: (max(config.depths) <= DIFFERENT_BLOCKS, sum(config.depths)))


@pytest.mark.parametrize("group", dict.fromkeys(config.group for config in REGISTRY.values()))
def test_the_cost_of_few_blocks_without_values_is_that_of_the_network(group, zero_kernels):
    config = longest(group)
    assert measure(config) == complexity(build_model(config)) == cost_of(config)


def test_every_network_has_its_cost_on_record():
    missing = [name for name, config in REGISTRY.items() if recorded_cost(config) is None]
    assert missing == [], "PYTHONPATH=. python tests/models/record_costs.py"


def test_a_changed_network_has_no_cost_on_record():
    config = get_config("resnet8")
    assert recorded_cost(config.replace(paper="the same elsewhere")) == recorded_cost(config)
    assert recorded_cost(config.replace(attention="se")) is None
    assert recorded_cost(config.replace(name="other")) is None
    assert cost_of(config.replace(attention="se")).parameters > cost_of(config).parameters


def test_counting_leaves_nothing_behind(zero_kernels):
    measure(get_config("resnet8"))
    with keras.StatelessScope():  # would give values to all variables that wait for one
        pass
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    assert layer.kernel.shape == (3, 2)
    assert global_state.get_global_attribute("uninitialized_variables") in (None, [])


def test_unknown_input_sides_are_refused():
    with pytest.raises(UserError, match="input_shape"):
        multiply_adds(build_model("resnet8", input_shape=(None, None, 3)))


def test_feature_maps_are_the_papers():
    maps = cost_of(get_config("resnet50")).feature_maps
    assert maps == ((56, 56, 256), (28, 28, 512), (14, 14, 1024), (7, 7, 2048))  # He 2015, table 1


@pytest.mark.parametrize("name", ["resnet20", "resnext29_8x64d", "resnest14d", "res2net50_48w_2s", "article_resnet"])
def test_the_picture_has_a_box_for_every_part(name, tmp_path):
    config = get_config(name)
    path = tmp_path / "network.png"
    draw_network(config, cost_of(config), path)
    with Image.open(path) as image:
        middle = [image.getpixel((x, 2 * 210)) for x in range(image.width)]
    boxes = sum(a == (255, 255, 255) and b != a for a, b in itertools.pairwise(middle))
    assert boxes >= len(config.depths) + 3  # input, stem, stages, head


@pytest.mark.parametrize("name", ["resnet8", "resnet50_v1", "resnest14d", "resnetv2_18d"])
def test_without_weights_the_cost_is_the_same(name):
    config = get_config(name)
    assert measure(config) == complexity(build_model(name))
    other = config.replace(input_shape=(96, 64, 3))
    assert measure(other) == complexity(build_model(other))


def test_the_largest_network_is_measured_without_memory_for_its_weights():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cost = measure(get_config("resnetv2_152x4_bit"))
    assert cost.parameters == 936_533_224  # timm 1.0.31
    # Its weights alone are 3.7 GB; the graph took 60 MB when measured. Kilobytes.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
    # Nothing is left behind that Keras would fill at the next occasion.
    with keras.StatelessScope():
        pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_what_cannot_be_built_cannot_be_measured():
    with pytest.raises(UserError, match="at least 32×32"):
        measure(get_config("resnet18").replace(input_shape=(16, 16, 3)))
