"""What can be told without TensorFlow: versions, extras, disks, and the GPUs that the driver knows."""

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from keras_resnet.archives import megabytes
from keras_resnet.diagnosis.findings import NOTE, OK, PROBLEM, Finding
from keras_resnet.diagnosis.requirements import Requirements
from keras_resnet.errors import UserError
from keras_resnet.filesystem import CACHE_VARIABLE, cache_directory
from keras_resnet.storage import check_could_write

# What `training.setup.disk_needs` asks for: the default network, and ResNet-50.
NEEDED_BYTES = 25_000_000
SPARE_BYTES = 1_700_000_000

_DRIVER_FILES = Path("/proc/driver/nvidia/gpus")


def check_python(needed: Requirements, version: str | None = None) -> Iterator[Finding]:
    """Compares Python's version, or a given one, with the tested range."""
    version = version or platform.python_version()
    if not needed.python:
        return
    if SpecifierSet(needed.python).contains(version, prereleases=True):
        yield Finding(OK, f"{version} (tested: {needed.python})", check="Python")
        return
    advice = f"Make an environment with a Python {needed.python}."
    yield Finding(PROBLEM, f"{version} is outside {needed.python}, the tested range", advice, check="Python")


def check_packages(needed: Requirements) -> Iterator[Finding]:
    """Compares the installed versions with the tested ranges: one finding for each outside, and one for all within.

    None of them says that training is stopped: that is tried.
    """
    if not needed.base:
        return
    within = 0
    for requirement in needed.base:
        status, found = _installed(requirement)
        if status == OK:
            within += 1
            continue
        advice = f'pip install "{_plain(requirement)}"'
        yield Finding(status, found, advice, check=f"package {requirement.name}")
    found = f"{within} of {len(needed.base)} required ones are within their tested ranges"
    if within:
        yield Finding(OK, found, check="packages")
    else:
        yield Finding(PROBLEM, found, needed.commands[""], check="packages")


def check_extras(needed: Requirements) -> Iterator[Finding]:
    """Says of each extra whether it is installed, or how to install it."""
    for name, rows in needed.extras.items():
        answers = [_installed(row) for row in rows]
        missing = [row.name for row, (status, _) in zip(rows, answers, strict=True) if status == PROBLEM]
        unfit = [found for status, found in answers if status == NOTE]
        check = f"extra {name}"
        if missing:
            yield Finding(OK, f"not installed ({', '.join(missing)})", needed.commands[name], check=check)
        elif unfit:
            yield Finding(NOTE, "; ".join(unfit), needed.commands[name], check=check)
        else:
            versions = ", ".join(f"{row.name} {importlib.metadata.version(row.name)}" for row in rows)
            yield Finding(OK, versions, check=check)


def check_disks(working: Path | None = None) -> Iterator[Finding]:
    """Looks whether results and downloaded weights have room, in the working folder and in the cache."""
    cache = cache_directory()
    for check, folder, is_needed, advice in (
        ("working folder", working or Path.cwd(), True, "Change to a folder on another disk, or free some space."),
        ("weights cache", cache, False, f"Set {CACHE_VARIABLE} to another folder, or free some space."),
    ):
        there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
        free = shutil.disk_usage(there).free
        found = f"{folder}: {megabytes(free)} free"
        try:
            check_could_write(folder, NEEDED_BYTES)
        except UserError as error:
            yield Finding(PROBLEM, str(error), advice, stops_training=is_needed, check=check)
            continue
        if free < SPARE_BYTES:
            found += f", and a run of ResNet-50 asks for {megabytes(SPARE_BYTES)}"
            yield Finding(NOTE, found, advice, check=check)
        else:
            yield Finding(OK, found, check=check)


def driver_gpus() -> list[str]:
    """Returns the names of the GPUs that NVIDIA's driver knows, whatever TensorFlow sees; none without a driver."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        # Containers may have the driver without its program.
        files = sorted(_DRIVER_FILES.glob("*/information"))
        lines = [line for file in files for line in file.read_text(errors="replace").splitlines()]
        return [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")]
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _installed(requirement: Requirement) -> tuple[str, str]:
    """The status of a package and its version: a problem where it is missing, a note where its version is untested."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return PROBLEM, f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return OK, f"{requirement.name} {version}"
    return NOTE, f"{requirement.name} {version} is outside {requirement.specifier}, the tested range"


def _plain(requirement: Requirement) -> str:
    """A requirement without its marker, as one types it."""
    return f"{requirement.name}{requirement.specifier}"
