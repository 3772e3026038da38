"""A file that is ready to answer, and which of several files is the fastest."""

import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_resnet.artifact import Artifact, load_artifact
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.export.formats import EXACT, FORMATS
from keras_resnet.server.layout import ServableFile

TOP_CLASS = -1
_WARMUPS, _FEWEST, _MOST, _MOMENT = 2, 3, 50, 0.3  # calls, calls, calls, seconds


@dataclass(frozen=True)
class Question:
    """An image and what is asked of it.

    Attributes:
        image: float32 [height, width, channels], 0..255, RGB, at the network's size.
        target: The class whose heat map is wanted; `TOP_CLASS`: that of the most probable one; None: no heat map.
    """

    image: np.ndarray
    target: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a network says about an image.

    Attributes:
        probabilities: float32 [classes], 0..1.
        heatmap: float32 [rows, columns], at least 0, in units of the logit; None where none was asked for.
    """

    probabilities: np.ndarray
    heatmap: np.ndarray | None = None


class Backend:
    """A file that is ready to answer. One thread at a time may ask it.

    Args:
        file: What it is.

    Attributes:
        file: What it is.
        labels: The class names in the order of the probabilities.
        preprocessing: How an image becomes the network's input.
        heatmaps: "none"; "top": it draws the heat map of the most probable class; "class": of any class.
        answers_heatmap: Whether signatures that do not say so return a heat map, too.

    Raises:
        UserError: The file is damaged or not a classifier, or its runtime is not installed.
    """

    def __init__(self, file: ServableFile):
        artifact: Artifact = load_artifact(file.path, in_memory=True)
        self.file, self.labels, self.preprocessing = file, artifact.labels, artifact.preprocessing
        self._runtime = artifact.runtime
        takes_class = self._runtime.takes_target or self._runtime.explain_files is not None
        self.heatmaps = "class" if takes_class else "top" if self._runtime.has_heatmap else "none"
        self.answers_heatmap = self._runtime.has_heatmap

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input."""
        return self.preprocessing.height, self.preprocessing.width, self.preprocessing.channels

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Answers questions together.

        Args:
            questions: At least one; targets that this file can draw.

        Returns:
            An answer for each.

        Raises:
            UserError: The probabilities are NaN or infinite.
        """
        images = np.stack([question.image for question in questions])
        wanted = [question.target for question in questions]
        if self._runtime.takes_target:
            targets = np.array([TOP_CLASS if target is None else target for target in wanted], np.int32)
            found = self._runtime.answer(images, targets)
        else:
            found = self._runtime.answer(images)
        probabilities = found["probabilities"]
        if not np.isfinite(probabilities).all():
            raise UserError(f"{self.file.path} answers NaN or infinity: its weights are damaged. Export it again.")
        heatmaps: list[np.ndarray | None] = list(found.get("heatmap", [None] * len(images)))
        drawn = [
            index
            for index, target in enumerate(wanted)
            if target is not None and (heatmaps[index] is None or (target >= 0 and not self._runtime.takes_target))
        ]
        if drawn:
            targets = [int(probabilities[i].argmax()) if wanted[i] == TOP_CLASS else wanted[i] for i in drawn]
            files = [_file_at_network_size(images[index], self.preprocessing) for index in drawn]
            maps = self._runtime.explain_files(files, np.array(targets, np.int32))["heatmap"]
            for index, heatmap in zip(drawn, maps, strict=True):
                heatmaps[index] = heatmap
        return [
            Answer(probabilities[index], None if wanted[index] is None else heatmaps[index])
            for index in range(len(images))
        ]

    def measure(self, batch_size: int) -> tuple[float, float]:
        """Returns the milliseconds of a call with one image, and of a call with a full batch."""
        random = np.random.default_rng(0)
        question = Question(random.uniform(0, 255, self.input_shape).astype(np.float32))
        return _milliseconds(self, [question]), _milliseconds(self, [question] * batch_size)


@dataclass(frozen=True)
class Choice:
    """The file that was chosen, and what it was compared with.

    Attributes:
        backend: The chosen one, ready to answer.
        measured: Each file that was measured, with the milliseconds of one image and of a full batch.
        refused: A sentence for each file that cannot be served.
    """

    backend: Backend
    measured: tuple[tuple[ServableFile, float, float], ...]
    refused: tuple[str, ...]


def choose_backend(files: Sequence[ServableFile], wanted: str, batch_size: int) -> Choice:
    """Opens what can answer and takes the fastest: the one with the shortest full batch.

    Args:
        files: The files of a version, the most exact first.
        wanted: As `ServerSettings.backend`.
        batch_size: Images of a full batch.

    Returns:
        The choice.

    Raises:
        UserError: There is no such file, or none can be opened.
    """
    measured, refused = [], []
    for alternatives in _alternatives(files, wanted):
        for file in alternatives:
            try:
                backend = Backend(file)
                measured.append((backend, *backend.measure(batch_size)))
            except UserError as error:
                refused.append(str(error))
        if measured:
            break
    if not measured:
        raise UserError(refused[0])
    fastest = min(measured, key=lambda entry: entry[2])
    figures = tuple((backend.file, one, full) for backend, one, full in measured)
    return Choice(fastest[0], figures, tuple(refused))


def _alternatives(files: Sequence[ServableFile], wanted: str) -> list[list[ServableFile]]:
    """Groups of files, of which the first that can be opened counts."""
    if wanted == "auto":
        # What answers alike may be chosen by its speed; what answers differently, by its user or for want of others.
        alike = [file for file in files if file.format in FORMATS and FORMATS[file.format].limit == EXACT]
        return [alike, *([file] for file in files if file not in alike)]
    named = [file for file in files if wanted == (file.runtime if wanted == "tflite" else file.format)]
    if not named:
        there = ", ".join(dict.fromkeys(file.format for file in files))
        raise UserError(f"The backend {wanted!r} needs a file that is not there; there is {there}. Export it as well.")
    return [named[:1]]


def _milliseconds(backend: Backend, questions: list[Question]) -> float:
    for _ in range(_WARMUPS):  # it traces, optimises and fills caches
        backend.answer(questions)
    took: list[float] = []
    while len(took) < _FEWEST or (sum(took) < _MOMENT and len(took) < _MOST):
        began = time.perf_counter()
        backend.answer(questions)
        took.append(time.perf_counter() - began)
    return 1e3 * sorted(took)[len(took) // 2]


def _file_at_network_size(image: np.ndarray, preprocessing: Preprocessing) -> bytes:
    """Returns a file that the graph decodes, resizes and crops to this image again, its pixels rounded to 8 bits.

    The graph's heat map of a class is asked for by image files. A client's own would reach TensorFlow's decoders, at
    its full size; this one is ours.
    """
    from PIL import Image

    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if preprocessing.resize == "crop":
        # What it covers before the crop: as large as that, an image is not resized, and its centre is cut out.
        rows = round(preprocessing.height / preprocessing.crop_fraction) - preprocessing.height
        columns = round(preprocessing.width / preprocessing.crop_fraction) - preprocessing.width
        top, left = round(rows / 2), round(columns / 2)
        pixels = np.pad(pixels, ((top, rows - top), (left, columns - left), (0, 0)), mode="edge")
    file = io.BytesIO()
    Image.fromarray(np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels).save(file, "BMP")
    return file.getvalue()


def milliseconds(value: float) -> str:
    """Returns a time as people read it, with three significant digits."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 1e-3))))}f} ms"
