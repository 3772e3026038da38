import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax")

ROOT = Path(__file__).parents[2]
# For outputs, gradients of inputs, scale and offset, mean and variance: the rounding of float32 sums over 288 values
# whose means are ten standard deviations and more.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def found():
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(Path(__file__).with_name("normalization_session.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", ["one device", "two devices"])
def test_outputs_gradients_and_statistics_match_double_precision(found, case):
    assert len(found[case]) == 6
    assert max(found[case]) < CLOSE
    # At least as exact as Keras' layer, except for the last digits.
    assert max(found[case]) < 2 * max(found["Keras"])


def test_rows_that_do_not_divide_evenly_among_devices_are_normalized_too(found):
    assert max(found["rows that do not divide"]) < CLOSE


def test_per_device_normalization_matches_each_device_alone(found):
    assert len(found["per device"]) == 6
    assert max(found["per device"]) < CLOSE
    assert found["per device instead of together"] > 100 * CLOSE


def test_half_precision_inputs_give_half_precision_outputs(found):
    away, is_half = found["bfloat16"]
    assert is_half
    assert away < 2**-8  # one unit in the last place of bfloat16


def test_a_frozen_layer_uses_and_keeps_its_statistics(found):
    away, *kept = found["frozen"]
    assert away < CLOSE
    assert len(kept) == 4
    assert all(kept)


def test_the_training_twin_uses_this_layer(found):
    assert found["in a twin"] == 7
