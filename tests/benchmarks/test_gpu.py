"""The roofline, and what the command says of measurements that fail. No figure of a GPU is tested here."""

import pytest

from keras_resnet.benchmarks import gpu
from keras_resnet.errors import UserError
from keras_resnet.models.complexity import multiply_adds
from keras_resnet.models.resnet import build_model


def test_the_roofline_is_arithmetic_alone_where_memory_is_free_and_the_other_way_round(zero_kernels):
    model = build_model("resnet8", num_classes=10, input_shape=(16, 16, 3))
    seconds = gpu.roofline_seconds(model, 4, passes=1, flops=1e9, bandwidth=float("inf"))
    assert seconds == pytest.approx(2 * 4 * multiply_adds(model) / 1e9)
    assert gpu.roofline_seconds(model, 4, passes=3, flops=1e9, bandwidth=float("inf")) == pytest.approx(3 * seconds)
    one, two = (gpu.roofline_seconds(model, batch, passes=1, flops=float("inf"), bandwidth=1e9) for batch in (1, 2))
    kernels = sum(layer.kernel.numpy().size for layer in model.layers if hasattr(layer, "kernel"))
    # Twice the images move twice the maps, but the kernels once.
    assert 2 * one - two == pytest.approx(2 * kernels / 1e9)


def test_measurements_that_fail_leave_a_row_that_says_so(monkeypatch):
    limits = {"gpu": "some", "roofline_seconds": {kind: {str(b): 0.01 for b in gpu.BATCHES} for kind in gpu.PASSES}}
    answers = {
        "limits": limits,
        "training": {"seconds": 0.1, "peak_bytes": 2e9},
        "inference": {"error": "failed: no memory"},
        "torch": {"error": "PyTorch sees no GPU"},
    }
    monkeypatch.setattr(gpu, "backend", lambda: "jax")
    monkeypatch.setattr(gpu, "_measure", lambda task, batch, seconds: answers[task])
    rows = gpu.benchmark_gpu()
    trained = [row for row in rows if row["contestant"] == "keras-resnet, training"]
    assert [row["batch_size"] for row in trained] == list(gpu.BATCHES)
    assert (trained[0]["images_per_second"], trained[0]["memory_gb"]) == (640.0, 2.0)
    assert trained[0]["share_of_roofline"] == 0.1
    assert {row["note"] for row in rows} == {"", "failed: no memory", "PyTorch sees no GPU"}
    assert len({tuple(row) for row in rows}) == 1
    answers["limits"] = {"error": "needs a GPU"}
    with pytest.raises(UserError, match="needs a GPU"):
        gpu.benchmark_gpu()


def test_a_measurement_that_crashes_or_has_no_time_says_why(monkeypatch):
    assert gpu._measure("training", 64, 0.5) == {"error": "no time was left"}
    monkeypatch.setattr(gpu.sys, "executable", "false")
    assert gpu._measure("training", 64, 60.0) == {"error": "failed: it ended without a word"}
