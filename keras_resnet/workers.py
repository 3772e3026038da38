"""Several processes that train one network together: how the environment names them, and how they keep step.

Keras' own variables name them: KERAS_DISTRIBUTION_JOB_ADDRESSES (host:port of worker 0),
KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keras_resnet.backends import JAX, backend
from keras_resnet.errors import UserError

ADDRESS, WORKERS, RANK = (f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"))
# Seconds that a worker waits for the others to start.
START_TIMEOUT = "KERAS_RESNET_START_TIMEOUT"
_DEFAULT_START_TIMEOUT = 300
# Seconds without a sign of life after which a worker counts as lost; one whose process ended is noticed at once.
_SILENCE = 60


def tensorflow_workers() -> tuple[int, str]:
    """The number of processes that were told to train together, and by what."""
    if workers_of_environment()[1] > 1:
        return workers_of_environment()[1], WORKERS
    try:
        jobs = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
        return sum(len(jobs.get(kind, ())) for kind in ("chief", "worker")), "TF_CONFIG"
    except (ValueError, AttributeError, TypeError):
        return 1, "TF_CONFIG"  # nothing that TensorFlow would understand either


def workers_of_environment() -> tuple[int, int]:
    """Returns (rank, workers) as the environment names them; (0, 1) where it names none.

    Raises:
        UserError: It names no whole numbers, or a rank that there is not.
    """
    given = [os.environ.get(RANK) or "0", os.environ.get(WORKERS) or "1"]
    try:
        rank, workers = map(int, given)
        if 0 <= rank < workers:
            return rank, workers
    except ValueError:
        pass
    raise UserError(f"{RANK} must be a whole number from 0 and below {WORKERS}, got {given[0]!r} and {given[1]!r}.")


def join() -> int:
    """Joins the workers that the environment names, once a process; returns how many there are."""
    import jax

    rank, workers = workers_of_environment()
    if workers == 1 or jax.distributed.is_initialized():
        return jax.process_count()
    address = os.environ.get(ADDRESS, "").split(",")[0]
    if not address.rpartition(":")[0] or not address.rpartition(":")[2].isdigit():
        raise UserError(f"{ADDRESS} must name worker 0 as host:port where {WORKERS} is {workers}, got {address!r}.")
    try:
        seconds = float(os.environ.get(START_TIMEOUT) or _DEFAULT_START_TIMEOUT)
    except ValueError:
        raise UserError(f"{START_TIMEOUT} must be a number of seconds, got {os.environ[START_TIMEOUT]!r}.") from None

    def give_up() -> None:
        # JAX would wait, and then end the process with a dump of its stack.
        print(
            f"error: Worker {rank} of {workers} waited {seconds:g} s for the others at {address}. Start all of them, "
            f"with the same {ADDRESS}, and within {START_TIMEOUT} seconds of each other.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    deadline = threading.Timer(seconds, give_up)
    deadline.daemon = True
    deadline.start()
    # What keras.distribution.initialize calls, which knows no deadlines.
    jax.distributed.initialize(
        address,
        workers,
        rank,
        initialization_timeout=int(seconds) + 60,
        heartbeat_timeout_seconds=_SILENCE,
        shutdown_timeout_seconds=_SILENCE,
    )
    deadline.cancel()
    return workers


@dataclass(frozen=True)
class Workers:
    """Several processes that train one network on JAX, each with its devices.

    What is built in `scope` belongs to this process alone, as the network that is stored; what is built in
    `all_workers`, as the one that trains, has the same values on all of them, and each must do the same with it.

    Attributes:
        distribution: The keras.distribution.DataParallel over all devices.
        rank: The number of this process; 0 is the chief.
        workers: How many there are.
    """

    distribution: Any
    rank: int
    workers: int

    @property
    def num_replicas_in_sync(self) -> int:
        """The number of devices of all workers."""
        return self.distribution.num_model_replicas

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns a context that changes nothing."""
        return contextlib.nullcontext()


def all_workers(strategy: Any) -> contextlib.AbstractContextManager:
    """Returns a context in which variables, batches and steps are those of all workers; of one it changes nothing."""
    return strategy.distribution.scope() if isinstance(strategy, Workers) else contextlib.nullcontext()


def agreed(strategy: Any, number: int) -> bool:
    """Waits for all workers and tells whether each has come with the same number; True for one."""
    if not isinstance(strategy, Workers):
        return True
    import numpy as np
    from jax.experimental import multihost_utils

    return bool((multihost_utils.process_allgather(np.array(number)) == number).all())


class LostWorkers(UserError):
    """Another worker has ended: the same start again is all that helps."""


@contextlib.contextmanager
def named_lost_workers(strategy: Any) -> Iterator[None]:
    """Turns what JAX raises when another worker ended into `LostWorkers`."""
    try:
        yield
    except Exception as error:
        if isinstance(strategy, Workers) and any(word in str(error) for word in ("Gloo", "NCCL", "oordination")):
            raise LostWorkers(
                "Another worker has ended; its own output says why. Start all of them again: they go on behind the "
                "newest checkpoint."
            ) from error
        raise


def leave(code: int) -> int:
    """Ends one of several workers at once where it failed: JAX would wait for the others at the end of the process."""
    if code and os.environ.get(WORKERS) and backend() == JAX:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
