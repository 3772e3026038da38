"""The model of an all-reduce, what the rows say, and the bytes of a real step. No speed is tested here."""

import pytest

from keras_resnet.benchmarks import scaling
from keras_resnet.models.resnet import build_model


def test_communication_is_that_of_rings():
    # Two devices in a ring: each sends half of the bytes twice.
    assert scaling.communication_seconds(1e9, 1, 2, (1e9, 1.0)) == pytest.approx(1.0)
    assert scaling.communication_seconds(1e9, 2, 1, (1.0, 1e9)) == pytest.approx(1.0)
    assert scaling.communication_seconds(1e9, 1, 1, (1.0, 1.0)) == 0
    # If the links between machines are as fast as those within, a GPU sends no more bytes than in one large ring.
    for machines, gpus in ((8, 8), (2, 4), (3, 5)):
        count = machines * gpus
        expected = 2 * (count - 1) / count
        assert scaling.communication_seconds(1e9, machines, gpus, (1e9, 1e9)) == pytest.approx(expected)


def test_rows_say_what_was_measured_and_what_is_a_model(monkeypatch):
    seconds = {scaling.ONE: 1.0, scaling.APART: 1.25, scaling.TOGETHER: 2.0, scaling.PER_DEVICE: 1.6}
    measured = {name: {"wall": wall, "cpu": wall, "bytes": 8e6} for name, wall in seconds.items()}
    monkeypatch.setattr(scaling, "_measure", lambda name, settings: measured[name])
    monkeypatch.setattr(scaling, "PAUSE", 0)
    monkeypatch.setattr(scaling.os, "sched_getaffinity", lambda process: {0, 1})
    rows = scaling.benchmark_scaling("resnet8", image_size=32, batch_size=10, steps=2, rounds=3)
    assert len({tuple(row) for row in rows}) == 1
    found = {row["contestant"]: row for row in rows if row["kind"] == "measured"}
    assert [found[name]["images_per_second"] for name in seconds] == [20.0, 32.0, 20.0, 25.0]
    assert [found[name]["efficiency"] for name in seconds] == [1.0, 0.8, 0.5, 0.625]
    assert found[scaling.TOGETHER]["communication_share"] == 0.375  # 0.75 s of 2
    assert found[scaling.PER_DEVICE]["communication_share"] == 0.219  # 0.35 s of 1.6
    assert found[scaling.TOGETHER]["mb_per_step"] == 2.0  # 8 MB of two workers in two steps
    models = [row for row in rows if row["kind"] == "model"]
    assert [row["devices"] for row in models] == [8, 64] * len(scaling.LINKS)
    assert not any(row["efficiency"] or row["images_per_second"] for row in models)


@pytest.mark.slow
def test_two_workers_send_at_least_their_gradients(zero_kernels, monkeypatch):
    pytest.importorskip("jax")
    # Compiles in a moment; the bytes sent stay the same.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
    steps = 3
    found = scaling._measure(scaling.TOGETHER, {"model": "resnet8", "side": 8, "batch": 2, "steps": steps})
    sent = found["bytes"] / 2 / steps
    weights = sum(
        weight.numpy().nbytes
        for weight in build_model("resnet8", num_classes=10, input_shape=(8, 8, 3)).trainable_weights
    )
    # The statistics of each batch normalization are sent as well, and whatever else this machine sends to itself.
    assert sent >= weights
