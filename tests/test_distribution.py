"""Which process writes. Strategies of several machines are not started here; what they say of a worker is."""

import json
from types import SimpleNamespace

import pytest
import tensorflow as tf

from keras_resnet import distribution
from keras_resnet.distribution import PRECISIONS, create_strategy, is_chief, keras_precision
from keras_resnet.errors import UserError


def test_a_single_process_is_the_chief():
    assert is_chief(create_strategy("cpu"))
    assert is_chief(tf.distribute.MirroredStrategy(["CPU:0"]))


@pytest.mark.parametrize(
    ("cluster", "kind", "number", "expected"),
    [
        ({"worker": ["a:1", "b:1"]}, "worker", 0, True),
        ({"worker": ["a:1", "b:1"]}, "worker", 1, False),
        ({"chief": ["a:1"], "worker": ["b:1"]}, "chief", 0, True),
        ({"chief": ["a:1"], "worker": ["b:1"]}, "worker", 0, False),
    ],
)
def test_the_first_of_several_workers_is_the_chief(cluster, kind, number, expected):
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster), task_type=kind, task_id=number
    )
    assert is_chief(SimpleNamespace(cluster_resolver=resolver)) is expected


@pytest.mark.parametrize(
    ("cluster", "count"),
    [({"worker": ["a:1", "b:1"]}, 2), ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, 3)],
)
def test_one_of_several_workers_does_not_train_alone(monkeypatch, cluster, count):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
    with pytest.raises(UserError, match=f"TF_CONFIG names {count}: each would train alone"):
        create_strategy("cpu")


@pytest.mark.parametrize("text", ["", "{}", "no JSON", '{"cluster": {"worker": ["a:1"]}}'])
def test_a_cluster_of_one_trains(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    assert create_strategy("cpu").num_replicas_in_sync == 1


def test_one_of_several_processes_of_jax_does_not_train_alone(monkeypatch):
    jax = pytest.importorskip("jax")
    monkeypatch.setattr(distribution, "backend", lambda: distribution.JAX)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"jax\.distributed names 2: each would train alone"):
        create_strategy("cpu")


@pytest.mark.parametrize(
    ("machine", "flags", "chosen", "expected"),
    [
        ("x86_64", {"avx", "avx2"}, None, "1"),
        ("x86_64", {"avx", "avx2"}, "0", "0"),
        ("x86_64", {"avx"}, None, None),
        ("aarch64", {"avx2"}, None, None),
    ],
)
def test_onednn_is_used_where_the_processor_gains_by_it(monkeypatch, machine, flags, chosen, expected):
    environment = {} if chosen is None else {"TF_ENABLE_ONEDNN_OPTS": chosen}
    monkeypatch.setattr(distribution.os, "environ", environment)
    monkeypatch.setattr(distribution.platform, "machine", lambda: machine)
    monkeypatch.setattr(distribution, "_processor_flags", lambda: flags)
    distribution.choose_kernels()
    assert environment.get("TF_ENABLE_ONEDNN_OPTS") == expected


@pytest.mark.parametrize(("has_it", "expected"), [(True, "mixed_bfloat16"), (False, "float32")])
def test_precision_follows_the_processor_where_it_may(monkeypatch, has_it, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(distribution, "processor_has_bfloat16", lambda: has_it)
    assert keras_precision("auto") == expected
    assert all(keras_precision(name) == name for name in PRECISIONS if name != "auto")


@pytest.mark.parametrize(("generation", "expected"), [((7, 5), "float32"), ((9, 0), "mixed_bfloat16")])
def test_precision_follows_the_graphics_card_where_it_may(monkeypatch, generation, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
    found = {"a": {"compute_capability": (9, 0)}, "b": {"compute_capability": generation}}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", found.get)
    assert keras_precision("auto") == expected


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match="Closest: 'mixed_bfloat16'"):
        keras_precision("bfloat16")
