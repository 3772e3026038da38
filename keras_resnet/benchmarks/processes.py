"""Contestants in processes of their own, so that none finds the threads of another one waiting on its cores."""

import contextlib
import multiprocessing
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from keras_resnet.benchmarks.turns import Contestant, Seconds
from keras_resnet.errors import UserError

_END_SECONDS = 10


@contextlib.contextmanager
def contestants_of(
    makers: Mapping[str, tuple[str, Sequence[Any]]], environments: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[dict[str, Contestant]]:
    """Starts a process for each contestant, which waits between its turns.

    Args:
        makers: Name → ("package.module:function", arguments). The function returns a `Contestant` that returns
            `Seconds`.
        environments: Name → variables of the environment that its process has beside those of this one.

    Yields:
        Name → contestant, which runs in its process.

    Raises:
        UserError: A contestant raised one, when it was made or in its turn.
    """
    spawn = multiprocessing.get_context("spawn")
    running = {}
    try:
        for name, (maker, arguments) in makers.items():
            here, there = spawn.Pipe()
            process = spawn.Process(target=_wait_for_turns, args=(there, maker, tuple(arguments)), daemon=True)
            with _environment((environments or {}).get(name, {})):
                process.start()
            there.close()
            running[name] = process, here
            _answer(name, here)
        yield {name: _Turn(name, pipe) for name, (_, pipe) in running.items()}
    finally:
        for process, pipe in running.values():
            with contextlib.suppress(OSError):
                pipe.send(False)
            process.join(_END_SECONDS)
            if process.is_alive():
                process.kill()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for a process that starts inside."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


class _Turn:
    def __init__(self, name: str, pipe: Connection):
        self._name, self._pipe = name, pipe

    def __call__(self) -> Seconds:
        self._pipe.send(True)
        return _answer(self._name, self._pipe)


def _answer(name: str, pipe: Connection) -> Any:
    try:
        found = pipe.recv()
    except EOFError:
        raise UserError(f"The process of the contestant {name!r} ended. See its messages above.") from None
    if isinstance(found, UserError):
        raise found
    return found


def _wait_for_turns(pipe: Connection, maker: str, arguments: tuple) -> None:
    try:
        contestant = pkgutil.resolve_name(maker)(*arguments)
        pipe.send(None)
        while pipe.recv():
            pipe.send(contestant())
    except UserError as error:
        pipe.send(error)
    except (EOFError, KeyboardInterrupt):
        sys.exit(1)
