"""Networks from files: what they say, and what is refused. Most of it needs no Keras."""

import json
import subprocess
import sys

import numpy as np
import pytest

from keras_resnet.errors import UserError
from keras_resnet.models import config_files
from keras_resnet.models.config import CHOICES, ResNetConfig
from keras_resnet.models.config_files import (
    MAX_BYTES,
    config_from_dict,
    config_to_dict,
    load_config,
    network_name,
)
from keras_resnet.models.registry import REGISTRY, get_config
from keras_resnet.models.weightless import build_weightless


def write(folder, content, name="mine.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("name", REGISTRY)
def test_every_row_survives_a_file(name, tmp_path):
    config = REGISTRY[name]
    fields = json.loads(json.dumps(config_to_dict(config)))
    assert config_from_dict(fields) == config
    assert load_config(write(tmp_path, fields)) == config  # whole, its own name included


def test_a_file_changes_a_row_of_the_table(tmp_path):
    path = write(tmp_path, {"base": "resnet50", "attention": "eca", "depths": [2, 2, 2, 2], "se_ratio": 1})
    expected = REGISTRY["resnet50"].replace(attention="eca", depths=(2, 2, 2, 2), se_ratio=1.0)
    config = get_config(str(path))
    assert config == expected.replace(name="mine", paper=config.paper, group="own")
    assert config.paper == "resnet50 with attention eca, depths [2, 2, 2, 2], se_ratio 1"
    assert get_config(path) == config
    named = write(tmp_path, {"base": "resnet50", "name": "other", "paper": "Mine 2026"})
    assert (get_config(named).name, get_config(named).paper) == ("other", "Mine 2026")


def test_a_file_may_stand_for_itself(tmp_path):
    config = load_config(write(tmp_path, {"block": "basic", "depths": [1, 2], "widths": [8, 16], "strides": [1, 2]}))
    assert (config.name, config.group, config.depths, config.stem) == ("mine", "own", (1, 2), "imagenet")


def test_a_runs_record_is_such_a_file(tmp_path):
    fields = config_to_dict(REGISTRY["resnet20"].replace(attention="se", name="x"))
    path = write(tmp_path, {"settings": {"model": "gone.json"}, "network": fields}, "recipe.json")
    assert get_config(path) == REGISTRY["resnet20"].replace(attention="se", name="x")


@pytest.mark.parametrize(
    ("file", "content", "name"),
    [
        ("my net.json", {"base": "resnet8"}, "my-net"),
        ("größe.json", {"base": "resnet8"}, "gr-e"),
        ("...json", {"base": "resnet8"}, "own"),
        ("a.json", {"base": "resnet8", "name": "b"}, "b"),
        ("a.json", "{", "a"),
    ],
)
def test_a_network_has_a_name_that_fits_layers_and_folders(tmp_path, file, content, name):
    assert network_name(str(write(tmp_path, content, file))) == name
    assert network_name("resnet8") == "resnet8"
    assert network_name(str(tmp_path / "gone.json")) == "gone"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "A network is fields with their values"),
        ("{}", "A network needs block, depths, widths"),
        ('{"base": "resnet50", "base": "resnet18"}', "must stand in a network's file once, got 'base' twice"),
        ({"base": "resnt50"}, "Closest: 'resnet50'"),
        ({"base": ["resnet50"]}, "Unknown base"),
        ({"base": "mine.json"}, "Unknown base"),
        ({"base": "resnet50", "atention": "se"}, "Unknown network field 'atention'. Closest: 'attention'"),
        ({"base": "resnet50", "attention": "sse"}, "Unknown attention 'sse'. Closest: 'se'"),
        ({"base": "resnet50", "attention": None}, "attention must be text, got null"),
        ({"base": "resnet50", "attention": ["se"]}, 'attention must be text, got ["se"]'),
        ({"base": "resnet50", "depths": "3463"}, "depths must be a list of whole numbers, got 3463"),
        ({"base": "resnet50", "depths": [3, 4, 6.5, 3]}, "depths must be a list of whole numbers, got [3, 4, 6.5, 3]"),
        ({"base": "resnet50", "depths": [3, 4, True, 3]}, "depths must be a list of whole numbers"),
        ({"base": "resnet50", "depths": [3, 4]}, "one entry per stage"),
        ({"base": "resnet50", "depths": [3, 4, 10**9, 3]}, "depths must be from 1 to 65,536"),
        ({"base": "resnet50", "depths": [900, 900, 1, 1]}, "depths must sum to at most 1,000 blocks, got 1,802"),
        ({"base": "resnet50", "widths": [64, 128, 256, 0]}, "widths must be from 1 to 65,536"),
        ({"base": "resnet50", "strides": [1, 2, 2, 0]}, "strides must be from 1"),
        ({"base": "resnet50", "cardinality": 1.0}, "cardinality must be a whole number, got 1.0"),
        ({"base": "resnet50", "cardinality": -1}, "cardinality must be from 1 to 65,536, got -1"),
        ({"base": "resnet18", "cardinality": 32}, "cardinality belongs to block bottleneck"),
        ({"base": "resnet50", "base_width": 0}, "base_width must be from 1"),
        ({"base": "resnet20", "block": "bottleneck", "base_width": 3}, "base_width must leave a channel a group"),
        ({"base": "resnet50", "stem": "deep", "stem_width": 1}, "stem_width must be at least 2"),
        ({"base": "resnet50", "stem_norm": 1}, "stem_norm must be true or false, got 1"),
        ({"base": "resnet50", "norm_epsilon": "1e-5"}, "norm_epsilon must be a number, got 1e-5"),
        ({"base": "resnet50", "norm_epsilon": -1e-5}, "norm_epsilon must be above 0"),
        ('{"base": "resnet50", "norm_epsilon": NaN}', "norm_epsilon must be above 0, up to 65,536, got NaN"),
        ('{"base": "resnet50", "norm_epsilon": 1e999}', "norm_epsilon must be above 0"),
        ({"base": "resnet50", "norm_epsilon": 10**400}, "norm_epsilon must be above 0"),
        ({"base": "resnet50", "norm_momentum": 1}, "norm_momentum must be below 1"),
        ({"base": "resnet50", "input_shape": [224, 224]}, "input_shape must be a list of 3 whole numbers"),
        ({"base": "resnet50", "conv_bias": ["head"]}, "Unknown conv_bias 'head'"),
        ({"base": "resnet50", "name": "a/b"}, "name must be letters, digits and any of ._+-, got a/b"),
        ({"base": "resnet50", "name": "resnet18"}, "The table has a network 'resnet18' already"),
        ({"base": "resnet50", "paper": "one\ntwo"}, "paper must be one line"),
        ({"base": "resnet50", "paper": "x" * 300}, "paper must be one line of at most 200 characters"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        get_config(str(path))
    assert message in str(error.value)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_is_refused(tmp_path):
    for path, message in (
        (tmp_path / "gone.json", "No such file"),
        (tmp_path / "folder.json", "Is a directory"),
        (tmp_path / "binary.json", "not text in UTF-8"),
        (tmp_path / "huge.json", "has at most 4.2 MB"),
    ):
        if path.name == "folder.json":
            path.mkdir()
        elif path.name == "binary.json":
            path.write_bytes(b"\xff\xfe")
        elif path.name == "huge.json":
            path.write_text('{"base": "resnet8"}' + " " * MAX_BYTES)
        with pytest.raises(UserError, match=message):
            load_config(path)


def test_a_changed_row_needs_another_name_than_the_tables(tmp_path):
    with pytest.raises(UserError, match="The table has a network 'resnet8' already"):
        load_config(write(tmp_path, {"base": "resnet8", "attention": "se"}, "resnet8.json"))


def test_what_keras_cannot_build_is_a_sentence(monkeypatch):
    from keras_resnet.models import resnet

    def stem(x, config):
        raise ValueError("The number of filters must be divisible\nby the number of groups.")

    monkeypatch.setattr(resnet, "stem", stem)
    with pytest.raises(UserError, match=r"^The network 'own8' cannot be built: The number of filters"):
        resnet.build_model(REGISTRY["resnet8"].replace(name="own8"))
    with pytest.raises(ValueError, match="by the number") as error:  # a row of the table is our own mistake
        resnet.build_model(REGISTRY["resnet8"])
    assert not isinstance(error.value, UserError)


SMALL = {
    "name": "small", "block": "bottleneck", "depths": (1, 1), "widths": (16, 32), "strides": (1, 2), "expansion": 2,
    "stem_width": 8, "input_shape": (32, 32, 3), "num_classes": 4,
}  # fmt: skip
ODD = {
    "expansion": (0, -1, 1, 3), "cardinality": (0, -1, 3, 2, 5), "base_width": (0, -4, 1, 7, 64),
    "first_reduction": (0, 2, 3, 100), "stem_width": (0, -3, 1, 7), "splits": (0, 1, 2, 3, 5), "se_floor": (0, 1, 100),
    "se_ratio": (0, -1, 0.001, 2.0, 1e9), "norm_epsilon": (0, -1, 1e-3), "norm_momentum": (-1, 0.1, 1, 2),
    "num_classes": (0, -1, 1), "depths": ((0, 1), (1,), ()), "widths": ((16, 0), (15, 17), (1, 2)),
    "strides": ((1, 0), (1, -2), (2, 3), (1, 2, 3)), "input_shape": ((0, 32, 3), (32, 32), (-1, 5, 3), (1, 1, 3)),
    "activation": ("foo", "softmax"), "conv_bias": (("stem",), ("x",)),
}  # fmt: skip


def test_any_configuration_is_built_or_refused_in_a_sentence():
    """150 seeded draws of three choices and two odd numbers; what Keras alone finds is among them."""
    random, built, refused = np.random.default_rng(0), 0, []
    for _ in range(150):
        fields = dict(SMALL)
        for field in random.choice(list(CHOICES), 3, replace=False):
            fields[str(field)] = str(random.choice(list(CHOICES[field])))
        for field in random.choice(list(ODD), 2, replace=False):
            fields[str(field)] = ODD[field][random.integers(len(ODD[field]))]
        try:
            build_weightless(ResNetConfig(**fields))
            built += 1
        except UserError as error:
            refused.append(str(error))
    assert not any("\n" in sentence for sentence in refused)
    assert min(built, len(refused)) > 20


def test_reading_a_file_imports_neither_keras_nor_tensorflow(tmp_path):
    path = write(tmp_path, {"base": "resnet8", "attention": "se"})
    code = (
        f"import sys; from keras_resnet.models.registry import get_config; get_config({str(path)!r}); "
        "sys.exit(any(name in sys.modules for name in ('keras', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_younger_fields_have_their_defaults():
    fields = config_to_dict(REGISTRY["resnet8"])
    del fields["last_gamma"]
    assert config_from_dict(fields) == REGISTRY["resnet8"]
    with pytest.raises(UserError, match="Unknown network field"):
        config_from_dict({**fields, "of_tomorrow": 1})
    assert set(config_files.NAMING) <= set(fields)
