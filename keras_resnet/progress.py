"""What long work shows on standard error while it lasts."""

import sys
import time

_WIDTH = 100  # of a line in a log file


def close_bars() -> None:
    """Ends the lines of bars that an error cut short, so that its sentence gets a line of its own."""
    # Not loaded, tqdm has drawn nothing; what answers --help or serves .tflite files does without it.
    if "tqdm" in sys.modules:
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()


class ProgressBar:
    """A bar for each stage of some work: steps done, steps per second, time left.

    On a terminal the bar is redrawn as it fills. Elsewhere (a log file) each finished stage is written once.

    Args:
        stages: How many there will be.
        show: Whether anything is shown.

    Attributes:
        done: Steps of the present stage that are done.
    """

    def __init__(self, stages: int = 1, *, show: bool = True):
        self.done = 0
        self._stages, self._show, self._stage = stages, show, 0

    def begin(self, label: str, total: int | None = 1, unit: str = "images") -> None:
        """Starts the next stage.

        Args:
            label: What is done in it.
            total: Its steps; None where nobody knows.
            unit: What a step is; "B" for bytes, which are shown as kB, MB and so on.
        """
        from tqdm import tqdm

        self._stage, self.done, self._began = self._stage + 1, 0, time.monotonic()
        numbered = f"[{self._stage}/{self._stages}] {label}" if self._stages > 1 else label
        self._looks = {"total": total, "unit": unit if unit == "B" else f" {unit}", "unit_scale": unit == "B"}
        self._label = numbered.ljust(34) if self._stages > 1 else numbered
        self._live = self._show and sys.stderr.isatty()
        self._bar = tqdm(desc=self._label, file=sys.stderr, disable=not self._live, **self._looks)

    def step(self, count: int = 1) -> None:
        """Notes that `count` more steps are done."""
        self.done += count
        self._bar.update(count)

    def reach(self, done: int, total: int) -> None:
        """Notes that `done` of `total` steps are done, for work that learns only by and by how much it is."""
        if done < self.done or total != self._looks["total"]:
            self._looks["total"] = self._bar.total = total
        self.step(done - self.done)

    def end(self, done: int | None = None) -> None:
        """Finishes the stage, with `done` of its steps where it was cut short."""
        self.step((self._looks["total"] or self.done) - self.done if done is None else done - self.done)
        self._bar.close()
        if self._show and not self._live:
            seconds = time.monotonic() - self._began
            line = self._bar.format_meter(self.done, elapsed=seconds, prefix=self._label, ncols=_WIDTH, **self._looks)
            print(line, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Finishes the stage and wipes its bar, where the result says by itself that the work is done."""
        self._bar.leave = False
        self._bar.close()


def duration(seconds: float) -> str:
    """Returns a time span as people write it: "45s", "3m05s", "2h07m"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
