"""`python -m keras_resnet doctor`, on whole installations and on broken ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_resnet.cli import doctor
from keras_resnet.cli.main import main
from keras_resnet.diagnosis.examination import PITFALLS, PROBES
from keras_resnet.diagnosis.findings import Finding
from keras_resnet.diagnosis.probing import run_probes

ROOT = Path(__file__).parents[2]


def run(*arguments, python=(), environment=None):
    return subprocess.run(
        [sys.executable, *python, "-m", "keras_resnet", "doctor", *arguments],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, **(environment or {})},
    )  # fmt: skip


def packages_where(folder, source):
    """Makes a package `tensorflow` that is found first; returns the environment."""
    (folder / "tensorflow").mkdir()
    (folder / "tensorflow" / "__init__.py").write_text(source)
    return {"PYTHONPATH": str(folder)}


def rows_by_check(answer):
    return {row["check"]: row for row in json.loads(answer.stdout)["findings"]}


def test_help_loads_no_large_library():
    code = (
        "import sys; from keras_resnet.cli.main import main\n"
        "try: main(['doctor', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'tensorflow', 'keras', 'numpy', 'packaging'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert shown.stdout.startswith("usage: keras-resnet doctor")


def test_wrong_usage_is_one_line_and_exit_code_2(capsys):
    assert main(["doctor", "--quik"]) == 2
    assert capsys.readouterr().err == "error: Unknown flag '--quik'. Closest: '--quick'.\n"


def test_where_nothing_is_installed_it_says_what_to_install():
    # Without `site` Python has its standard library alone.
    answer = run(python=["-S"], environment={"PYTHONPATH": ""})
    assert answer.returncode == 1, answer.stderr
    assert "has no package 'packaging'" in " ".join(answer.stdout.split())
    assert "→ pip install -r requirements.txt" in answer.stdout
    assert "The default training does not work here: see packages" in answer.stdout
    assert answer.stderr == ""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise ImportError('libcudart.so: cannot open\\nmore')", "ImportError: libcudart.so: cannot open"),
        ("import os; os.kill(os.getpid(), 11)", "crashed (SIGSEGV)"),
        ("import sys; print('needs AVX', file=sys.stderr, flush=True); sys.exit(9)", "exit code 9: needs AVX"),
    ],
)
def test_a_broken_tensorflow_is_named_and_nothing_is_tried_behind_it(tmp_path, source, words):
    answer = run("--json", environment=packages_where(tmp_path, source))
    assert answer.returncode == 1, answer.stderr
    rows = rows_by_check(answer)
    assert words in rows["TensorFlow"]["found"]
    assert rows["TensorFlow"]["advice"].startswith('pip install --force-reinstall "tensorflow<2.22,>=2.21"')
    assert rows["TensorFlow"]["stops_training"]
    assert json.loads(answer.stdout)["training_works"] is False
    assert "Keras" not in rows
    assert {"Python", "packages", "extra onnx", "working folder", "weights cache"} <= set(rows)


@pytest.mark.parametrize("place", ["KERAS_BACKEND", "keras.json"])
def test_an_unusable_backend_is_named_and_the_rest_tried_without_it(tmp_path, monkeypatch, place):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    if place == "KERAS_BACKEND":
        monkeypatch.setenv("KERAS_BACKEND", "theano")
    else:
        (tmp_path / "keras.json").write_text('{"backend": "theano"}')
    backend, tensorflow, keras = run_probes(PROBES[:3])
    assert (backend.status, tensorflow.status, keras.status) == ("problem", "ok", "ok")
    assert backend.found.endswith(f"{place} asks for 'theano'")
    assert backend.stops_training


def test_rows_are_read_by_people(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    findings = [
        Finding("ok", "3.11", check="Python"),
        Finding("note", "a sentence that is longer than what fits into the third column", "Do this.", check="disk"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda quick: findings)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ok       Python               3.11"
    assert lines[1].startswith("note     disk                 a sentence")
    assert lines[-3] == " " * 30 + "→ Do this."
    assert lines[-1] == "The default training works here (1 note)."
    assert max(map(len, lines)) <= 60

    findings.append(Finding("problem", "gone", "Mend it.", True, "TensorFlow"))
    assert main(["doctor"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "The default training does not work here: see TensorFlow (1 problem, 1 note)."


@pytest.mark.slow
def test_everything_is_tried_on_this_machine():
    answer = run("--json")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    rows = rows_by_check(answer)
    assert {probe.check for probe in PROBES + PITFALLS} <= set(rows)
    assert [row["check"] for row in rows.values() if row["status"] == "problem"] == []
    assert "2 epochs of resnet8 on digits" in rows["default training"]["found"]
    assert rows["TensorFlow Datasets"]["status"] == rows["tf-keras-vis"]["status"] == "ok"
    assert json.loads(answer.stdout)["versions"]["tensorflow"]
