"""The clock of a budget, with a time that the test sets."""

from types import SimpleNamespace

import pytest

from keras_resnet.benchmarks import clock
from keras_resnet.benchmarks.turns import Seconds


@pytest.fixture
def world(monkeypatch):
    """`wall` and `cpu` pass when the test says so."""
    world = SimpleNamespace(wall=1000.0, cpu=50.0, tests=0)
    fake = SimpleNamespace(perf_counter=lambda: world.wall, process_time=lambda: world.cpu)
    monkeypatch.setattr(clock, "time", fake)
    return world


def run(world, steps, *, seconds, marks, cost=0.0):
    """Steps of the given lengths; each test takes 100 seconds, and the accuracy is the number of images seen."""
    found, progress = [], []

    def test():
        world.wall, world.cpu = world.wall + cost + 100, world.cpu + 2 * cost + 150
        world.tests += 1
        return budget.images_seen, Seconds(cost, 2 * cost)

    budget = clock.BudgetClock(seconds, marks, test=test, record=found.append)
    budget.start()
    for length in steps:
        world.wall, world.cpu = world.wall + length, world.cpu + 2 * length
        is_over = budget.step(10)
        progress.append(budget.progress)
        if is_over:
            break
    return found, progress, is_over


def test_tests_cost_no_time(world):
    found, progress, is_over = run(world, [1.0] * 50, seconds=20, marks=4)
    assert is_over
    assert world.tests == 2 + 4
    assert [mark.mark_seconds for mark in found] == [5, 10, 15, 20]
    # The step that ends at 5 seconds exactly is within the mark.
    assert [mark.seconds for mark in found] == [5, 10, 15, 20]
    assert [mark.cpu_seconds for mark in found] == [10, 20, 30, 40]
    assert [mark.accuracy for mark in found] == [mark.images_seen for mark in found] == [50, 100, 150, 200]
    assert progress == pytest.approx([step / 20 for step in range(1, 21)])


def test_a_network_counts_at_the_marks_that_it_was_ready_for(world):
    found, *_ = run(world, [0.5, 2.5] + [3.0] * 50, seconds=20, marks=4)
    assert [mark.seconds for mark in found] == [3, 9, 15, 18]
    # Averaged weights that take 2 seconds have to be begun that much earlier, and training goes on without them.
    found, *_ = run(world, [0.5, 2.5] + [3.0] * 50, seconds=20, marks=4, cost=2.0)
    assert [mark.seconds for mark in found] == [5, 8, 14, 20]
    assert [mark.images_seen for mark in found] == [20, 30, 50, 70]
    assert [mark.cpu_seconds for mark in found] == [10, 16, 28, 40]


def test_marks_within_one_long_step_have_the_network_before_it(world):
    found, *_ = run(world, [12.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], seconds=20, marks=4)
    assert [mark.images_seen for mark in found] == [0, 0, 40, 90]
    assert [mark.mark_seconds for mark in found] == [5, 10, 15, 20]


def test_a_step_that_is_longer_than_the_one_before_may_end_just_behind_its_mark(world):
    found, *_ = run(world, [1.0] * 4 + [0.9, 0.2] + [1.0] * 20, seconds=20, marks=4)
    assert found[0].seconds == pytest.approx(4.9)
    found, *_ = run(world, [1.0] * 4 + [0.05, 1.1] + [1.0] * 20, seconds=20, marks=4)
    assert found[0].seconds == pytest.approx(5.15)
