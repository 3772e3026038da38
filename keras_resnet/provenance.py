"""What a result must say about itself: versions, hardware, commit and the command that made it."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from keras_resnet.backends import JAX, TENSORFLOW, backend
from keras_resnet.distribution import gpu_names

_HERE = Path(__file__).resolve().parent
_PACKAGES = ("tensorflow", "keras", "numpy")


def versions() -> dict[str, str]:
    """Returns package → version for Python, TensorFlow, Keras, NumPy, this project and JAX where Keras runs on it,
    without importing them.
    """
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *([JAX] if backend() == JAX else []), "keras-resnet"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    return found


def hardware() -> str:
    """Returns the processor's name, how many cores this process may use, and the GPUs once the backend runs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    described = f"{_processor()}, {cores} cores"
    names = gpu_names() if backend() in sys.modules else []
    return ", ".join([described, *names])


def commit(folder: Path = _HERE) -> str:
    """Returns the short commit of the source in `folder`, with "-dirty" behind it where a tracked file was changed.

    What lies in results/ does not count: the row that a benchmark writes first would mark those it writes next. The
    default is this package's source; "" where it is not a checkout.
    """
    try:
        name = _git(folder, "rev-parse", "--short", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":(top)", ":(top,exclude)results")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{name}-dirty" if changed else name


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", os.fspath(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def result_row() -> dict[str, str]:
    """Returns the columns that every row of results/*.csv ends with."""
    found = versions()
    return {
        "tensorflow": found["tensorflow"],
        "keras": f"{found['keras']} on JAX {found[JAX]}" if backend() == JAX else found["keras"],
        "python": found["python"],
        "hardware": hardware(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
    }


def command(program: str, arguments: list[str]) -> str:
    """Returns a command line as one would type it, the backend before it where it is not TensorFlow."""
    line = shlex.join(["python", program, *arguments])
    return line if backend() == TENSORFLOW else f"KERAS_BACKEND={backend()} {line}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
