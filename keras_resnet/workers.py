"""Several processes that train one network together: how the environment names them, and how they keep step.

On either backend, Keras' own variables name them: KERAS_DISTRIBUTION_JOB_ADDRESSES (host:port of each worker; JAX needs
only that of worker 0), KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID. TF_CONFIG, which Kubeflow
and others set, works as well.
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keras_resnet.backends import JAX, backend
from keras_resnet.errors import UserError

ADDRESS, WORKERS, RANK = (f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"))
CLUSTER = "TF_CONFIG"
# Seconds that a worker waits for the others to start.
START_TIMEOUT = "KERAS_RESNET_START_TIMEOUT"
_DEFAULT_START_TIMEOUT = 300
# Seconds without a sign of life after which a worker counts as lost; one whose process ended is noticed at once.
_SILENCE = 60
# Words in the backends' errors when another worker is lost.
_LOST = ("Gloo", "NCCL", "oordination", "Collective ops")


@dataclass(frozen=True)
class Place:
    """Where the environment puts this process among the workers.

    Attributes:
        rank: Its number; 0 is the chief.
        workers: How many there are.
        addresses: "host:port" of each worker whose address was given.
        source: The variable that names them.
    """

    rank: int = 0
    workers: int = 1
    addresses: tuple[str, ...] = ()
    source: str = WORKERS


def place_in_environment() -> Place:
    """Returns where the environment puts this process; `Place()` if it names no other worker.

    Raises:
        UserError: A number is not whole, the rank does not exist, a kind of worker does not train, or two variables
            name workers.
    """
    given = [os.environ.get(RANK) or "0", os.environ.get(WORKERS) or "1"]
    rank, workers = (int(text) if text.isascii() and text.isdigit() else -1 for text in given)
    if not 0 <= rank < workers:
        raise UserError(f"{RANK} must be a whole number from 0 and below {WORKERS}, got {given[0]!r} and {given[1]!r}.")
    cluster = _cluster()
    if workers == 1 or cluster is None:
        return cluster or Place(rank, workers, tuple(filter(None, os.environ.get(ADDRESS, "").split(","))))
    raise UserError(f"{WORKERS} and {CLUSTER} both name workers. Leave one of them out.")


def _cluster() -> Place | None:
    """Returns the place that TF_CONFIG gives; None if it names fewer than two workers."""
    try:
        stated = json.loads(os.environ.get(CLUSTER) or "{}")
        jobs = {kind: list(addresses) for kind, addresses in stated.get("cluster", {}).items()}
        addresses = [*jobs.get("chief", ()), *jobs.get("worker", ())]
        if len(addresses) < 2:
            return None
        task = stated.get("task") or {}
        kind, index = str(task.get("type")), str(task.get("index"))
    except (ValueError, AttributeError, TypeError):
        return None  # TensorFlow would not understand it either
    if jobs.keys() - {"chief", "worker"} or kind not in jobs:
        raise UserError(
            f"{CLUSTER} must name only a chief and workers, and this process must be one of them, got "
            f"{', '.join(sorted(jobs))} and the task {task}. Leave out the rest."
        )
    if not index.isdigit() or int(index) >= len(jobs[kind]):
        raise UserError(f"The task index in {CLUSTER} must be a whole number below {len(jobs[kind])}, got {task}.")
    rank = int(index) + (len(jobs.get("chief", ())) if kind == "worker" else 0)
    return Place(rank, len(addresses), tuple(map(str, addresses)), CLUSTER)


def join() -> int:
    """Joins the JAX workers that the environment names, once per process; returns how many there are."""
    import jax

    place = place_in_environment()
    if place.workers == 1 or jax.distributed.is_initialized():
        return jax.process_count()
    _check_addresses(place, 1)
    with _start_deadline(place) as seconds, _non_preempting_threads():
        # keras.distribution.initialize calls this, too, but takes no deadlines.
        jax.distributed.initialize(
            place.addresses[0],
            place.workers,
            place.rank,
            initialization_timeout=int(seconds) + 60,
            heartbeat_timeout_seconds=_SILENCE,
            shutdown_timeout_seconds=_SILENCE,
        )
        jax.local_devices(backend="cpu")  # starts the thread that receives messages
    return place.workers


@contextlib.contextmanager
def _non_preempting_threads() -> Iterator[None]:
    """On Linux, keeps threads that start in this context from preempting other threads when they wake up.

    Gloo's receiving thread polls without sleeping while the thread that computes holds a lock. If it has preempted that
    thread, both lose a time slice: 50 all-reduces of 16 numbers between two processes, each on its own core, took
    190 ms without this, and 8 ms with it.
    """
    if not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield  # not Linux, or whoever started this process has chosen a policy
        return
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@functools.cache  # TensorFlow can join only once per process
def join_on_tensorflow() -> "Workers":
    """Joins the TensorFlow workers that the environment names; must come before any other use of TensorFlow."""
    import tensorflow as tf

    place = place_in_environment()
    _check_addresses(place, place.workers)
    gpus = len(tf.config.get_visible_devices("GPU"))
    with _start_deadline_in_c(place):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(
            tf.distribute.cluster_resolver.SimpleClusterResolver(
                tf.train.ClusterSpec({"worker": place.addresses}),
                task_type="worker",
                task_id=place.rank,
                num_accelerators={"GPU": gpus} if gpus else {},
                rpc_layer="grpc",
            )
        )
        workers = Workers(strategy, place.rank, place.workers)
        agreed(workers, 0)
    return workers


def _check_addresses(place: Place, needed: int) -> None:
    given = place.addresses[:needed]
    if len(given) < needed or not all(host and port.isdigit() for host, _, port in (a.rpartition(":") for a in given)):
        whose = "worker 0 as host:port" if needed == 1 else f"all {needed} workers as host:port, separated by commas"
        name = ADDRESS if place.source == WORKERS else CLUSTER
        raise UserError(f"{name} must name {whose}, got {','.join(place.addresses)!r}.")


def _start_seconds(place: Place) -> tuple[float, str]:
    """Returns how many seconds this process waits for the others, and what it says if they do not come."""
    try:
        seconds = float(os.environ.get(START_TIMEOUT) or _DEFAULT_START_TIMEOUT)
    except ValueError:
        raise UserError(f"{START_TIMEOUT} must be a number of seconds, got {os.environ[START_TIMEOUT]!r}.") from None
    name = ADDRESS if place.source == WORKERS else CLUSTER
    return seconds, (
        f"error: Worker {place.rank} of {place.workers} waited {seconds:g} s for the others at "
        f"{','.join(place.addresses)}. Start all of them, with the same {name}, and within {START_TIMEOUT} seconds of "
        "each other."
    )


@contextlib.contextmanager
def _start_deadline(place: Place) -> Iterator[float]:
    """Ends the process if the others have not come in time: JAX would wait longer, and then end it with a dump."""
    seconds, sentence = _start_seconds(place)

    def give_up() -> None:
        print(sentence, file=sys.stderr, flush=True)
        os._exit(2)

    deadline = threading.Timer(seconds, give_up)
    deadline.daemon = True
    deadline.start()
    try:
        yield seconds
    finally:
        deadline.cancel()


# Prints the sentence and ends its parent, unless the parent ends or closes the pipe first.
_WATCH = """
import os, select, signal, sys
if not select.select([sys.stdin], [], [], float(sys.argv[1]))[0]:
    try:
        print(sys.argv[2], file=sys.stderr, flush=True)
    finally:  # even if nobody reads the output
        os.kill(os.getppid(), signal.SIGALRM)
