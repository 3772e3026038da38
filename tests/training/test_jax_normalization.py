import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax")

ROOT = Path(__file__).parents[2]
# Outputs, gradient of the inputs, of scale and of offset, mean and variance: rounding of float32 sums over 288 values,
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
def test_outputs_gradients_and_statistics_are_those_of_double_precision(found, case):
    assert len(found[case]) == 6
    assert max(found[case]) < CLOSE
    # At least as exact as Keras' own layer, but for the last digits.
    assert max(found[case]) < 2 * max(found["Keras"])


def test_rows_that_do_not_divide_among_the_devices_are_normalized_all_the_same(found):
    assert max(found["rows that do not divide"]) < CLOSE


def test_devices_that_normalize_by_themselves_compute_what_each_would_alone(found):
    assert len(found["per device"]) == 6
    assert max(found["per device"]) < CLOSE
    assert found["per device instead of together"] > 100 * CLOSE


def test_half_precision_in_half_precision_out_with_statistics_in_float32(found):
    away, is_half = found["bfloat16"]
    assert is_half
    assert away < 2**-8  # one unit of bfloat16's last place


def test_a_frozen_layer_uses_and_keeps_its_statistics(found):
    away, *kept = found["frozen"]
    assert away < CLOSE
    assert len(kept) == 4
    assert all(kept)


def test_the_network_that_trains_has_this_layer(found):
    assert found["in a twin"] == 7
