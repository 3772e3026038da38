"""Timing in turns, for machines that are shared and whose wall time jumps.

Every contestant runs once a turn, each turn in another order, so that a busy machine is busy for all of them and none
always comes behind the same one, whose data fills the caches. Medians count, ratios are taken within a turn, and the
processor time of all threads is kept beside the wall time.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np

from keras_resnet.progress import ProgressBar


class Seconds(NamedTuple):
    """What a call took: wall time, and processor time of all threads."""

    wall: float
    cpu: float


# Runs once. It may return `Seconds`, where not all of the call counts; anything else is ignored.
Contestant = Callable[[], Any]


@dataclass
class Timings:
    """The seconds that a call takes, a value per turn.

    Attributes:
        wall: Wall time.
        cpu: Processor time of all threads.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def wall_median(self) -> float:
        """The median of the wall times in seconds."""
        return median(self.wall)

    @property
    def cpu_median(self) -> float:
        """The median of the processor times in seconds."""
        return median(self.cpu)

    def speedup_over(self, other: "Timings") -> float:
        """Returns how many times as fast as another contestant this one is by wall time."""
        return median(theirs / own for theirs, own in zip(other.wall, self.wall, strict=True))

    def cpu_speedup_over(self, other: "Timings") -> float:
        """Returns how many times as fast as another contestant this one is by processor time."""
        return median(theirs / max(own, 1e-9) for theirs, own in zip(other.cpu, self.cpu, strict=True))


def take_turns(
    contestants: Mapping[str, Contestant],
    *,
    turns: int,
    progress: ProgressBar,
    warmups: int = 1,
    calls: Mapping[str, int] | None = None,
    pause: float = 0.0,
) -> dict[str, Timings]:
    """Times contestants in turns.

    Args:
        contestants: Name → what is timed. It must wait for its own result.
        turns: How many turns count.
        progress: Takes one step a contestant and turn, warm-ups included.
        warmups: Turns before those that count, for tracing and caches.
        calls: How often each contestant is called in a turn, the median of which counts; once without it.
        pause: Seconds before each contestant's turn, in which the threads of the one before stop waiting for work
            (they do so by spinning, and would take a core from the next).

    Returns:
        Name → its timings.
    """
    found = {name: Timings() for name in contestants}
    random = np.random.default_rng(0)
    for turn in range(-warmups, turns):
        for name in random.permutation(list(contestants)):
            time.sleep(pause)
            took = [_timed(contestants[name]) for _ in range(calls[name] if calls else 1)]
            if turn >= 0:
                found[name].wall.append(median(seconds.wall for seconds in took))
                # Its clock is too coarse for a single short call.
                found[name].cpu.append(fmean(seconds.cpu for seconds in took))
            progress.step()
    return found


def _timed(contestant: Contestant) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    own = contestant()
    return own if isinstance(own, Seconds) else Seconds(time.perf_counter() - wall, time.process_time() - cpu)
