"""Runs probes in a process of their own, so that a crash or an endless wait of one is an answer like any other."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from keras_resnet.diagnosis.findings import OK, PROBLEM, Finding
from keras_resnet.errors import UserError

# The file that a process's standard error goes to; probes read in it what TensorFlow says about itself.
LOG_VARIABLE = "KERAS_RESNET_DOCTOR_LOG"
_START = "\n".join(
    (
        "import json, sys",
        "sys.path[:] = json.loads(sys.argv[1])",
        "from keras_resnet.diagnosis.worker import main",
        "main()",
    )
)
_LAST_WORDS_LENGTH = 300


@dataclass(frozen=True)
class Probe:
    """Something to try.

    Attributes:
        check: What it looks at, as the table names it.
        function: "package.module:function" that returns a `Finding`.
        advice: What to do where it does not answer "ok".
        failure: The status where it raises, crashes or takes too long.
        stops_training: Whether the default training cannot work then.
        limit_s: How long it may take.
        is_basis: Whether nothing behind it can be tried where it fails.
        is_alone: Whether it gets a process to itself, because what it does wrong may show later.
        mend: Environment variables with which it and the others are tried again where it fails.
    """

    check: str
    function: str
    advice: str = ""
    failure: str = PROBLEM
    stops_training: bool = False
    limit_s: float = 120.0
    is_basis: bool = False
    is_alone: bool = False
    mend: Mapping[str, str] = field(default_factory=dict)


def run_probes(probes: Sequence[Probe]) -> Iterator[Finding]:
    """Tries probes, in order and in as few processes as possible.

    Args:
        probes: What to try.

    Yields:
        The finding of each, as it comes. Behind a basis that fails nothing more is tried.
    """
    left, environment, again = list(probes), {}, None
    while left:
        with _Process(environment) as process:
            for probe in _together(left):
                found = process.try_out(probe)
                is_bad = found.status == PROBLEM
                if probe is not again:
                    yield found
                    if is_bad and probe.mend:
                        environment, again = {**environment, **probe.mend}, probe
                        break
                left.remove(probe)
                if is_bad and probe.is_basis:
                    return
                if not process.is_running:
                    break


def _together(probes: Sequence[Probe]) -> list[Probe]:
    """The first probes, as many as may share a process."""
    if probes[0].is_alone:
        return [probes[0]]
    alone = (number for number, probe in enumerate(probes) if probe.is_alone)
    return list(probes[: next(alone, len(probes))])


class _Process:
    """A process that runs `worker.main`, ended with the `with` block.

    Attributes:
        is_running: Whether it can be asked more.
    """

    def __init__(self, environment: Mapping[str, str]):
        # What a crash leaves behind goes with the folder.
        self._folder = tempfile.TemporaryDirectory(prefix="keras-resnet-doctor-", ignore_cleanup_errors=True)
        self._log = Path(self._folder.name) / "log"
        variables = {
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "0",  # TensorFlow tells about itself
            "TMPDIR": self._folder.name,
            **environment,
            LOG_VARIABLE: str(self._log),
        }
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env=variables,
            )
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.is_running = True

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *error: Any) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close()
        self._folder.cleanup()

    def try_out(self, probe: Probe) -> Finding:
        """Returns what a probe finds, or how it failed."""
        try:
            found = self._ask(probe)
        except _Failure as failure:
            found = Finding(probe.failure, str(failure), probe.advice, probe.stops_training)
        if found.status != OK and not found.advice:
            found = replace(found, advice=probe.advice)
        return replace(found, check=probe.check)

    def _ask(self, probe: Probe) -> Finding:
        try:
            self._process.stdin.write(probe.function + "\n")
            self._process.stdin.flush()
            if probe.is_alone:
                self._process.stdin.close()
        except OSError:
            raise self._ended() from None
        try:
            line = self._answers.get(timeout=probe.limit_s)
        except queue.Empty:
            self.is_running = False
            raise _Failure(f"took longer than {probe.limit_s:g} s, and was stopped") from None
        if not line:
            raise self._ended()
        if probe.is_alone and self._wait(probe.limit_s):
            raise self._ended()
        answer = json.loads(line)
        if "finding" in answer:
            return Finding(**answer["finding"])
        message = answer["message"]
        raise _Failure(message if answer["error"] == UserError.__name__ else f"{answer['error']}: {message}")

    def _wait(self, limit_s: float) -> int:
        """The exit code of a process that has nothing more to do."""
        self.is_running = False
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return 0  # it answered: that it does not end is nothing that was asked

    def _ended(self) -> "_Failure":
        self.is_running = False
        code = self._process.wait()
        try:
            how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        except ValueError:
            how = f"crashed (signal {-code})"
        lines = [line.strip() for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines()]
        said = next((line for line in reversed(lines) if line), "")
        return _Failure(f"{how}: {said[-_LAST_WORDS_LENGTH:]}" if said else how)

    def _read(self) -> None:
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")


class _Failure(Exception):
    """How a probe failed, in words."""
