"""Fetching published weights once: into a cache, checked against the publisher's digest, whole or not at all."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from keras_resnet.errors import UserError
from keras_resnet.filesystem import cache_directory
from keras_resnet.progress import ProgressBar
from keras_resnet.storage import atomic_file
from keras_resnet.weights.catalog import PublishedWeights

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20


def fetch(weights: PublishedWeights) -> Path:
    """Returns the file of published weights, downloading it on first use.

    Args:
        weights: The catalogue's entry.

    Returns:
        The file in the cache, its digest checked (also when it was there already).

    Raises:
        UserError: It cannot be downloaded (the message says where to put it by hand), or its digest is wrong (the file
            is then removed).
    """
    path = cache_directory() / weights.filename
    if not path.is_file():
        _download(weights.url, path, weights.digest)
        return path
    if not matches_digest(path, weights.digest):
        path.unlink()
        raise UserError(
            f"{path} is not the published file: its digest is not {weights.digest}…. It was removed; the same call "
            "downloads it anew."
        )
    return path


def matches_digest(path: Path, digest: str) -> bool:
    """Whether a file has a digest "sha256:…" or "md5:…", of which the beginning may be given; "" fits every file."""
    if not digest:
        return True
    algorithm, expected = digest.split(":")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest().startswith(expected)


def _download(url: str, path: Path, digest: str) -> None:
    if not url.startswith(("https://", "http://")):
        raise UserError(f"Weights are downloaded over http(s), got {url}.")
    with atomic_file(path) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                expected = int(response.headers.get("Content-Length") or 0)
                received = _copy(response, temporary, expected, name=path.name)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise UserError(
                f"Cannot download {path.name}: {reason}. Take it from {url} by other means and put it at {path}."
            ) from None
        if expected and received != expected:
            raise UserError(
                f"The download of {path.name} ended after {received:,} of {expected:,} bytes. Try again, or take it "
                f"from {url} by other means and put it at {path}."
            )
        if not matches_digest(temporary, digest):
            raise UserError(
                f"What {url} gave is not the published file: its digest is not {digest}…. It was removed. Try again."
            )


def _copy(response, target: Path, expected: int, *, name: str) -> int:
    received = 0
    progress = ProgressBar()
    progress.begin(name, expected or None, "B")
    with open(target, "wb") as file:
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            received += len(chunk)
            progress.step(len(chunk))
    progress.end(received)
    return received
