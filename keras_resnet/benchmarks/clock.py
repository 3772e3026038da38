"""The clock of a training that has so many seconds: it stands still while the network is tested.

Imports no framework: every contestant of `budget.py` trains by this clock, whatever it is written in.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from keras_resnet.benchmarks.turns import Seconds

_TOLERANCE = 0.01  # part of the budget by which a step may end behind its mark


@dataclass(frozen=True)
class Mark:
    """The network at a mark of the budget: the last one that was ready before it, or a hundredth of the budget later.

    Attributes:
        mark_seconds: The mark.
        seconds: Wall time of the training up to this network, making it ready included.
        cpu_seconds: Processor time of all threads up to this network.
        images_seen: Images that it was trained on, those of every epoch counted.
        accuracy: On the test images, 0..1.
    """

    mark_seconds: float
    seconds: float
    cpu_seconds: float
    images_seen: int
    accuracy: float


class BudgetClock:
    """Says how far a training is in its budget, and has the network tested at evenly spaced marks.

    Args:
        seconds: The budget.
        marks: How many marks; the last one is the end of the budget.
        test: Returns the accuracy of the network as it is, 0..1, and what making it ready took (averaged weights, their
            statistics), which counts as training. Leaves the training as it was.
        record: Takes each mark.
        show: Takes the seconds that have passed, about once a second.
    """

    def __init__(
        self,
        seconds: float,
        marks: int,
        *,
        test: Callable[[], tuple[float, Seconds]],
        record: Callable[[Mark], None],
        show: Callable[[float], None] = lambda seconds: None,
    ):
        self._seconds, self._marks = seconds, [seconds * (number + 1) / marks for number in range(marks)]
        self._test, self._record, self._show = test, record, show
        self.images_seen, self._shown = 0, 0.0

    def start(self) -> None:
        """Starts the clock. Before that the test runs twice: it traces its functions, then its cost is known."""
        self._test()
        accuracy, self._cost = self._test()
        self._ready = Mark(0.0, 0.0, 0.0, 0, accuracy)
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._last = 0.0

    @property
    def progress(self) -> float:
        """The part of the budget that has passed, 0..1."""
        return min(1.0, self._now().wall / self._seconds)

    def step(self, images: int) -> bool:
        """Notes that a training step is done.

        Args:
            images: How many images it had.

        Returns:
            Whether the budget is spent.
        """
        now = self._now()
        self.images_seen += images
        # The first step traces, which says nothing of the next one.
        took = now.wall - self._last if self._last else 0.0
        self._last = now.wall
        # A mark within the next step is tested now: what comes out behind it is not this mark's.
        while self._marks and now.wall + took + self._cost.wall > self._marks[0]:
            mark = self._marks.pop(0)
            if now.wall + self._cost.wall <= mark + _TOLERANCE * self._seconds:
                self._test_now(now, mark)
            self._record(dataclasses.replace(self._ready, mark_seconds=mark))
        if now.wall - self._shown >= 1:
            self._shown = now.wall
            self._show(now.wall)
        return not self._marks

    def _now(self) -> Seconds:
        return Seconds(time.perf_counter() - self._wall, time.process_time() - self._cpu)

    def _test_now(self, now: Seconds, mark: float) -> None:
        if self._ready.images_seen != self.images_seen:
            accuracy, self._cost = self._test()
            spent = (before + cost for before, cost in zip(now, self._cost, strict=True))
            self._ready = Mark(mark, *spent, self.images_seen, accuracy)
        stood = self._now()
        self._wall += stood.wall - now.wall
        self._cpu += stood.cpu - now.cpu
