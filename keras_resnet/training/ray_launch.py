"""Workers on a Ray cluster or this machine, started, watched and started again by Ray Train: `--engine ray`.

Ray brings the processes, and a start of all after one was lost (its FailureConfig); what each computes is what a worker
of `launch` does. A worker's process trains itself, so that it ends, and its locks with it, when Ray ends it.
This module imports neither TensorFlow nor Keras.
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

# What decides how a worker computes; the rest of the environment is each machine's own.
_PASSED = ("KERAS_", "JAX_", "XLA_", "TF_", "NCCL_")
_TOLD = 2000  # characters of a traceback that an error shows
_STORE_BYTES = 80 << 20  # Ray's object store holds next to nothing here; by itself it takes a third of the memory
# Must be set before Ray is imported.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # else it tells its makers about each start
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else each line comes twice
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a machine that is taken back is a lost worker
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_TRAIN_ENABLE_SHARE_CUDA_VISIBLE_DEVICES": "0",  # each worker has its own GPU, and sees no other
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
    """Runs a training as several workers until all have ended well.

    Args:
        work: What each worker does with the arguments: a function of a module, which every machine can import. It
            returns what belongs on standard output at the end.
        arguments: Of `work`; behind the first start, without --overwrite.
        workers: How many.
        runs: A folder on a file system that all machines share.
        restarts: How many times all are started again where one was lost; they resume by themselves.
        address: Of the cluster; default: this machine alone, without one.
        gpus: Whether each worker has a GPU, where the cluster has as many.

    Returns:
        What the chief's work returned.

    Raises:
        UserError: Ray is not installed, there is no cluster at the address or no room in it, the chief told the user
            what to mend, or a worker was lost and no start is left.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("The engine 'ray' needs the package ray: pip install 'keras-resnet[ray]'.")
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
    # Ray goes on with what it finds under a name. Each start is a new one here: the run's own files say how far it is.
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
                # Without a limit it would wait for ever where the cluster has no room.
                failure_config=FailureConfig(max_failures=restarts, controller_failure_limit=0),
                logging_config=LoggingConfig(log_level="CRITICAL"),
                worker_runtime_env={"env_vars": _environment()},
            ),
        )
        with ThreadPoolExecutor(1) as executor:
            # Not in this thread, where Ray would take Ctrl-C for itself.
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
        self._directory = Path.cwd()  # where paths among the arguments begin

    def __call__(self) -> str:
        import ray
        from ray.train import get_context
        from ray.train.collective import barrier, broadcast_from_rank_zero

        rank, workers = get_context().get_world_rank(), get_context().get_world_size()
        # JAX needs the chief's address, TensorFlow everyone's.
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
            return ""  # what the user has to mend is not tried again
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
    """Keeps the handler of SIGTERM, for which Ray sets its own, with a dump of the stack."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, handler)


def _connect(ray: Any, address: str | None, workers: int) -> None:
    # Without a dashboard one of its actors warns each second, and what matters comes as an exception.
    quiet = {"logging_level": "critical", "logging_config": ray.LoggingConfig(log_level="CRITICAL")}
    if address is None:
        ray.init(
            "local",
            num_cpus=workers,  # what it counts, not what they may use
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
        return
    host, _, port = address.rpartition(":")
    try:
        if host:
            # Ray would try for minutes.
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, **quiet)
    except (OSError, ValueError) as error:
        raise UserError(
            f"No Ray cluster could be reached at {address!r}: {error}. Start one (ray start --head), or set "
            "RAY_AUTH_MODE=token where it asks for a token."
        ) from None


def _environment() -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
    # The package may lie where only the script that was started finds it.
    package = Path(__file__).parents[2]
    return passed | {"PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))}


def _raise_refusal(folder: Path) -> None:
    """Raises what a worker told the user to mend, if one did."""
    if (folder / _REFUSED).exists():
        raise UserError((folder / _REFUSED).read_text(encoding="utf-8"))


def _sentence(error: Exception, workers: int) -> str:
    from ray.exceptions import RayActorError

    failures = getattr(error, "worker_failures", {})
    if not failures:
        reason = str(getattr(error, "controller_failure", error)).partition(" Potential causes")[0]
        return (
            f"Ray could not start {workers} workers: {reason} See what the cluster has by `ray status`, or wait longer "
            f"by {START_TIMEOUT}."
        )
    # One whose process ended explains the others, which miss it.
    rank = min(failures, key=lambda rank: (not isinstance(failures[rank], RayActorError), rank))
    return (
        f"Worker {rank} of {workers} was lost, and the others were stopped. The same command goes on behind the newest "
        f"checkpoint. It said:\n{str(failures[rank])[-_TOLD:].strip()}"
    )
