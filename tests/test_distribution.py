"""Which process writes. Strategies of several machines are not started here; what they say of a worker is."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from keras_resnet.distribution import create_strategy, is_chief


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
