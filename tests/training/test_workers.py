"""Several workers on 127.0.0.1 that train one network, beside one process with the same global batch."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from keras_resnet.cli import train as train_script
from keras_resnet.data import array_batches, batches
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.splits import ArraySplit, worker_rows
from keras_resnet.errors import UserError
from keras_resnet.training.callbacks import KeptInterrupts
from keras_resnet.training.launch import _first_failure, free_port, launch, worker_command
from keras_resnet.workers import ADDRESS, RANK, START_TIMEOUT, WORKERS

pytest.importorskip("jax")

ROOT = Path(__file__).parents[2]
SESSION = Path(__file__).with_name("worker_session.py")
BLOCKER = "import sys\nsys.modules['tensorflow'] = None\n"  # JAX alone starts faster
STEPS = 24


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocker")
    (folder / "sitecustomize.py").write_text(BLOCKER)
    return {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }


@pytest.fixture(scope="module")
def folder(environment, tiny_data, tmp_path_factory):
    """A folder with the run `one` of one process and the run `two` of two workers."""
    folder = tmp_path_factory.mktemp("workers")
    command = [sys.executable, str(SESSION), tiny_data, str(folder)]
    done = subprocess.run([*command, "one"], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert launch([*command, "two"], 2, environment=environment) == 0
    return folder


def told(folder, name, rank=0):
    return json.loads((folder / f"{name}-{rank}.json").read_text())


def checkpoint(folder, name):
    with np.load(folder / name / "checkpoints" / "epoch-00004.npz") as file:
        return {key: file[key] for key in file.files if key != "progress"}  # it holds times


def metrics(folder, name):
    found = json.loads((folder / name / "test_metrics.json").read_text())
    return {key: value for key, value in found.items() if "seconds" not in key}


@pytest.mark.slow
def test_two_workers_train_as_one_process_does(folder):
    one, two = told(folder, "one"), told(folder, "two")
    assert len(one["losses"]) == len(two["losses"]) == STEPS
    # The sums over a batch are added up in another order: float32 rounding (6e-8), grown over 24 steps.
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-4, atol=1e-5)
    expected, got = checkpoint(folder, "one"), checkpoint(folder, "two")
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_workers_have_the_same_weights_and_losses(folder):
    assert told(folder, "two", 1) == told(folder, "two", 0)


@pytest.mark.slow
def test_the_test_of_two_workers_counts_every_example_once(folder):
    one, two = metrics(folder, "one"), metrics(folder, "two")
    assert two["count"] == 31  # no number of workers divides it
    for name in ("count", "top1", "confusion", "best_epoch", "validation_accuracy"):
        assert two[name] == one[name], name
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)  # of weights that differ by rounding


@pytest.mark.slow
def test_a_killed_worker_ends_all_and_the_next_start_ends_as_if_nothing_had_been(folder, environment, tiny_data):
    step = random.randrange(1, STEPS)
    found = []

    def report(line):
        # Its file was written just before it was killed.
        found.append((line, time.time() - (folder / "killed.killed").stat().st_mtime))
        assert not (folder / "killed" / "test_metrics.json").exists()

    command = [sys.executable, str(SESSION), tiny_data, str(folder), "killed", str(step)]
    assert launch(command, 2, restarts=1, environment=environment, report=report) == 0
    ((line, seconds),) = found
    assert "Worker 1 of 2 ended by SIGKILL, and the others were stopped. Starting all again (1 of 1)." in line
    # It took 0.2 to 0.5 s, seven processes to a core. Those that do not end by themselves are killed after five.
    assert seconds < 10
    complete = (step - 1) // (STEPS // 4)  # epochs before it
    assert len(told(folder, "killed")["losses"]) == STEPS - complete * (STEPS // 4), step
    expected, got = checkpoint(folder, "two"), checkpoint(folder, "killed")
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=f"{name}, killed behind step {step}")
    assert metrics(folder, "killed") == metrics(folder, "two")


@pytest.mark.slow
def test_a_chief_killed_while_it_writes_leaves_whole_files_and_all_go_on(folder, environment, tiny_data):
    """One kill; kill_chief.py takes any number."""
    kept = {}

    def report(line):
        assert line.startswith("Worker 0 of 2 ended by SIGKILL, and the others were stopped.")
        for path in (folder / "torn" / "checkpoints").glob("epoch-*.npz"):
            with np.load(path) as file:
                kept[path.name] = [file[name] for name in file.files]  # every byte is read

    command = [sys.executable, str(SESSION), tiny_data, str(folder), "torn", f"3:{random.random()}"]
    assert launch(command, 2, restarts=1, environment=environment, report=report) == 0
    assert sorted(kept) == ["epoch-00001.npz", "epoch-00002.npz"]
    expected, got = checkpoint(folder, "two"), checkpoint(folder, "torn")
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    assert not list((folder / "torn").rglob("*.tmp-*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "flags"), [(signal.SIGTERM, 143, ["--workers", "2"]), (signal.SIGINT, 130, [])]
)
def test_a_signal_ends_the_workers_as_it_ends_one_process(number, code, flags, environment, tiny_data, tmp_path):
    # A process started in the background of a script is born deaf to Ctrl-C.
    hearing = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    train = [sys.executable, str(ROOT / "train.py"), "--dataset", tiny_data, "--model", "resnet8", "--epochs", "500"]
    command = [*train, "--batch-size", "16", "--runs", str(tmp_path), "--name", "r", *flags]
    process = subprocess.Popen(
        [sys.executable, "-c", hearing, *command],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("epoch   2/500"):
            process.send_signal(number)
            break
    began = time.monotonic()
    _, err = process.communicate(timeout=120)  # the workers hold its streams until they have ended, too
    assert process.returncode == code
    # At the next step, which is far from the end; it took 0.3 to 1.7 s.
    assert time.monotonic() - began < 15
    assert "Traceback" not in err
    assert err.rstrip().endswith(" ".join(["--name", "r", *flags]))
    assert "Run it again and it resumes: KERAS_BACKEND=jax python train.py --dataset" in err
    # What was complete is there; like one process, they keep nothing of an epoch in its middle.
    assert (tmp_path / "r" / "checkpoints" / "epoch-00002.npz").exists()
    assert not list(tmp_path.rglob("*.tmp-*"))


@pytest.mark.slow
def test_without_a_launcher_a_lost_worker_ends_the_others_by_itself(environment, tiny_data, tmp_path):
    place = environment | {ADDRESS: f"127.0.0.1:{free_port()}", WORKERS: "2"}
    command = [sys.executable, str(SESSION), tiny_data, str(tmp_path), "alone", "1"]
    chief, other = (
        subprocess.Popen(command, env=place | {RANK: rank}, stderr=subprocess.PIPE, text=True) for rank in "01"
    )
    _, err = chief.communicate(timeout=300)
    seconds = time.time() - (tmp_path / "alone.killed").stat().st_mtime
    assert other.wait(timeout=10) == -signal.SIGKILL
    other.stderr.close()
    assert chief.returncode == 2
    assert err.rstrip().splitlines()[-1].startswith("error: Another worker has ended;")
    assert seconds < 10  # it took 0.15 s; a machine that falls silent is noticed after 60


def test_one_that_failed_is_named_before_those_that_miss_it():
    # The chief and another miss the one in the middle.
    processes = [subprocess.Popen([sys.executable, "-c", f"import sys; sys.exit({code})"]) for code in (2, 1, 2)]
    for process in processes:
        process.wait()
    assert _first_failure(processes) == (1, 1)


def test_an_interrupt_that_was_swallowed_comes_again():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with KeptInterrupts() as interrupts:
        interrupts.on_train_batch_end(0)
        with contextlib.suppress(KeyboardInterrupt):  # as Keras does
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        with pytest.raises(KeyboardInterrupt):
            interrupts.on_train_batch_end(1)
        with pytest.raises(KeyboardInterrupt):
            interrupts.on_test_batch_end(1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def failing(folder, times, how):
    """A command whose worker 1 fails a number of times; worker 0 waits for it."""
    return [
        sys.executable,
        "-c",
        f"""
