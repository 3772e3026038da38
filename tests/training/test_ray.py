"""Workers started by Ray, compared with those of the local engine. CI does not install Ray: run this where it is."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_resnet.cli import train as train_script
from keras_resnet.training.launch import launch
from keras_resnet.workers import WORKERS

ROOT = Path(__file__).parents[2]
SESSION = Path(__file__).with_name("worker_session.py")
HERE = SESSION.parent
STEPS = 24

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocker")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['tensorflow'] = None\n")  # JAX starts faster
    return {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), str(HERE)]),
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }


def checkpoint(folder, name):
    with np.load(folder / name / "checkpoints" / "epoch-00004.npz") as file:
        return {key: file[key] for key in file.files if key != "progress"}  # it holds times


def start(environment, code, *arguments):
    code = f"import sys; from keras_resnet.training.ray_launch import launch_on_ray; {code}"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=600
    )


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_is_started_again_by_itself_and_ends_as_if_nothing_had_been(environment, tiny_data, tmp_path):
    command = [sys.executable, str(SESSION), tiny_data, str(tmp_path)]
    assert launch([*command, "local"], 2, environment=environment) == 0
    code = (
        "from worker_session import work; "
        "print('told', launch_on_ray(work, sys.argv[2:], 2, runs=sys.argv[1], restarts=1))"
    )
    done = start(environment, code, tmp_path, tiny_data, tmp_path, "ray", STEPS - 5)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "told done" in done.stdout
    assert (tmp_path / "ray.killed").exists()
    expected, got = checkpoint(tmp_path, "local"), checkpoint(tmp_path, "ray")
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    assert not list(tmp_path.glob(".ray-*"))


TRAIN = [sys.executable, str(ROOT / "train.py"), "--model", "resnet8", "--batch-size", "16", "--epochs", "1"]


@needs_ray
@pytest.mark.slow
def test_what_the_user_has_to_mend_is_told_and_not_tried_again(environment, tiny_data, tmp_path):
    places = ["--dataset", tiny_data, "--runs", str(tmp_path), "--name", "a", "--workers", "2"]
    ray = [*TRAIN, *places, "--engine", "ray", "--restarts", "3"]
    done = subprocess.run([*ray, "--json"], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("{")  # nothing but the JSON object
    again = subprocess.run(ray, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 2
    assert again.stderr == (
        f"error: The run {tmp_path / 'a'} is finished. Choose another --name, or --overwrite to train it again.\n"
    )
    assert not list(tmp_path.glob(".ray-*"))


@needs_ray
def test_a_cluster_that_is_not_there(environment, tmp_path):
    done = start(environment, "launch_on_ray(print, [], 2, runs=sys.argv[1], address='127.0.0.1:1')", tmp_path)
    assert "No Ray cluster could be reached at '127.0.0.1:1': [Errno 111]" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_a_sentence_names_the_extra(capsys, tmp_path):
    assert train_script.main(["--workers", "2", "--engine", "ray", "--runs", str(tmp_path)]) == 2
    assert "pip install 'keras-resnet[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "ray"], "--engine belongs to --workers, got 'ray'"),
        (["--workers", "2", "--address", "a:1"], "--address belongs to --engine ray, got 'a:1'"),
        (["--workers", "2", "--engine", "roy"], "'ray'"),
    ],
)
def test_flags_that_do_not_go_together(flags, message, monkeypatch, capsys, tmp_path):
    monkeypatch.delenv(WORKERS, raising=False)
    assert train_script.main([*flags, "--runs", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
