"""Workers on a Ray cluster or on this machine that Ray Train starts, watches and restarts: `--engine ray`.

Ray provides the processes, and restarts all of them when one is lost (its FailureConfig). Each computes what a worker
of `launch` does. Training runs in Ray's own worker process, so that it ends and its locks are released when Ray ends
that process. This module imports neither TensorFlow nor Keras.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from keras_resnet.errors import UserError
from keras_resnet.storage import write_text
from keras_resnet.training.launch import START_SECONDS, free_ports, without_overwrite
from keras_resnet.workers import ADDRESS, RANK, START_TIMEOUT, WORKERS, LostWorkers

Work = Callable[[Sequence[str]], str]

# Variables that decide how a worker computes; each machine keeps its own values of all others.
_PASSED = ("KERAS_", "JAX_", "XLA_", "TF_", "NCCL_")
_TOLD = 2000  # characters of a traceback that an error shows
_STORE_BYTES = 80 << 20  # Ray's object store holds next to nothing here; by default it takes a third of the memory
# Must be set before Ray is imported.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # else Ray reports each start to its makers
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else each line is printed twice
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a preempted machine counts as a lost worker
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_TRAIN_ENABLE_SHARE_CUDA_VISIBLE_DEVICES": "0",  # each worker sees its own GPU and no other
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def launch_on_ray(
    work: Work,
    arguments: Sequence[str],
    workers: int,
    *,
    runs: str | os.PathLike[str],
    restarts: int = 0,
    address: str | None = None,
    gpus: bool = True,
) -> str:
    """Runs a training as several workers until all have succeeded.

    Args:
        work: What each worker does with the arguments: a function in a module that every machine can import. It
            returns what to print to standard output at the end.
        arguments: The arguments of `work`; a restart leaves out --overwrite.
        workers: Number of workers.
        runs: A folder on a file system that all machines share.
        restarts: How many times all workers are restarted after one is lost; they resume by themselves.
        address: Address of the cluster; default: this machine only, without a cluster.
        gpus: Whether each worker gets a GPU, if the cluster has enough.

    Returns:
        What `work` returned on the chief.

    Raises:
        UserError: Ray is not installed, there is no cluster at the address or no room in it, a worker reported
            something for the user to fix, or a worker was lost and no restart is left.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "The engine 'ray' needs the package ray, which is not installed: pip install 'keras-resnet[ray]'."
        )
    seconds = os.environ.get(START_TIMEOUT) or str(START_SECONDS)
    for name, value in {**_SETTINGS, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": seconds}.items():
        os.environ.setdefault(name, value)
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    with _own_sigterm():
        _connect(ray, address, workers)
    runs = Path(runs).resolve()
    runs.mkdir(parents=True, exist_ok=True)
    # Ray resumes what it finds under a name. Each launch gets a new one: the run's own files record its progress.
    folder = Path(tempfile.mkdtemp(prefix=".ray-", dir=runs))
    try:
        trainer = DataParallelTrainer(
            _Worker(work, tuple(arguments), folder, host=None if address else "127.0.0.1"),
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=gpus and ray.cluster_resources().get("GPU", 0) >= workers
            ),
            run_config=RunConfig(
                name=folder.name,
                storage_path=os.fspath(runs),
                # Without a limit, Ray would wait forever for room in the cluster.
                failure_config=FailureConfig(max_failures=restarts, controller_failure_limit=0),
                logging_config=LoggingConfig(log_level="CRITICAL"),
                worker_runtime_env={"env_vars": _environment()},
            ),
        )
        with ThreadPoolExecutor(1) as executor:
            # Not in this thread, where Ray would handle Ctrl-C itself.
            running = executor.submit(trainer.fit)
            try:
                result = running.result().return_value
            finally:
                ray.shutdown()
        _raise_refusal(folder)
        return result
    except TrainingFailedError as error:
        _raise_refusal(folder)
        raise UserError(_sentence(error, workers)) from None
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


_BEGUN, _REFUSED = "begun", "refused.txt"


class _Worker:
    """What Ray runs in each worker's process."""

    def __init__(self, work: Work, arguments: tuple[str, ...], folder: Path, *, host: str | None):
        self._work, self._arguments, self._folder, self._host = work, arguments, folder, host
        self._directory = Path.cwd()  # relative paths among the arguments start here

    def __call__(self) -> str:
        import ray
        from ray.train import get_context
        from ray.train.collective import barrier, broadcast_from_rank_zero

        rank, workers = get_context().get_world_rank(), get_context().get_world_size()
        # JAX needs the chief's address, TensorFlow every worker's.
        write_text(self._folder / str(rank), f"{self._host or ray.util.get_node_ip_address()}:{free_ports(1)[0]}")
        barrier()
        start = None
        if rank == 0:
            again = (self._folder / _BEGUN).exists()
            (self._folder / _BEGUN).touch()
            start = {
                "addresses": ",".join((self._folder / str(each)).read_text() for each in range(workers)),
                "again": again,
                "refused": (self._folder / _REFUSED).exists(),
            }
        start = broadcast_from_rank_zero(start)
        if start["refused"]:
            return ""  # what the user has to fix is not tried again
        os.environ.update({ADDRESS: start["addresses"], WORKERS: str(workers), RANK: str(rank)})
        os.chdir(self._directory)
        try:
            return self._work(without_overwrite(self._arguments) if start["again"] else self._arguments)
        except LostWorkers:
            raise
        except UserError as error:
            write_text(self._folder / _REFUSED, str(error))
            raise


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps our handler of SIGTERM: Ray installs its own, which dumps the stack."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, handler)


def _connect(ray: Any, address: str | None, workers: int) -> None:
    # Without a dashboard, one of Ray's actors warns every second. What matters arrives as an exception.
    quiet = {"logging_level": "critical", "logging_config": ray.LoggingConfig(log_level="CRITICAL")}
    if address is None:
        ray.init(
            "local",
            num_cpus=workers,  # what Ray counts, not what workers may use
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
        return
    host, _, port = address.rpartition(":")
    try:
        if host:
            # Ray itself would keep trying for minutes.
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, **quiet)
    except (OSError, ValueError) as error:
        raise UserError(
            f"No Ray cluster could be reached at {address!r}: {error}. Start one (ray start --head), or set "
            "RAY_AUTH_MODE=token if it asks for a token."
        ) from None


def _environment() -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
    # The package may lie where only the script that was started finds it.
    package = Path(__file__).parents[2]
    return passed | {"PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))}


def _raise_refusal(folder: Path) -> None:
    """Raises what a worker reported for the user to fix, if one did."""
    if (folder / _REFUSED).exists():
        raise UserError((folder / _REFUSED).read_text(encoding="utf-8"))


def _sentence(error: Exception, workers: int) -> str:
    from ray.exceptions import RayActorError

    failures = getattr(error, "worker_failures", {})
    if not failures:
        reason = str(getattr(error, "controller_failure", error)).partition(" Potential causes")[0]
        return (
            f"Ray could not start {workers} workers: {reason} Check with `ray status` what the cluster has, or raise "
            f"{START_TIMEOUT} to wait longer."
        )
    # One whose process ended is the cause: the others failed because it is gone.
    rank = min(failures, key=lambda rank: (not isinstance(failures[rank], RayActorError), rank))
    return (
        f"Worker {rank} of {workers} was lost, and the others were stopped. The same command resumes from the newest "
        f"checkpoint. The worker's error:\n{str(failures[rank])[-_TOLD:].strip()}"
    )