import os, pathlib, sys, time
tries = pathlib.Path({str(folder)!r})
if os.environ[{RANK!r}] == "1":
    number = len(list(tries.iterdir()))
    (tries / str(number)).touch()
    if number < {times}:
        print("what it said", "again" if "--overwrite" not in sys.argv else "at first", flush=True)
        {how}
    (tries / "done").touch()
while not (tries / "done").exists():
    time.sleep(0.02)
""",
        "--overwrite",
    ]


def test_all_are_started_again_as_often_as_allowed(tmp_path):
    lines = []
    command = failing(tmp_path, 2, "os.kill(os.getpid(), 9)")
    assert launch(command, 2, restarts=2, report=lines.append) == 0
    assert ["at first" in line for line in lines] == [True, False]  # the second start removes nothing
    assert "Worker 1 of 2 ended by SIGKILL, and the others were stopped. Starting all again (2 of 2)." in lines[1]


def test_a_worker_that_is_lost_once_too_often_is_named(tmp_path):
    with pytest.raises(
        UserError, match=r"Worker 1 of 2 ended by SIGKILL, and the others were stopped(?s:.*)what it said"
    ):
        launch(failing(tmp_path, 2, "os.kill(os.getpid(), 9)"), 2, restarts=1)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_the_user_has_to_mend_is_not_tried_again(tmp_path):
    with pytest.raises(UserError, match=r"Worker 1 of 2 ended with exit code 2(?s:.*)what it said"):
        launch(failing(tmp_path, 9, "sys.exit(2)"), 2, restarts=5)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_worker_that_waits_in_vain_says_so(environment):
    code = "from keras_resnet.distribution import create_strategy; create_strategy('cpu', workers=True)"
    place = {ADDRESS: "127.0.0.1:1", WORKERS: "2", RANK: "1", START_TIMEOUT: "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment | place, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "error: Worker 1 of 2 waited 1 s for the others at 127.0.0.1:1." in done.stderr


@pytest.mark.parametrize(
    ("flags", "place", "message"),
    [
        (["--workers", "2"], {}, "Several workers train on Keras' JAX backend, got 2 on 'tensorflow'"),
        (["--restarts", "2"], {}, "--restarts belongs to --workers, got 2"),
        (["--workers", "2"], {WORKERS: "2"}, f"--workers starts the workers, and {WORKERS} names 2"),
        ([], {WORKERS: "2", RANK: "2"}, f"{RANK} must be a whole number from 0 and below"),
        (["--workers", "0"], {}, "must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(flags, place, message, monkeypatch, capsys, tmp_path):
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    assert train_script.main([*flags, "--runs", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_worker_gets_the_flags_of_the_training_alone():
    given = ["--workers", "2", "--name", "a", "--restarts=3", "--workers=2", "--epochs", "1"]
    assert worker_command(given)[3:] == ["--name", "a", "--epochs", "1"]


@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "inception_crop_flip", "crop,mixup:0.2"])
@pytest.mark.parametrize("repeats", [1, 3])
def test_the_rows_of_all_workers_are_the_batches(augmentation, repeats):
    random = np.random.default_rng(0)
    split = ArraySplit(random.integers(0, 256, (23, 8, 8, 3), np.uint8), np.arange(23, dtype=np.int32) % 3)
    preprocessing = Preprocessing(8, 8, 3, mean=(0.5,) * 3, std=(0.2,) * 3, labels=("a", "b", "c"))
    options = {"batch_size": 8, "seed": 1, "epochs": 2, "augmentation": augmentation, "repeats": repeats}
    makers = [batches, array_batches] if augmentation in array_batches.AUGMENTATIONS else [batches]
    for maker in makers:
        whole = list(maker.training_batches(split, preprocessing, **options).as_numpy_iterator())
        parts = [
            list(
                maker.training_batches(
                    split, preprocessing, rows=worker_rows(8, worker, 2), **options
                ).as_numpy_iterator()
            )
            for worker in range(2)
        ]
        assert len(whole) == len(parts[0]) == 4
        for batch, first, second in zip(whole, *parts, strict=True):
            for all_rows, *rows in zip(batch, first, second, strict=True):
                np.testing.assert_array_equal(np.concatenate(rows), all_rows)
