"""`train.py --workers`: the engines that start workers, and what a worker started by Ray does."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from keras_resnet.training.launch import launch, worker_arguments, worker_command
from keras_resnet.training.recipes import Recipe


def launch_workers(
    arguments: argparse.Namespace, recipe: Recipe, given: list[str], report: Callable[[str], None]
) -> int:
    """Starts the workers by the engine that the arguments name, waits for them and returns the exit code.

    Args:
        arguments: Parsed arguments of train.py.
        recipe: The recipe that they make.
        given: The same arguments, unparsed.
        report: Is told of each restart.

    Raises:
        UserError: As `launch` and `launch_on_ray`.
    """
    if arguments.engine == "ray":
        from keras_resnet.training.ray_launch import launch_on_ray

        places = {"runs": arguments.runs, "address": arguments.address, "gpus": recipe.devices != "cpu"}
        restarts, kept = arguments.restarts, worker_arguments(given)
        print(launch_on_ray(train_as_worker, kept, arguments.workers, restarts=restarts, **places), end="")
        return 0
    return launch(worker_command(given), arguments.workers, restarts=arguments.restarts, report=report)


def train_as_worker(given: Sequence[str]) -> str:
    """Trains in a worker's process with the arguments of train.py; returns what --json prints to standard output."""
    from keras_resnet.cli.train import build_parser, train_or_launch

    arguments = build_parser().parse_args(given)
    if not arguments.json:
        train_or_launch(arguments, list(given))
        return ""
    with json_alone(io.StringIO()) as written:
        train_or_launch(arguments, list(given))
        return written.getvalue()


@contextlib.contextmanager
def json_alone(output: TextIO) -> Iterator[TextIO]:
    """Makes Python print to `output`; what libraries such as Gloo write to standard output goes to standard error."""
    sys.stdout.flush()
    os.dup2(2, 1)
    with contextlib.redirect_stdout(output):
        yield output
