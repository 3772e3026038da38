"""Several workers on 127.0.0.1 that train one network, compared with one process on the same global batch.

CI starts two of them, and kills one only on JAX. This runs every test on both engines, with any number of workers that
divides 16:

    TEST_WORKERS=4 python -m pytest -n 0 tests/training/test_workers.py
"""

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
from keras_resnet.training.callbacks import ReraiseInterrupts
from keras_resnet.training.launch import _first_failure, free_ports, launch, worker_command
from keras_resnet.workers import ADDRESS, CLUSTER, RANK, START_TIMEOUT, WORKERS

pytest.importorskip("jax")

ROOT = Path(__file__).parents[2]
SESSION = Path(__file__).with_name("worker_session.py")
BLOCKER = "import sys\nsys.modules['tensorflow'] = None\n"  # JAX alone starts faster
STEPS = 24
COUNT = int(os.environ.get("TEST_WORKERS") or "2")


ENGINES = ["jax", "tensorflow"]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    return request.param


def on(engines):
    """Marks a test that runs on these engines alone."""
    return pytest.mark.parametrize("engine", engines, indirect=True, scope="module")


# A minute each: on TensorFlow only where the number of workers is given.
on_jax_in_ci = on(ENGINES if "TEST_WORKERS" in os.environ else ["jax"])


@pytest.fixture(scope="module")
def environment(engine, tmp_path_factory):
    if engine == "tensorflow":
        return {**os.environ, "KERAS_BACKEND": engine, "PYTHONPATH": str(ROOT)}
    folder = tmp_path_factory.mktemp("blocker")
    (folder / "sitecustomize.py").write_text(BLOCKER)
    return {
        **os.environ,
        "KERAS_BACKEND": engine,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }


@pytest.fixture(scope="module")
def folder(environment, tiny_data, tmp_path_factory):
    """A folder with the run `one` of one process and the run `several` of several workers."""
    folder = tmp_path_factory.mktemp("workers")
    command = [sys.executable, str(SESSION), tiny_data, str(folder)]
    done = subprocess.run([*command, "one"], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert launch([*command, "several"], COUNT, environment=environment) == 0
    return folder


def told(folder, name, rank=0):
    return json.loads((folder / f"{name}-{rank}.json").read_text())


def checkpoint(folder, name):
    with np.load(folder / name / "checkpoints" / "epoch-00004.npz") as file:
        return {key: file[key] for key in file.files if key != "progress"}  # it holds times


def metrics(folder, name):
    found = json.loads((folder / name / "test_metrics.json").read_text())
    return {key: value for key, value in found.items() if "seconds" not in key}


def check_equal(folder, name):
    one, other = told(folder, "one"), told(folder, name)
    assert len(one["losses"]) == len(other["losses"]) == STEPS
    # Sums over a batch are taken in a different order: float32 rounding (6e-8), grown over 24 steps. With four workers,
    # one unit fell on the other side of a ReLU's kink, which moved late losses by 1e-4 and weights by 2e-3.
    late, weights, absolute = (1e-4, 1e-3, 1e-4) if COUNT == 2 else (1e-3, 1e-2, 5e-3)
    np.testing.assert_allclose(other["losses"][:8], one["losses"][:8], rtol=1e-5)
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=late, atol=1e-5)
    expected, got = checkpoint(folder, "one"), checkpoint(folder, name)
    assert expected.keys() == got.keys()
    for variable in expected:
        np.testing.assert_allclose(got[variable], expected[variable], rtol=weights, atol=absolute, err_msg=variable)


@pytest.mark.slow
def test_workers_train_as_one_process_does(folder):
    check_equal(folder, "several")


