"""The models that are served and their versions: loaded, replaced and retired while requests go on.

A version is loaded before the one that it replaces is let go, and that one only when its last request is answered. What
changes on the disk is left alone until it is the same in two looks, so that a folder is not read while it is copied.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_resnet.errors import UserError, unknown_name
from keras_resnet.server.backends import Backend, Choice, choose_backend, milliseconds
from keras_resnet.server.batching import Batcher
from keras_resnet.server.layout import Version, versions_at
from keras_resnet.server.settings import ServerSettings

AVAILABLE, LOADING, UNLOADING, END = "AVAILABLE", "LOADING", "UNLOADING", "END"
log = logging.getLogger(__name__)


class NotServed(Exception):
    """There is no such model or version; the message is a sentence."""


@dataclass(eq=False)
class Servable:
    """One version of a model that answers.

    Attributes:
        name: The model's name.
        version: Its number.
        backend: What answers.
        batcher: What gathers questions to it.
        in_use: Requests that hold it.
    """

    name: str
    version: int
    backend: Backend
    batcher: Batcher
    in_use: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Model:
    """A model that is served.

    Attributes:
        name: Its name.
        path: Where it lies.
        format: The format that was chosen when the server started.
        opened: Number → the version as it lay on the disk, and what answers, before the event loop runs.
        servables: Number → what answers.
        states: Number → its state as TensorFlow Serving calls it, and what went wrong.
        known: Number → the state of the files that were loaded, or could not be.
        seen: What lay on the disk at the last look.
    """

    name: str
    path: Path
    format: str = ""
    opened: dict[int, tuple[Version, Backend]] = field(default_factory=dict)
    servables: dict[int, Servable] = field(default_factory=dict)
    states: dict[int, tuple[str, str]] = field(default_factory=dict)
    known: dict[int, tuple] = field(default_factory=dict)
    seen: dict[int, Version] = field(default_factory=dict)


def open_models(settings: ServerSettings, tell: Callable[[str], None]) -> list[Model]:
    """Opens the newest versions of every model.

    Args:
        settings: What is served and how.
        tell: Takes a line on each file that was measured, chosen or refused.

    Returns:
        The models, ready for a `Repository`.

    Raises:
        UserError: A model has no version that can be served.
    """
    return [_open_model(name, path, settings, tell) for name, path in settings.models.items()]


def _open_model(name: str, path: Path, settings: ServerSettings, tell: Callable[[str], None]) -> Model:
    model, problems = Model(name, path), []
    found = versions_at(path)
    model.seen = found
    for number in sorted(found, reverse=True)[: settings.versions]:
        model.known[number] = found[number].state
        try:
            choice = choose_backend(found[number].files, model.format or settings.backend, settings.batch_size)
        except UserError as error:
            model.states[number] = (END, str(error))
            problems.append(str(error))
            continue
        model.format = model.format or choice.backend.file.format
        model.opened[number] = found[number], choice.backend
        for line in _told(name, number, choice, settings.batch_size):
            tell(line)
    if not model.opened:
        raise UserError(problems[0] if problems else f"{path} holds no version of a model any more.")
    for problem in problems:
        tell(f"{name}: not served: {problem}")
    return model


def _told(name: str, number: int, choice: Choice, batch_size: int) -> Iterator[str]:
    for file, one, full in choice.measured:
        chosen = "  <- serves" if file == choice.backend.file else ""
        figures = f"{milliseconds(one)} an image alone, {milliseconds(full / batch_size)} an image of {batch_size}"
        yield f"{name}, version {number}: {file.format:<12} {figures}{chosen}"
    for sentence in choice.refused:
        yield f"{name}, version {number}: not usable: {sentence}"


class Repository:
    """The models while they are served. All its methods run in the event loop.

    Args:
        models: From `open_models`.
        settings: What is served and how.
        observe: Takes a model's name, and the size and seconds of each of its batches.
    """

    def __init__(
        self,
        models: list[Model],
        settings: ServerSettings,
        observe: Callable[[str, int, float], None] = lambda name, size, seconds: None,
    ):
        self.models = {model.name: model for model in models}
        self._settings, self._observe = settings, observe
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._retiring: set[asyncio.Task] = set()
        self._watching: asyncio.Task | None = None

    async def start(self) -> None:
        """Makes the models answer and begins to look for new versions."""
        for model in self.models.values():
            for number, (_, backend) in model.opened.items():
                self._serve(model, number, backend)
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Ends when every question that was put is answered."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        for model in self.models.values():
            for number in list(model.servables):
                self._retire(model, number)
        await asyncio.gather(*self._retiring)
        self._loader.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def use(self, name: str, version: int | None = None) -> Iterator[Servable]:
        """Lends what answers for a model; it is not retired before it is given back.

        Args:
            name: The model.
            version: Its version; None: the newest.

        Yields:
            The servable.

        Raises:
            NotServed: There is no such model or version.
        """
        model = self.model(name)
        number = max(model.servables) if version is None else version
        if number not in model.servables:
            there = ", ".join(map(str, sorted(model.servables)))
            raise NotServed(f"The model {name!r} is served in version {there}, not in {number}.")
        servable = model.servables[number]
        servable.in_use += 1
        servable.idle.clear()
        try:
            yield servable
        finally:
            servable.in_use -= 1
            if not servable.in_use:
                servable.idle.set()

    def model(self, name: str) -> Model:
        """Returns a model; NotServed where there is none of that name."""
        if name not in self.models:
            raise NotServed(str(unknown_name("model", name[:80], self.models)))
        return self.models[name]

    def is_ready(self) -> bool:
        """Whether every model has a version that answers."""
        return all(model.servables for model in self.models.values())

    def status(self, name: str, version: int | None = None) -> dict[str, Any]:
        """Returns the state of a model's versions as TensorFlow Serving's REST API gives it, newest first.

        Raises:
            NotServed: There is no such model or version.
        """
        states = self.model(name).states
        if version is not None and version not in states:
            raise NotServed(f"The model {name!r} has no version {version}.")
        shown = [number for number in sorted(states, reverse=True) if version in (None, number)]
        return {
            "model_version_status": [
                {
                    "version": str(number),
                    "state": states[number][0],
                    "status": {
                        "error_code": "UNKNOWN" if states[number][1] else "OK",
                        "error_message": states[number][1],
                    },
                }
                for number in shown
            ]
        }

    def _serve(self, model: Model, number: int, backend: Backend) -> None:
        batcher = Batcher(
            backend.answer,
            batch_size=self._settings.batch_size,
            window_seconds=self._settings.window_ms / 1e3,
            queue_size=self._settings.queue_size,
            observe=lambda size, seconds: self._observe(model.name, size, seconds),
        )
        servable = Servable(model.name, number, backend, batcher)
        servable.idle.set()
        if number in model.servables:
            self._retire(model, number)
        model.servables[number] = servable
        model.states[number] = (AVAILABLE, "")

    def _retire(self, model: Model, number: int) -> None:
        """Takes a version out: its requests are answered, new ones do not reach it."""
        servable = model.servables.pop(number)
        model.states[number] = (UNLOADING, "")

        async def retire() -> None:
            await servable.idle.wait()
            await servable.batcher.close()
            if number not in model.servables:
                model.states[number] = (END, "")

        task = asyncio.create_task(retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_seconds)
            for model in self.models.values():
                try:
                    await self._look(model)
                except Exception:  # the next look may find it mended; without looks nothing would ever be
                    log.exception("Looking for versions of %s failed.", model.name)

    async def _look(self, model: Model) -> None:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._loader, versions_at, model.path)
        before, model.seen = model.seen, found
        newest = sorted(found, reverse=True)[: self._settings.versions]
        for number in newest:
            version = found[number]
            settled = number in before and before[number].state == version.state
            if settled and model.known.get(number) != version.state:
                await self._load(model, number, version)
        gone = [number for number in model.servables if number not in newest and number not in before]
        passed = [number for number in model.servables if number in found and number not in newest]
        for number in {*gone, *passed}:
            # The last one stays, whatever happens to its files: it is in memory.
            if any(other != number and other in newest for other in model.servables):
                log.warning("%s: version %d is no longer served.", model.name, number)
                model.known.pop(number, None)
                self._retire(model, number)

    async def _load(self, model: Model, number: int, version: Version) -> None:
        loop = asyncio.get_running_loop()
        model.known[number] = version.state
        if number not in model.servables:
            model.states[number] = (LOADING, "")
        wanted = model.format if any(file.format == model.format for file in version.files) else self._settings.backend
        try:
            choice = await loop.run_in_executor(
                self._loader, choose_backend, version.files, wanted, self._settings.batch_size
            )
        except UserError as error:
            log.error("%s: version %d cannot be served: %s", model.name, number, error)
            if number not in model.servables:
                model.states[number] = (END, str(error))
            return
        self._serve(model, number, choice.backend)
        log.warning("%s: version %d is served by %s.", model.name, number, choice.backend.file.format)
