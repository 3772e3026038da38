"""Workers on this machine, started, watched and started again: `train.py --workers N`.

Each is the same command in a process of its own, with its place in the environment (see `workers`). The chief's
output is shown; another worker's only where it ends first. This module imports neither TensorFlow nor Keras.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from keras_resnet.errors import UserError
from keras_resnet.workers import ADDRESS, RANK, START_TIMEOUT, WORKERS

ENGINES = ("local", "ray")  # what starts the workers: this module, or `ray_launch`
START_SECONDS = 120
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_TOLD = 2000  # characters of a worker's output that an error shows
_FLAGS = ("--workers", "--restarts", "--engine", "--address")
USER_ERROR = 2  # the exit code of what another start would not mend


def launch(
    command: Sequence[str],
    workers: int,
    *,
    restarts: int = 0,
    environment: Mapping[str, str] | None = None,
    report: Callable[[str], None] = print,
) -> int:
    """Runs a command as several workers until all have ended well.

    Args:
        command: What each worker runs.
        workers: How many.
        restarts: How many times all are started again where one was lost; they resume by themselves.
        environment: Of the workers; default: that of this process.
        report: Told of a start after the first.

    Returns:
        The exit code: 0, or the chief's where it told the user what to mend.

    Raises:
        UserError: A worker was lost and no start is left.
    """
    environment = dict(os.environ if environment is None else environment)
    # The package may lie where only the script that was started finds it.
    package = Path(__file__).parents[2]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package), environment.get("PYTHONPATH")]))
    for attempt in range(restarts + 1):
        failed = _run(without_overwrite(command) if attempt else command, workers, environment)
        if failed is None:
            return 0
        rank, code, told = failed
        if code == USER_ERROR and rank == 0:
            return code
        ending = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        said = f" The worker's output:\n{told}" if told else ""
        lost = f"Worker {rank} of {workers} ended {ending}, and the others were stopped."
        if code == USER_ERROR or attempt == restarts:
            raise UserError(f"{lost} The same command resumes from the newest checkpoint.{said}")
        report(f"{lost} Starting all again ({attempt + 1} of {restarts}).{said}")
    raise AssertionError


def _run(command: Sequence[str], workers: int, environment: dict[str, str]) -> tuple[int, int, str] | None:
    """Runs the workers once; returns rank, exit code and output of the one that failed first."""
    place = {ADDRESS: ",".join(f"127.0.0.1:{port}" for port in free_ports(workers)), WORKERS: str(workers)}
    environment = {START_TIMEOUT: str(START_SECONDS), **environment, **place}
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / f"{rank}.txt" for rank in range(workers)]
        processes: list[subprocess.Popen] = []
        try:
            for rank in range(workers):
                with open(outputs[rank], "w") as output:
                    streams: dict[str, IO | None] = {"stdout": output, "stderr": output} if rank else {}
                    processes.append(
                        # In a session of its own, so that Ctrl-C reaches it through this process alone, once.
                        subprocess.Popen(
                            command, env={**environment, RANK: str(rank)}, start_new_session=True, **streams
                        )
                    )
            failed = _first_failure(processes)
        finally:
            _end(processes)
        if failed is None:
            return None
        rank, code = failed
        return rank, code, outputs[rank].read_text(errors="replace")[-_TOLD:].strip()


def _first_failure(processes: Sequence[subprocess.Popen]) -> tuple[int, int] | None:
    """Waits until all have ended well, or one has not; returns its rank and exit code."""
    while True:
        codes = [process.poll() for process in processes]
        ended = [(rank, code) for rank, code in enumerate(codes) if code]
        if ended:
            # One that was killed or failed is the cause. The others notice that it is gone and end with USER_ERROR.
            return min(ended, key=lambda pair: (pair[1] >= 0, pair[1] == USER_ERROR, pair[0]))
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.05)


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """Ends what still runs: politely, and after a while by force."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    until = time.monotonic() + _GRACE
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Returns ports of this machine that are free."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


def without_overwrite(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments for a restart, which continues what was begun instead of removing it again."""
    return [argument for argument in arguments if argument != "--overwrite"]


def worker_arguments(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments of train.py for a worker, without the flags that launch workers."""
    kept, skip = [], False
    for argument in arguments:
        name, sign, _ = argument.partition("=")
        if not skip and name not in _FLAGS:
            kept.append(argument)
        skip = not skip and name in _FLAGS and not sign
    return kept


def worker_command(arguments: Sequence[str]) -> list[str]:
    """Returns the command of a worker that trains with these arguments of train.py."""
    start = "import sys; from keras_resnet.cli.train import main; sys.exit(main())"
    return [sys.executable, "-c", start, *worker_arguments(arguments)]
