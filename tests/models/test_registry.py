"""Names, patterns and refusals of the table of networks. Nothing here needs Keras."""

import subprocess
import sys

import pytest

from keras_resnet.errors import UserError
from keras_resnet.models.registry import REGISTRY, get_config, list_models

PROMISED = set(
    [
        "resnet8",
        "resnet20",
        "resnet32",
        "resnet44",
        "resnet56",
        "resnet110",
        "resnet1202",
        "resnet8_b",
        "resnet20_b",
        "resnet32_b",
        "resnet44_b",
        "resnet56_b",
        "resnet110_b",
        "resnet1202_b",
        "resnetv2_20",
        "resnetv2_56",
        "resnetv2_110",
        "resnetv2_164",
        "resnetv2_1001",
        "wrn_16_4",
        "wrn_16_8",
        "wrn_28_10",
        "wrn_40_2",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnet200",
        "resnet50_v1",
        "resnet101_v1",
        "resnet152_v1",
        "resnetv2_50",
        "resnetv2_101",
        "resnetv2_152",
        "resnext50_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "resnext29_8x64d",
        "wide_resnet50_2",
        "wide_resnet101_2",
        "resnet18d",
        "resnet34d",
        "resnet50c",
        "resnet50d",
        "resnet101d",
        "seresnet18",
        "seresnet34",
        "seresnet50",
        "seresnet101",
        "seresnet152",
        "seresnext50_32x4d",
        "ecaresnet50d",
        "resnetblur50",
        "resnetrs50",
        "resnetrs101",
        "resnetrs152",
        "resnetrs200",
        "resnetrs270",
        "resnetrs350",
        "resnetrs420",
        "resnet8_mlperf_tiny",
        "article_resnet",
    ]
)


def test_every_promised_network_is_registered_under_its_own_name():
    assert set(REGISTRY) >= PROMISED
    assert all(config.name == name for name, config in REGISTRY.items())


def test_patterns_select_names():
    assert list_models("wrn_*") == ["wrn_16_4", "wrn_16_8", "wrn_28_10", "wrn_40_2"]
    assert list_models("resnet??d") == ["resnet18d", "resnet26d", "resnet34d", "resnet50d"]
    assert list_models() == list(REGISTRY)
    assert list_models("no such*") == []


@pytest.mark.parametrize(("name", "closest"), [("resnet21", "resnet20"), ("ResNet50", "resnet50"), (None, "Valid")])
def test_unknown_names_are_refused_with_the_closest(name, closest):
    with pytest.raises(UserError, match=closest):
        get_config(name)


@pytest.mark.parametrize(
    "change",
    [{"block": "bottelneck"}, {"depths": (1, 2)}, {"conv_bias": ("head",)}, {"dephts": (1,)}, {"widths": (0, 1, 2)}],
)
def test_impossible_configurations_are_refused(change):
    with pytest.raises(UserError):
        get_config("resnet20").replace(**change)


def test_names_resolve_without_importing_keras_or_tensorflow():
    code = (
        "import sys, keras_resnet; keras_resnet.list_models('*'); "
        "sys.exit(any(name in sys.modules for name in ('keras', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
