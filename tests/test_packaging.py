"""The built distributions hold the package as it lies in the tree: all of it, and nothing else."""

import email
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from keras_resnet import __version__

ROOT = Path(__file__).parents[1]
NAME = f"keras_resnet-{__version__}"
BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


def package_files():
    """The package's files, relative to the tree's root."""
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "keras_resnet").rglob("*") if path.is_file()}
    return {name for name in files if "__pycache__" not in name}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the tree with its tests and results, so that building leaves nothing behind in the tree itself."""
    copy = tmp_path_factory.mktemp("tree") / "project"
    # What runs and builds leave, and a checkout's own files.
    left_out = shutil.ignore_patterns(
        ".git", ".*_cache", "__pycache__", "*.egg-info", "build", "dist", "runs", "explanations", "1", "*.tflite"
    )
    shutil.copytree(ROOT, copy, ignore=left_out)
    return copy


@pytest.fixture(scope="module")
def sdist(tree):
    """The source distribution's files, by their path within it."""
    folder = tree.parent / "sdist"
    subprocess.run([sys.executable, "-c", BUILD, folder], cwd=tree, check=True, capture_output=True)
    with tarfile.open(folder / f"{NAME}.tar.gz") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}
    return {name.removeprefix(f"{NAME}/"): contents for name, contents in members.items()}


@pytest.fixture(scope="module")
def wheel(tree, sdist, tmp_path_factory):
    """The wheel's files, built of what the source distribution holds, without a network."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name, contents in sdist.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(contents)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-q"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True, capture_output=True)
    with zipfile.ZipFile(folder / f"{NAME}-py3-none-any.whl") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_the_wheel_holds_the_package_to_the_byte_and_nothing_else(wheel):
    held = {name for name in wheel if not name.startswith(f"{NAME}.dist-info/")}
    assert held == package_files()
    assert all(wheel[name] == (ROOT / name).read_bytes() for name in held)
    assert {"keras_resnet/py.typed", "keras_resnet/templates/base.html.jinja"} <= held


@pytest.mark.slow
def test_the_source_distribution_holds_what_it_takes_to_build_and_no_tests_or_results(sdist):
    own = {name for name in sdist if not name.startswith("keras_resnet.egg-info/")}
    assert package_files() == {name for name in own if name.startswith("keras_resnet/")}
    others = {name for name in own if not name.startswith(("keras_resnet/", "docs/"))}
    suffixes = (".py", ".md", ".txt", ".cff", ".toml", ".in", ".yml")
    root = {path.name for path in ROOT.iterdir() if path.suffix in suffixes}
    assert others == root | {"LICENSE", "PKG-INFO", "setup.cfg"}
    assert {"docs/architecture.md", "docs/heatmaps.png"} <= own
    assert not any(name.endswith((".csv", ".pyc")) for name in own)


@pytest.mark.slow
def test_the_metadata_says_what_the_project_file_says(wheel):
    metadata = email.message_from_bytes(wheel[f"{NAME}.dist-info/METADATA"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["Name"] == project["name"]
    assert metadata["Version"] == project["version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert f"{NAME}.dist-info/licenses/LICENSE" in wheel
    extras = {"torch", "onnx", "openvino", "litert", "jax", "ray", "serve", "docs"}
    assert set(metadata.get_all("Provides-Extra")) == extras
    required = [text for text in metadata.get_all("Requires-Dist") if "extra ==" not in text]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert len(required) == sum(bool(line) and not line.startswith("#") for line in lines)
    assert b"keras-resnet = keras_resnet.cli.main:main" in wheel[f"{NAME}.dist-info/entry_points.txt"]


def test_every_file_says_the_same_version():
    cited = [line for line in (ROOT / "CITATION.cff").read_text().splitlines() if line.startswith("version:")]
    assert cited == [f"version: {__version__}"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__
