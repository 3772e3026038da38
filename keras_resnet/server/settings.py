"""How a server serves: every setting, checked before anything is loaded."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keras_resnet.errors import UserError, unknown_name
from keras_resnet.export.formats import FORMATS
from keras_resnet.server.layout import models_at

RUNTIMES = ("saved_model", "tflite")
# What `--backend` takes.
BACKENDS = ("auto", "tflite", *(name for name, row in FORMATS.items() if row.runtime in RUNTIMES))
SHORTEST_KEY = 16
_NAME = re.compile(r"[^/:\s\x00-\x1f]+")


@dataclass(frozen=True)
class ServerSettings:
    """How a server serves.

    Attributes:
        models: Name of each model → its folder or file.
        host: The address to listen on; the default is this machine's own, which no other reaches.
        port: The port; 0 takes a free one.
        backend: "auto": the faster of SavedModel and float32.tflite, which answer alike; "tflite": the most exact
            .tflite file; or the name of a format.
        versions: How many of a model's newest versions are served.
        batch_size: Images that are computed together at most.
        window_ms: Milliseconds that a batch with room in it waits for requests that are being received.
        queue_size: Images that may wait for a model; beyond that requests are refused.
        max_body_bytes: Largest body of a request.
        max_pixels: Most pixels of an image.
        deadline_seconds: Seconds from the head of a request to its answer.
        poll_seconds: Seconds between two looks for new versions.
        api_keys: Keys, one of which a request must carry; empty: none is needed.
        cors_origins: Origins whose pages may call the server from a browser.

    Raises:
        UserError: A value breaks its rule.
    """

    models: dict[str, Path]
    host: str = "127.0.0.1"
    port: int = 8501
    backend: str = "auto"
    versions: int = 2
    batch_size: int = 32
    window_ms: float = 5.0
    queue_size: int = 256
    max_body_bytes: int = 16 * 2**20
    max_pixels: int = 25_000_000
    deadline_seconds: float = 30.0
    poll_seconds: float = 1.0
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.models:
            raise UserError("Name at least one model to serve.")
        if self.backend not in BACKENDS:
            raise unknown_name("backend", self.backend, BACKENDS)
        for name in ("versions", "batch_size", "queue_size", "max_body_bytes", "max_pixels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name, lowest in (("window_ms", 0.0), ("deadline_seconds", 0.001), ("poll_seconds", 0.01)):
            if not lowest <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} must be a number of at least {lowest:g}, got {getattr(self, name)}.")
        if not 0 <= self.port <= 65535:
            raise UserError(f"A port is a number from 0 to 65535, got {self.port}.")
        if self.queue_size < self.batch_size:
            raise UserError(f"queue_size {self.queue_size} must not be below batch_size {self.batch_size}.")
        for origin in self.cors_origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise UserError(f"An origin is a scheme and a host, as https://example.org, or *, got {origin!r}.")


def named_models(given: Sequence[str]) -> dict[str, Path]:
    """Returns the models that a command line names.

    Args:
        given: PATH or NAME=PATH each. A path is an export's folder, a SavedModel, a .tflite file, or a folder of
            exports, each of which is served by its own name.

    Returns:
        Name → path.

    Raises:
        UserError: There is no such path or nothing to serve at it, or a name comes twice or cannot be part of a URL.
    """
    models: dict[str, Path] = {}
    for text in given:
        name, separator, rest = text.partition("=")
        if not separator or Path(text).exists():
            name, rest = "", text
        path = Path(rest)
        if not path.exists():
            raise UserError(f"There is no model at {path}. Give an export's folder or a .tflite file.")
        found = models_at(path)
        if not found:
            raise UserError(f"{path} holds nothing that can be served: no numbered SavedModel and no .tflite file.")
        if name and len(found) > 1:
            raise UserError(f"{path} holds {len(found)} models, which have their own names. Leave {name}= out.")
        for own, place in found.items():
            own = name or own
            if not _NAME.fullmatch(own):
                raise UserError(f"A model's name has no space, '/' or ':', got {own!r}. Give NAME={place}.")
            if own in models:
                raise UserError(f"Two models are called {own!r}: {models[own]} and {place}. Give NAME=PATH.")
            models[own] = place
    return models


def read_api_keys(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads API keys, one a line; empty lines and lines that begin with "#" do not count.

    Raises:
        UserError: The file cannot be read, or holds no key, or one that is short or not plain ASCII without spaces.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"Cannot read the API keys in {path}: {reason}.") from None
    keys = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not keys:
        raise UserError(f"{path} holds no API key. Write one a line, for example that of: openssl rand -hex 32.")
    for number, key in enumerate(keys, start=1):
        # The key itself is not shown: errors end up in logs.
        if not re.fullmatch(r"[\x21-\x7e]+", key) or len(key) < SHORTEST_KEY:
            raise UserError(
                f"An API key is at least {SHORTEST_KEY} ASCII characters without spaces; key {number} of {path} is not."
            )
    return keys
