"""What the doctor tells without TensorFlow."""

import importlib.metadata
import shutil
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from keras_resnet.diagnosis import surroundings
from keras_resnet.diagnosis.requirements import Requirements
from keras_resnet.diagnosis.surroundings import check_disks, check_extras, check_packages, check_python, driver_gpus

NEEDED = Requirements(
    python=">=3.11,<3.14",
    base=(Requirement("alpha>=1,<2"), Requirement("beta>=1,<2"), Requirement("gamma>=1,<2")),
    extras={"more": (Requirement("delta>=1"), Requirement("epsilon>=1"))},
    commands={"": "install all", "more": "install more"},
)


@pytest.fixture
def installed(monkeypatch):
    """Package → version, as if they alone were installed."""
    versions = {}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(surroundings.importlib.metadata, "version", version)
    return versions


def answers(findings):
    return [(finding.status, finding.check, finding.advice) for finding in findings]


@pytest.mark.parametrize(
    ("version", "status"),
    [("3.11.0", "ok"), ("3.13.9", "ok"), ("3.10.14", "problem"), ("3.14.0", "problem"), ("3.12.0rc1", "ok")],
)
def test_pythons_version_is_held_to_its_range(version, status):
    (found,) = check_python(NEEDED, version)
    assert found.status == status
    assert version in found.found


def test_packages_outside_their_range_are_notes_and_missing_ones_problems(installed):
    installed.update(alpha="1.5", beta="2.0")
    found = list(check_packages(NEEDED))
    assert answers(found) == [
        ("note", "package beta", 'pip install "beta<2,>=1"'),
        ("problem", "package gamma", 'pip install "gamma<2,>=1"'),
        ("ok", "packages", ""),
    ]
    assert "2.0 is outside <2,>=1" in found[0].found
    assert "1 of 3" in found[-1].found


def test_where_nothing_is_installed_the_advice_is_to_install_everything(installed):
    found = list(check_packages(NEEDED))
    assert [row.status for row in found] == ["problem"] * 4
    assert found[-1].advice == "install all"


def test_extras_are_installed_or_come_with_their_command(installed):
    installed.update(delta="1.0")
    assert answers(check_extras(NEEDED)) == [("ok", "extra more", "install more")]
    installed.update(epsilon="0.9")
    assert answers(check_extras(NEEDED)) == [("note", "extra more", "install more")]
    installed.update(epsilon="1.1")
    assert answers(check_extras(NEEDED)) == [("ok", "extra more", "")]


def test_disks_need_room_and_a_folder_that_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_RESNET_CACHE", str(tmp_path / "cache" / "below"))
    working, cache = check_disks(tmp_path)
    assert (working.status, cache.status) == ("ok", "ok")
    assert not (tmp_path / "cache").exists()

    usage = SimpleNamespace(total=10**9, used=9 * 10**8, free=10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    working, cache = check_disks(tmp_path)
    assert (working.status, cache.status) == ("note", "note")
    assert "100.0 MB free" in working.found

    usage.free = 10**6
    working, cache = check_disks(tmp_path)
    assert (working.status, cache.status) == ("problem", "problem")
    assert (working.stops_training, cache.stops_training) == (True, False)

    (tmp_path / "file").write_text("")
    usage.free = 10**10
    working, _ = check_disks(tmp_path / "file")
    assert working.stops_training
    assert "is not a folder" in working.found


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo 'NVIDIA H100'; echo 'NVIDIA A100'", ["NVIDIA H100", "NVIDIA A100"]), ("exit 9", []), ("true", [])],
)
def test_gpus_are_those_that_the_driver_names(tmp_path, monkeypatch, script, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(surroundings, "_DRIVER_FILES", tmp_path / "gpus")
    assert driver_gpus() == expected


def test_gpus_are_known_without_the_drivers_program(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = tmp_path / "gpus" / "0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text("Model: \t\t NVIDIA H100\nIRQ: 1\n")
    monkeypatch.setattr(surroundings, "_DRIVER_FILES", tmp_path / "gpus")
    assert driver_gpus() == ["NVIDIA H100"]
