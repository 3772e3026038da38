"""The harness; what each benchmark yields is tested with its command."""

import time

import numpy as np
import pytest

from keras_resnet.benchmarks.inputs import pipeline_seconds
from keras_resnet.benchmarks.turns import Seconds, take_turns
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.splits import ArraySplit
from keras_resnet.errors import UserError
from keras_resnet.progress import ProgressBar


@pytest.fixture
def progress():
    progress = ProgressBar(show=False)
    progress.begin("turns", None)
    return progress


def test_contestants_take_turns_in_changing_order(progress):
    ran = []
    calls = {"a": 1, "b": 3}
    take_turns({name: lambda name=name: ran.append(name) for name in calls}, turns=20, progress=progress, calls=calls)
    turns = [tuple(dict.fromkeys(ran[first : first + 4])) for first in range(0, len(ran), 4)]
    assert len(turns) == 1 + 20
    assert set(turns) == {("a", "b"), ("b", "a")}
    assert progress.done == 2 * 21


def test_the_slower_one_is_slower_and_what_is_self_timed_counts(progress):
    found = take_turns(
        {"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.002), "own": lambda: Seconds(5.0, 7.0)},
        turns=5,
        progress=progress,
    )
    assert found["fast"].speedup_over(found["slow"]) > 2  # 10, less what a busy machine adds to the shorter one
    assert len(found["slow"].wall) == 5
    assert (found["own"].wall_median, found["own"].cpu_median) == (5.0, 7.0)
    assert found["slow"].cpu_median < found["slow"].wall_median  # sleeping takes no processor time


def test_the_pipeline_is_timed_without_a_network():
    rng = np.random.default_rng(0)
    split = ArraySplit(rng.integers(0, 256, (37, 16, 16, 3), np.uint8), np.arange(37, dtype=np.int32) % 5)
    settings = Preprocessing(16, 16, 3, (0.5,) * 3, (0.2,) * 3)
    wall, cpu = pipeline_seconds(split, settings, batch_size=8, augmentation="crop_flip", seconds=0.05)
    assert 0 < wall < 0.01  # 10 ms for 768 bytes: a hundred times what it takes
    assert cpu > 0
    with pytest.raises(UserError, match="more than 0 seconds"):
        pipeline_seconds(split, settings, batch_size=8, seconds=0)
