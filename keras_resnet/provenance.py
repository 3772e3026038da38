"""What a result must say about itself: versions, hardware, commit and the command that made it."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_PACKAGES = ("tensorflow", "keras", "numpy")


def versions() -> dict[str, str]:
    """Returns package → version for Python, TensorFlow, Keras, NumPy and this project, without importing them."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, "keras-resnet"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    return found


def hardware() -> str:
    """Returns the processor's name and how many cores this process may use, and the GPUs when TensorFlow runs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    described = f"{_processor()}, {cores} cores"
    if "tensorflow" in sys.modules:
        import tensorflow as tf

        for device in tf.config.list_physical_devices("GPU"):
            name = tf.config.experimental.get_device_details(device).get("device_name", "GPU")
            described += f", {name}"
    return described


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
        "keras": found["keras"],
        "python": found["python"],
        "hardware": hardware(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
    }


def command(program: str, arguments: list[str]) -> str:
    """Returns a command line as one would type it."""
    return shlex.join(["python", program, *arguments])


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
