"""A progress bar on standard error, one line for each stage of an export."""

import sys
import time


class Progress:
    """Counts stages and the steps in each.

    On a terminal the line is redrawn as it fills; elsewhere (a log file) each finished stage is written once.
    """

    def __init__(self, stages: int, *, show: bool = True):
        self.stages, self.show = stages, show
        self.stage, self.label, self.total, self.done = 0, "", 1, 0
        self._began = self._drawn = 0.0

    def begin(self, label: str, total: int = 1) -> None:
        """Starts the next stage of `total` steps."""
        self.stage, self.label, self.total, self.done = self.stage + 1, label, max(1, total), 0
        self._began, self._drawn = time.monotonic(), 0.0
        self._draw()

    def step(self, count: int = 1) -> None:
        """Notes that `count` steps are done."""
        self.done = min(self.total, self.done + count)
        if time.monotonic() - self._drawn > 0.2:
            self._draw()

    def end(self, done: int | None = None) -> None:
        """Finishes the stage, with `done` of its steps where it was cut short."""
        self.done = self.total if done is None else done
        if self.show:
            end = "\n"
            start = "\r" if sys.stderr.isatty() else ""
            print(f"{start}{self._line()}", end=end, file=sys.stderr, flush=True)

    def _draw(self) -> None:
        if self.show and sys.stderr.isatty():
            self._drawn = time.monotonic()
            print(f"\r{self._line()}", end="", file=sys.stderr, flush=True)

    def _line(self) -> str:
        filled = 24 * self.done // self.total
        seconds = time.monotonic() - self._began
        bar = "█" * filled + "·" * (24 - filled)
        return f"[{self.stage}/{self.stages}] {self.label:<28} {bar} {self.done}/{self.total}  {seconds:,.0f} s"
