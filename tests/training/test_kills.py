import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_training.py")


@pytest.mark.slow
def test_killed_trainings_end_bit_for_bit_as_an_uninterrupted_one(tmp_path):
    """One kill at a random moment; the script takes any number."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run(
        [sys.executable, SCRIPT, "1", tmp_path], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "1 of 1 equal the uninterrupted training, bit by bit" in done.stdout