"""


@contextlib.contextmanager
def _start_deadline_in_c(place: Place) -> Iterator[None]:
    """The same for TensorFlow, which waits forever and lets no other Python thread run meanwhile.

    So a separate process watches the time, and until then signals end this one at once. Afterwards they are handled as
    before: TensorFlow would keep SIGTERM for itself.
    """
    seconds, sentence = _start_seconds(place)
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if is_main}
    for number in handlers:
        signal.signal(number, signal.SIG_DFL)
    watch = [sys.executable, "-I", "-S", "-c", _WATCH, str(seconds), sentence]
    try:
        with subprocess.Popen(watch, stdin=subprocess.PIPE):  # leaving the block closes the pipe
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Workers:
    """Several processes that train one network, each with its devices.

    What is built in `scope` belongs to this process alone, as the network that is stored; what is built in
    `all_workers`, as the one that trains, has the same values on all of them, and each must do the same with it.

    Attributes:
        distribution: Spans all devices: a keras.distribution.DataParallel, or a tf.distribute.Strategy on TensorFlow.
        rank: The number of this process; 0 is the chief.
        workers: How many there are.
    """

    distribution: Any
    rank: int
    workers: int

    @property
    def num_replicas_in_sync(self) -> int:
        """The number of devices of all workers."""
        count = "num_model_replicas" if backend() == JAX else "num_replicas_in_sync"
        return getattr(self.distribution, count)

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns a context that changes nothing."""
        return contextlib.nullcontext()


