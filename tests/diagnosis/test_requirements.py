"""Tested ranges are read from where pip reads them, and the lock file satisfies them."""

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from keras_resnet.diagnosis.requirements import requirements

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("requirements*.txt"))
# Ray is not part of the checks, because it takes 330 MB with its dependencies.
# tests/training/test_ray.py runs where it is installed.
UNLOCKED = ("requirements-lock.txt", "requirements-ray.txt")


def lines_of(path):
    return [line for text in path.read_text().splitlines() if (line := text.partition("#")[0].strip())]


@pytest.fixture(scope="module")
def locked():
    """The lock file's pins by name."""
    pins = {}
    for line in lines_of(ROOT / "requirements-lock.txt"):
        name, version = re.fullmatch(r"([\w.-]+)==(\S+)", line).groups()
        assert canonicalize_name(name) not in pins, f"{name} is pinned twice"
        pins[canonicalize_name(name)] = Version(version)
    return pins


def test_a_checkouts_requirements_are_those_of_its_files():
    needed = requirements(ROOT)
    assert needed.python == ">=3.11,<3.14"
    assert [str(row) for row in needed.base] == [str(Requirement(line)) for line in lines_of(ROOT / "requirements.txt")]
    assert set(needed.extras) == {"torch", "onnx", "openvino", "litert", "jax", "ray", "serve", "docs"}
    assert [row.name for row in needed.extras["torch"]] == ["torch", "safetensors"]
    assert needed.commands[""] == "pip install -r requirements.txt"
    assert needed.commands["torch"] == "pip install -r requirements-torch.txt"
    assert str(needed.of("ai_edge.litert")) == str(needed.of("ai-edge-litert"))
    assert needed.of("ai-edge-litert").specifier
    assert str(needed.of("unheard-of")) == "unheard-of"


def test_an_installed_packages_requirements_are_those_of_its_metadata(tmp_path, monkeypatch):
    folder = tmp_path / "keras_resnet-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: keras-resnet\nVersion: 0.1.0\nRequires-Python: <3.14,>=3.11\n"
        "Requires-Dist: tensorflow<2.22,>=2.21\nRequires-Dist: tomli>=2; python_version < '3'\n"
        "Provides-Extra: torch\nRequires-Dist: torch<2.14,>=2.13; extra == 'torch'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    needed = requirements(tmp_path)
    assert (needed.python, [str(row) for row in needed.base]) == ("<3.14,>=3.11", ["tensorflow<2.22,>=2.21"])
    assert [row.name for row in needed.extras["torch"]] == ["torch"]
    assert needed.commands["torch"] == 'pip install "torch<2.14,>=2.13"'


@pytest.mark.parametrize("path", [path for path in FILES if path.name not in UNLOCKED], ids=lambda path: path.name)
def test_the_lock_satisfies_every_range(path, locked):
    for line in lines_of(path):
        if line.startswith("-r "):
            assert (path.parent / line.removeprefix("-r ")).is_file()
            continue
        needed = Requirement(line)
        assert needed.specifier.contains(locked[canonicalize_name(needed.name)]), line


def test_the_lock_holds_what_the_locked_packages_need_in_turn(locked):
    # By the metadata of those that are installed here in the locked version.
    checked = 0
    for name, version in locked.items():
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if Version(found.version).public != version.public:
            continue
        checked += 1
        for text in found.requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert needed.specifier.contains(locked[canonicalize_name(needed.name)], prereleases=True), (name, text)
    assert checked > 20


def test_the_lock_names_plain_versions_and_no_index(locked):
    assert all(version.local is None for version in locked.values())
    text = (ROOT / "requirements-lock.txt").read_text()
    assert not re.search(r"https?:|file:|--", text)