@pytest.mark.slow
@on(["jax"])  # test_several_devices.py tests TensorFlow's
def test_several_devices_of_jax_train_as_one_does(engine, environment, folder, tiny_data):
    flags = f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    command = [sys.executable, str(SESSION), tiny_data, str(folder), "devices"]
    options = {"env": environment | {"XLA_FLAGS": flags}, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 devices of one process share each batch of 16: 8 images each" in done.stdout
    check_equal(folder, "devices")


@pytest.mark.slow
def test_workers_have_the_same_weights_and_losses(folder):
    assert all(told(folder, "several", rank) == told(folder, "several") for rank in range(1, COUNT))


@pytest.mark.slow
def test_the_chief_writes_what_one_process_does_and_the_others_nothing(folder):
    one, several = ({path.name for path in (folder / run).rglob("*")} for run in ("one", "several"))
    events = {name for name in one | several if name.startswith("events.")}  # their names hold times
    assert several - events == one - events
    written = [len(list((folder / run).rglob("events.*"))) for run in ("one", "several")]
    assert written[0] == written[1]


@pytest.mark.slow
def test_the_test_of_several_workers_counts_every_example_once(folder):
    one, two = metrics(folder, "one"), metrics(folder, "several")
    assert two["count"] == 31  # no number of workers divides it
    for name in ("count", "top1", "confusion", "best_epoch", "validation_accuracy"):
        assert two[name] == one[name], name
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)  # of weights that differ by rounding


@pytest.mark.slow
@on_jax_in_ci
def test_a_killed_worker_ends_all_and_the_next_start_ends_as_if_nothing_had_been(
    folder, engine, environment, tiny_data
):
    step = random.randrange(1, STEPS)
    found = []

    def report(line):
        # The worker wrote this file just before it killed itself.
        found.append((line, time.time() - (folder / "killed.killed").stat().st_mtime))
        assert not (folder / "killed" / "test_metrics.json").exists()

    command = [sys.executable, str(SESSION), tiny_data, str(folder), "killed", str(step)]
    assert launch(command, COUNT, restarts=1, environment=environment, report=report) == 0
    ((line, seconds),) = found
    assert f"Worker 1 of {COUNT} ended by SIGKILL, and the others were stopped. Starting all again (1 of 1)." in line
    # It took 0.2 to 0.5 s with seven processes per core. Those that do not end by themselves are killed after 5 s.
    assert seconds < 10
    complete = (step - 1) // (STEPS // 4)  # epochs before it
    assert len(told(folder, "killed")["losses"]) == STEPS - complete * (STEPS // 4), step
    expected, got = checkpoint(folder, "several"), checkpoint(folder, "killed")
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=f"{name}, killed after step {step}")
    assert metrics(folder, "killed") == metrics(folder, "several")


@pytest.mark.slow
@on_jax_in_ci
def test_a_worker_that_no_launcher_watches_tells_that_another_one_is_lost(engine, environment, tiny_data, tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for rank in range(2):
        place = {ADDRESS: addresses[0], WORKERS: "2", RANK: str(rank)}
        if engine == "tensorflow":
            cluster = {"chief": addresses[:1], "worker": addresses[1:]}
            task = {"type": ["chief", "worker"][rank], "index": 0}
            place = {CLUSTER: json.dumps({"cluster": cluster, "task": task})}
        command = [sys.executable, str(SESSION), tiny_data, str(tmp_path), "lost", "5"]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment | place, **pipes))
    _, killed = processes
    assert killed.wait(200) == -signal.SIGKILL
    # JAX notices at once that a process has ended; TensorFlow does after ten seconds without a sign of life.
    told = processes[0].communicate(timeout=40)[1]
    killed.communicate()
    assert processes[0].returncode == 2
    assert "error: Another worker has ended; its own output says why. Start all of them again" in told


