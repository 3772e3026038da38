"""The image holds what the server needs and nothing else: the Dockerfile is read; run_container.py does it."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.run_container import read_steps

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def steps():
    return read_steps()


def test_what_is_copied_is_there_and_not_ignored(steps):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    kept = {line[1:].rstrip("/") for line in ignored if line.startswith("!")}
    copied = {source for name, rest in steps if name == "COPY" for source in shlex.split(rest)[:-1]}
    assert copied == kept == {"requirements-serve.txt", "serve.py", "keras_resnet"}
    assert all((ROOT / source).exists() for source in copied)


def test_nothing_in_it_runs_as_root_or_needs_tensorflow(steps):
    found = dict(steps)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", found["USER"])
    assert [name for name, _ in steps].index("USER") > max(i for i, (name, _) in enumerate(steps) if name == "RUN")
    assert "/readyz" in found["HEALTHCHECK"]
    assert "--backend" in found["ENTRYPOINT"]
    packages = (ROOT / "requirements-serve.txt").read_text().lower()
    assert not re.search(r"^(tensorflow|keras|-r)", packages, re.MULTILINE)


def test_its_flags_are_those_of_the_script(steps):
    from keras_resnet.cli.serve import build_parser

    found = dict(steps)
    words = [re.findall(r'"([^"]*)"', found[name]) for name in ("ENTRYPOINT", "CMD")]
    arguments = build_parser().parse_args([*words[0][2:], *words[1]])
    assert (arguments.host, str(arguments.port), arguments.models) == ("0.0.0.0", found["EXPOSE"], ["/models"])


def test_compose_shows_the_server_to_this_machine_alone():
    (service,) = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    assert service["ports"] == ["127.0.0.1:8501:8501"]
    assert service["volumes"] == ["./saved_models:/models:ro"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
