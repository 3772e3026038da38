"""From images to labelled predictions, by any artifact."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_resnet.artifact import Artifact
from keras_resnet.data.feeding import resize_image
from keras_resnet.data.images import decode_with_pillow, image_files, read_image
from keras_resnet.errors import UserError


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
    artifact: Artifact, images: Iterable[str | os.PathLike[str] | bytes], *, top: int = 1, batch_size: int = 32
) -> Iterator[Prediction]:
    """Predicts images, one after another; one that cannot be read does not stop the others.

    Args:
        artifact: The model.
        images: Image files, folders, and the bytes of image files; a folder stands for the images in it and below, in
            order of name.
        top: How many classes an image gets; at most as many as there are.
        batch_size: Images at a time.

    Yields:
        A prediction for each image, in order.

    Raises:
        UserError: `top` is below 1.
    """
    if top < 1:
        raise UserError(f"The number of classes to show must be at least 1, got {top}.")
    batch: list[tuple[str, np.ndarray | None, str | None]] = []
    for name, pixels, problem in _read(images, artifact.preprocessing.channels):
        resized = None if pixels is None else resize_image(pixels, artifact.preprocessing)
        batch.append((name, resized, problem))
        if len(batch) == batch_size:
            yield from _predict_batch(artifact, batch, top)
            batch = []
    if batch:
        yield from _predict_batch(artifact, batch, top)


def _read(images, channels: int) -> Iterator[tuple[str, np.ndarray | None, str | None]]:
    """(name, uint8 [height, width, channels], None), or (name, None, why it cannot be read)."""
    for number, given in enumerate(images, start=1):
        files = [(f"image {number}", None)] if isinstance(given, bytes) else image_files([given])
        for name, problem in files:
            if problem is not None:
                yield name, None, problem
                continue
            try:
                is_file = not isinstance(given, bytes)
                pixels = read_image(name, channels) if is_file else decode_with_pillow(given, channels, name=name)
                yield name, pixels, None
            except UserError as error:
                yield name, None, str(error)


def _predict_batch(artifact: Artifact, batch: list, top: int) -> Iterator[Prediction]:
    images = [image for _, image, _ in batch if image is not None]
    rows = iter(artifact.probabilities(np.stack(images)) if images else ())
    for file, image, problem in batch:
        if image is None:
            yield Prediction(file, error=problem)
            continue
        row = next(rows)
        best = np.argsort(-row, kind="stable")[:top]
        yield Prediction(file, classes=tuple((artifact.labels[index], float(row[index])) for index in best))
