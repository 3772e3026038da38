"""Which worker a process is, and which one writes. training/test_workers.py starts several workers."""

import json

import pytest
import tensorflow as tf

from keras_resnet import distribution
from keras_resnet.distribution import PRECISIONS, automatic_precision, create_strategy, is_chief, keras_precision
from keras_resnet.errors import UserError
from keras_resnet.workers import ADDRESS, RANK, WORKERS, Place, Workers, place_in_environment


def test_a_single_process_is_the_chief():
    assert is_chief(create_strategy("cpu"))
    assert is_chief(tf.distribute.MirroredStrategy(["CPU:0"]))


def named_by(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


PAIR = {"worker": ["a:1", "b:1"]}
WITH_CHIEF = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Place()),
        ({"TF_CONFIG": named_by(PAIR, index=1)}, Place(1, 2, ("a:1", "b:1"), "TF_CONFIG")),
        ({"TF_CONFIG": named_by(WITH_CHIEF, "chief")}, Place(0, 3, ("a:1", "b:1", "c:1"), "TF_CONFIG")),
        ({"TF_CONFIG": named_by(WITH_CHIEF, index="1")}, Place(2, 3, ("a:1", "b:1", "c:1"), "TF_CONFIG")),
        ({WORKERS: "2", RANK: "1", ADDRESS: "a:1,b:1"}, Place(1, 2, ("a:1", "b:1"))),
        ({WORKERS: "2", "TF_CONFIG": "{}"}, Place(0, 2)),
    ],
)
def test_the_environment_names_a_place_among_the_workers(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert place_in_environment() == expected


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({WORKERS: "2", RANK: "2"}, f"{RANK} must be a whole number from 0 and below {WORKERS}"),
        ({WORKERS: "two"}, f"{RANK} must be a whole number from 0 and below {WORKERS}"),
        ({WORKERS: "2", "TF_CONFIG": named_by(PAIR)}, f"{WORKERS} and TF_CONFIG both name workers"),
        ({"TF_CONFIG": named_by(PAIR, "evaluator")}, "TF_CONFIG must name only a chief and workers"),
        ({"TF_CONFIG": named_by({**PAIR, "ps": ["c:1"]})}, "TF_CONFIG must name only a chief and workers"),
        ({"TF_CONFIG": named_by(PAIR, index=2)}, "The task index in TF_CONFIG must be a whole number below 2"),
    ],
)
def test_a_place_that_cannot_be_is_refused(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        place_in_environment()


@pytest.mark.parametrize(("cluster", "count"), [(PAIR, 2), (WITH_CHIEF, 3)])
def test_one_of_several_workers_does_not_work_alone(monkeypatch, cluster, count):
    monkeypatch.setenv("TF_CONFIG", named_by(cluster))
    with pytest.raises(UserError, match=f"TF_CONFIG names {count}: each would work alone"):
        create_strategy("cpu")


@pytest.mark.parametrize("addresses", ["", "a:1", "a:1,b", "a:1,:2"])
def test_tensorflow_needs_the_address_of_each_worker(monkeypatch, addresses):
    monkeypatch.setenv(WORKERS, "2")
    monkeypatch.setenv(ADDRESS, addresses)
    with pytest.raises(UserError, match=f"{ADDRESS} must name all 2 workers as host:port, separated by commas"):
        create_strategy("cpu", workers=True)


def test_the_first_worker_is_the_chief():
    assert [is_chief(Workers(None, rank, 2)) for rank in range(2)] == [True, False]


@pytest.mark.parametrize("text", ["", "{}", "no JSON", '{"cluster": {"worker": ["a:1"]}}'])
def test_a_cluster_of_one_trains(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    assert create_strategy("cpu").num_replicas_in_sync == 1


def test_one_of_several_processes_of_jax_does_not_train_alone(monkeypatch):
    jax = pytest.importorskip("jax")
    monkeypatch.setattr(distribution, "backend", lambda: distribution.JAX)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"jax\.distributed names 2: each would work alone"):
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


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2", "avx512_bf16", "amx_bf16"}, ("mixed_bfloat16", "processor (amx_bf16, avx512_bf16) computes with")),
        ({"avx2"}, ("float32", "processor has no instructions for")),
    ],
)
def test_precision_follows_the_processor_where_it_may(monkeypatch, flags, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(distribution, "_processor_flags", lambda: flags)
    policy, reason = expected
    assert automatic_precision() == (policy, f"the {reason} bfloat16")
    assert keras_precision("auto") == policy
    assert all(keras_precision(name) == name for name in PRECISIONS if name != "auto")


@pytest.mark.parametrize(("generation", "expected"), [((7, 5), "float32"), ((9, 0), "mixed_bfloat16")])
def test_precision_follows_the_graphics_card_where_it_may(monkeypatch, generation, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
    found = {"a": {"compute_capability": (9, 0)}, "b": {"compute_capability": generation}}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", found.get)
    assert keras_precision("auto") == expected
    lowest = ".".join(map(str, generation))  # of both GPUs, which share each batch
    assert f"GPU of compute capability {lowest} " in automatic_precision()[1]
    monkeypatch.setattr(distribution, "_processor_flags", lambda: {"avx512_bf16"})
    assert keras_precision("auto", "cpu") == "mixed_bfloat16"  # whatever GPU the machine has
    assert "processor" in automatic_precision("cpu")[1]


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match="Closest: 'mixed_bfloat16'"):
        keras_precision("bfloat16")
