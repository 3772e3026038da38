"""From images to labelled predictions, by any artifact."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_resnet.artifact import Artifact
from keras_resnet.backends import JAX, backend
from keras_resnet.data.feeding import file_reader
from keras_resnet.data.images import decode_with_pillow, image_files, read_image_file, resize_with_pillow
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError

# From how many images on folding the network takes less time than it saves.
_MANY_IMAGES = 256
_JAX_BATCH = 32  # JAX compiles anew for each size
_LEAST_GAIN = 1.05
_AHEAD, _MOST_READERS = 256, 8


@dataclass(frozen=True)
class Prediction:
    """What a model says about one file.

    Attributes:
        file: The path as it was given; "image 3" for the third image where its bytes were.
        classes: (label, probability) of the most probable classes, best first; empty on an error.
        error: Why the file could not be read; None when it could.
    """

    file: str
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the prediction as a dictionary that JSON can hold."""
        if self.error is not None:
            return {"file": self.file, "error": self.error}
        classes = [{"label": label, "probability": probability} for label, probability in self.classes]
        return {"file": self.file, "predictions": classes}


def predict_images(
    artifact: Artifact, images: Iterable[str | os.PathLike[str] | bytes], *, top: int = 1, batch_size: int | None = None
) -> Iterator[Prediction]:
    """Predicts images, one after another; one that cannot be read does not stop the others.

    While the model works on some images the next ones are read in threads. Many images are answered by the folded
    network, see `Artifact.folded`.

    Args:
        artifact: The model.
        images: Image files, folders, and the bytes of image files; a folder stands for the images in it and below, in
            order of name.
        top: How many classes an image gets; at most as many as there are.
        batch_size: Images at a time; None: as many as turn out fastest.

    Yields:
        A prediction for each image, in order.

    Raises:
        UserError: `top` is below 1.
    """
    if top < 1:
        raise UserError(f"The number of classes to show must be at least 1, got {top}.")
    listed = list(_listed(images))
    if len(listed) >= _MANY_IMAGES:
        artifact = artifact.folded()
    size = (
        BatchSize() if batch_size is None and backend() != JAX else BatchSize(batch_size or _JAX_BATCH, is_fixed=True)
    )
    batch: list[tuple[str, np.ndarray | None, str | None]] = []
    for entry in _read_ahead(listed, artifact):
        batch.append(entry)
        if len(batch) == size.count:
            yield from _predict_batch(artifact, batch, top, size)
            batch = []
    if batch:
        yield from _predict_batch(artifact, batch, top, size)


class BatchSize:
    """How many images at a time are fastest, found while they are answered: doubled as long as that gains.

    Args:
        first: Where to begin.
        largest: Where to end at the latest.
        is_fixed: Whether it stays at `first`.

    Attributes:
        count: How many images the next batch should have.
    """

    def __init__(self, first: int = 8, largest: int = 128, *, is_fixed: bool = False):
        self.count = first
        self._largest, self._is_settled = largest, is_fixed
        self._best, self._best_rate, self._calls = first, 0.0, 0

    def record(self, count: int, seconds: float) -> None:
        """Takes note of what a batch took.

        Args:
            count: Its images; only whole batches count.
            seconds: The model's alone.
        """
        if self._is_settled or count != self.count:
            return
        self._calls += 1
        if self._calls == 1:
            return  # the first of its size prepares what the others use
        rate, self._calls = count / max(seconds, 1e-9), 0
        if rate > _LEAST_GAIN * self._best_rate:
            self._best, self._best_rate = count, rate
        self._is_settled = self._best != count or 2 * count > self._largest
        self.count = self._best if self._is_settled else 2 * count


def _listed(images) -> Iterator[tuple[str, bytes | None, str | None]]:
    """(name, the bytes where those were given, why it cannot be read)."""
    for number, given in enumerate(images, start=1):
        if isinstance(given, bytes):
            yield f"image {number}", given, None
        else:
            for name, problem in image_files([given]):
                yield name, None, problem


def _read_ahead(listed: list, artifact: Artifact) -> Iterator[tuple[str, np.ndarray | None, str | None]]:
    """(name, float32 image at the network's size, None), or (name, None, why it cannot be read), in order."""
    # What an app does, which has no TensorFlow either; a Keras network gets what it was evaluated with.
    decode = file_reader(artifact.preprocessing) if artifact.runtime is None else _by_pillow(artifact.preprocessing)

    def read(name: str, contents: bytes | None, problem: str | None) -> tuple[str, np.ndarray | None, str | None]:
        if problem is not None:
            return name, None, problem
        try:
            return name, decode(read_image_file(name) if contents is None else contents, name), None
        except UserError as error:
            return name, None, str(error)

    if len(listed) == 1:
        yield read(*listed[0])
        return
    with ThreadPoolExecutor(min(_MOST_READERS, os.cpu_count() or 1)) as readers:
        begun: deque = deque()
        for entry in listed:
            begun.append(readers.submit(read, *entry))
            if len(begun) > _AHEAD:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def _by_pillow(preprocessing: Preprocessing) -> Callable[[bytes, str], np.ndarray]:
    def read(contents: bytes, name: str) -> np.ndarray:
        return resize_with_pillow(decode_with_pillow(contents, preprocessing.channels, name=name), preprocessing)

    return read


def _predict_batch(artifact: Artifact, batch: list, top: int, size: BatchSize) -> Iterator[Prediction]:
    images = [image for _, image, _ in batch if image is not None]
    began = time.perf_counter()
    rows = iter(artifact.probabilities(np.stack(images)) if images else ())
    size.record(len(images), time.perf_counter() - began)
    for file, image, problem in batch:
        if image is None:
            yield Prediction(file, error=problem)
            continue
        row = next(rows)
        best = np.argsort(-row, kind="stable")[:top]
        yield Prediction(file, classes=tuple((artifact.labels[index], float(row[index])) for index in best))
