import os
from pathlib import Path

import numpy as np
import pytest

from keras_resnet.export import ledger


@pytest.mark.parametrize(("cores", "threads"), [(1, [1]), (2, [2, 1]), (8, [8, 1])])
def test_every_artifact_is_timed_with_all_threads_and_with_one(cores, threads, monkeypatch):
    started = []

    def run_artifact(name, path, images, *, threads, count=None, **options):
        started.append((threads, count))
        return {"latencies": np.array([threads, 2.0, 4.0]) / 1000, "peak_bytes": np.int64(1)}

    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(ledger, "run_artifact", run_artifact)
    found, latency = ledger._run("float32", Path("x.tflite"), np.zeros((3, 2, 2, 1), np.uint8))
    # The images are answered by the first alone.
    assert started == [(number, None if number == cores else 0) for number in threads]
    assert found["latencies"][0] == cores / 1000
    names = {"1 thread" if number == 1 else f"{number} threads": number for number in sorted(threads)}
    assert list(latency) == list(names)
    for name, number in names.items():
        assert latency[name]["median"] == pytest.approx(sorted([number, 2, 4])[1])