def all_workers(strategy: Any) -> contextlib.AbstractContextManager:
    """Returns a context in which variables, batches and steps are those of all workers; of one it changes nothing."""
    return strategy.distribution.scope() if isinstance(strategy, Workers) else contextlib.nullcontext()


def shared_batches(strategy: Any, batches: Any) -> Any:
    """Turns this worker's rows of every batch into what `fit` takes; all workers must read them step by step.

    Args:
        strategy: From `create_strategy`.
        batches: (images, targets), this worker's rows alone.
    """
    if not isinstance(strategy, Workers) or backend() == JAX:
        return batches
    devices = len(strategy.distribution.extended.worker_devices)
    if devices > 1:
        # One device's rows after another's, in the order of the devices.
        batches = batches.rebatch(batches.element_spec[0].shape[0] // devices)
    return strategy.distribution.distribute_datasets_from_function(lambda _: batches)


def agreed(strategy: Any, number: int) -> bool:
    """Waits for all workers and tells whether each has come with the same number; True for one."""
    if not isinstance(strategy, Workers):
        return True
    import numpy as np

    if backend() != JAX:
        return bool((_gather(strategy.distribution)(number) == number).all())
    from jax.experimental import multihost_utils

    return bool((multihost_utils.process_allgather(np.array(number)) == number).all())


@functools.cache
def _gather(strategy: Any) -> Any:
    """Returns a function: number → the numbers of all TensorFlow devices, as float32, exact for integers below 2²⁴."""
    import tensorflow as tf

    def own_place(number: Any) -> Any:
        replica = tf.distribute.get_replica_context()
        placed = tf.one_hot(replica.replica_id_in_sync_group, replica.num_replicas_in_sync) * number
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, placed)

    gather = tf.function(lambda number: strategy.run(own_place, args=(number,)), autograph=False)
    return lambda number: strategy.experimental_local_results(gather(tf.constant(number, tf.float32)))[0].numpy()


class LostWorkers(UserError):
    """Another worker has ended: only starting all of them again helps."""


@contextlib.contextmanager
def named_lost_workers(strategy: Any) -> Iterator[None]:
    """Turns what the backend raises when another worker ended into `LostWorkers`."""
    try:
        yield
    except Exception as error:
        is_several = isinstance(strategy, Workers) and strategy.workers > 1
        if is_several and any(word in str(error) for word in _LOST):
            raise LostWorkers(
                "Another worker has ended; its own output says why. Start all of them again: they resume from the "
                "newest checkpoint."
            ) from error
        raise


def leave(code: int) -> int:
    """Ends one of several workers at once if it failed: at the end, the backend might wait for the others."""
    if code and _has_joined():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _has_joined() -> bool:
    if backend() == JAX:
        return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()
    return bool(join_on_tensorflow.cache_info().currsize)