@pytest.mark.slow
@on_jax_in_ci
def test_a_chief_killed_while_it_writes_leaves_whole_files_and_all_go_on(folder, environment, tiny_data):
    """One kill; kill_chief.py does any number of them."""
    kept = {}

    def report(line):
        assert line.startswith(f"Worker 0 of {COUNT} ended by SIGKILL, and the others were stopped.")
        for path in (folder / "torn" / "checkpoints").glob("epoch-*.npz"):
            with np.load(path) as file:
                kept[path.name] = [file[name] for name in file.files]  # every byte is read

    command = [sys.executable, str(SESSION), tiny_data, str(folder), "torn", f"3:{random.random()}"]
    assert launch(command, COUNT, restarts=1, environment=environment, report=report) == 0
    assert sorted(kept) == ["epoch-00001.npz", "epoch-00002.npz"]
    expected, got = checkpoint(folder, "several"), checkpoint(folder, "torn")
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    assert not list((folder / "torn").rglob("*.tmp-*"))


@pytest.mark.slow
@on_jax_in_ci
@pytest.mark.parametrize(
    ("number", "code", "flags"), [(signal.SIGTERM, 143, ["--workers", "2"]), (signal.SIGINT, 130, [])]
)
def test_a_signal_ends_the_workers_as_it_ends_one_process(
    number, code, flags, engine, environment, tiny_data, tmp_path
):
    # A process that a script starts in the background ignores Ctrl-C.
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
    _, err = process.communicate(timeout=120)  # its streams stay open until the workers have ended, too
    assert process.returncode == code
    # It ends at the next step, long before the training would; this took 0.3 to 1.7 s.
    assert time.monotonic() - began < 15
    assert "Traceback" not in err
    assert err.rstrip().endswith(" ".join(["--name", "r", *flags]))
    prefix = "KERAS_BACKEND=jax " if engine == "jax" else ""
    assert f"Run it again and it resumes: {prefix}python train.py --dataset" in err
    # Complete epochs are there; like one process, the workers keep nothing of an unfinished epoch.
    assert (tmp_path / "r" / "checkpoints" / "epoch-00002.npz").exists()
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_one_that_failed_is_named_before_those_that_miss_it():
    # The chief and the last worker fail because the one in the middle is gone.
    processes = [subprocess.Popen([sys.executable, "-c", f"import sys; sys.exit({code})"]) for code in (2, 1, 2)]
    for process in processes:
        process.wait()
    assert _first_failure(processes) == (1, 1)


@pytest.fixture
def hears_interrupts():
    """Python's own handler of Ctrl-C: a process that a script starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_interrupts")
def test_an_interrupt_that_was_swallowed_comes_again():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with ReraiseInterrupts() as interrupts:
        interrupts.on_train_batch_end(0)
        with contextlib.suppress(KeyboardInterrupt):  # as Keras does
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        with pytest.raises(KeyboardInterrupt):
            interrupts.on_train_batch_end(1)
        with pytest.raises(KeyboardInterrupt):
            interrupts.on_test_batch_end(1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.usefixtures("hears_interrupts")
def test_an_interrupt_in_the_last_step_comes_at_the_end():
    def train():
        with ReraiseInterrupts(), contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        train()


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


def test_a_worker_that_waits_in_vain_says_so(engine, environment):
    code = "from keras_resnet.distribution import create_strategy; create_strategy('cpu', workers=True)"
    addresses = f"127.0.0.1:1,127.0.0.1:{free_ports(1)[0]}"
    place = {ADDRESS: addresses, WORKERS: "2", RANK: "1", START_TIMEOUT: "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment | place, capture_output=True, text=True, timeout=60)
    assert done.returncode == (2 if engine == "jax" else -signal.SIGALRM)
    assert f"error: Worker 1 of 2 waited 1 s for the others at {addresses}." in done.stderr


@pytest.mark.parametrize(
    ("flags", "place", "message"),
    [
        (["--workers", "2", "--seeds", "2"], {}, "Several workers do one training, got --seeds, too"),
        (["--restarts", "2"], {}, "--restarts belongs to --workers, got 2"),
        (["--workers", "2"], {WORKERS: "2"}, f"--workers starts the workers, but {WORKERS} already names 2"),
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
