"""Two TensorFlow devices in one process; test_workers.py has several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SESSION = Path(__file__).with_name("several_devices_session.py")


@pytest.fixture(scope="module")
def found(tiny_data):
    environment = {**os.environ, "PYTHONPATH": str(SESSION.parents[2])}
    done = subprocess.run(
        [sys.executable, str(SESSION), tiny_data], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_step_of_two_devices_is_that_of_one(found):
    one, two = found["synchronized one"], found["synchronized two"]
    # Sums are taken in a different order: float32 rounding (6e-8), grown over three steps.
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-5)
    for expected, got in zip(one["weights"], two["weights"], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_devices_that_normalize_alone_keep_the_same_statistics(found):
    one, two = found["per_device one"], found["per_device two"]
    np.testing.assert_array_equal(*two["statistics"])
    # Each half of the batch has a different variance than the whole.
    assert np.abs(np.subtract(two["losses"], one["losses"])).max() > 1e-3
