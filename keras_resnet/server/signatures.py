"""The signatures of an exported SavedModel over TensorFlow Serving's REST API: JSON in, questions; answers, JSON out.

Every file answers by the same signatures, a .tflite file as well: they differ in how an image is given, and all of them
ask one network. Sizes and sentences are those of `export.saved_model`.

Reference:
    TensorFlow Serving, "RESTful API", Predict API and "Encoding binary values".
"""

import base64
import binascii
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_resnet.data.images import resize_with_pillow
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.server.backends import TOP_CLASS, Answer, Backend, Question
from keras_resnet.server.pictures import decode_image

DEFAULT, TOP = "serving_default", 5


@dataclass(frozen=True)
class Signature:
    """One way to ask a network.

    Attributes:
        images: How its images are given: "float32" at the network's size, "uint8" of any one size, or "bytes" of files.
        heatmap: Whose heat map it returns: "none" (that of the most probable class where the file always draws it),
            "top", or "class", the one that a second input names.
    """

    images: str
    heatmap: str = "none"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of its inputs."""
        return ("images", "target") if self.heatmap == "class" else ("images",)


SIGNATURES = {
    DEFAULT: Signature("float32"),
    "serve_uint8": Signature("uint8"),
    "serve_bytes": Signature("bytes"),
    "explain_bytes": Signature("bytes", "top"),
    "explain_class_bytes": Signature("bytes", "class"),
}
# Which of them a file has, by what it can draw.
_DRAWABLE = {"none": ("none",), "top": ("none", "top"), "class": ("none", "top", "class")}
_DTYPES = {"float32": "DT_FLOAT", "uint8": "DT_UINT8", "bytes": "DT_STRING"}


def signatures_of(backend: Backend) -> dict[str, Signature]:
    """Returns the signatures that a file has, by name."""
    drawable = _DRAWABLE[backend.heatmaps]
    return {name: signature for name, signature in SIGNATURES.items() if signature.heatmap in drawable}


@dataclass(frozen=True)
class Asked:
    """What a request asks.

    Attributes:
        questions: A question for each image.
        is_row_form: Whether it came, and is answered, one object for each image ("instances"), or as columns.
    """

    questions: list[Question]
    is_row_form: bool


@dataclass(frozen=True)
class _Limits:
    pixels: int
    until: float


def read_predict(body: bytes, backend: Backend, *, max_images: int, max_pixels: int, until: float = math.inf) -> Asked:
    """Reads the body of a request to `:predict`.

    Args:
        body: JSON with "instances" or "inputs", and perhaps "signature_name".
        backend: What will answer.
        max_images: Most images of a request.
        max_pixels: Most pixels of an image.
        until: When nobody waits for the answer any more, by `time.monotonic`: further images are not decoded then.

    Returns:
        The questions.

    Raises:
        UserError: The body is not such JSON, or an image or class is not what the signature takes.
    """
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"The body is not JSON: {error}.") from None
    if not isinstance(given, dict):
        raise UserError(f"The body must be a JSON object, got {_kind(given)}.")
    name = given.get("signature_name") or DEFAULT
    available = signatures_of(backend)
    if not isinstance(name, str) or name not in available:
        if isinstance(name, str) and name in SIGNATURES:
            raise UserError(f"{no_heatmap(backend)} The signature {name!r} returns one.")
        raise unknown_name("signature", str(name)[:80], available)
    signature = available[name]
    columns, is_row_form = _columns(given, signature)
    count = len(columns["images"])
    if not 1 <= count <= max_images:
        raise UserError(f"A request holds 1 to {max_images} images, got {count}.")
    limits = _Limits(max_pixels, until)
    images = _READERS[signature.images](columns["images"], backend, name, limits)
    targets = _targets(columns.get("target"), signature, backend, count)
    return Asked([Question(image, target) for image, target in zip(images, targets, strict=True)], is_row_form)


def write_predict(answers: Sequence[Answer], asked: Asked, labels: Sequence[str]) -> dict[str, Any]:
    """Returns what `:predict` answers, as JSON holds it."""
    rows = []
    for answer in answers:
        best = np.argsort(-answer.probabilities, kind="stable")[:TOP]
        row = {
            "probabilities": answer.probabilities.tolist(),
            "labels": [labels[index] for index in best],
            "scores": answer.probabilities[best].tolist(),
        }
        if answer.heatmap is not None:
            row["heatmap"] = answer.heatmap.tolist()
        rows.append(row)
    if asked.is_row_form:
        return {"predictions": rows}
    return {"outputs": {name: [row[name] for row in rows] for name in rows[0]}}


def no_heatmap(backend: Backend) -> str:
    """Returns the sentence on a file that cannot draw what was asked for."""
    if backend.heatmaps == "top":
        return (
            f"The {backend.file.format} file that is served draws the heat map of the most probable class alone. "
            "Export it with --with-heatmap input."
        )
    return f"The {backend.file.format} file that is served has no heat map inside. Export it with --with-heatmap."


def metadata(name: str, version: int, backend: Backend) -> dict[str, Any]:
    """Returns what GET …/metadata answers: the signatures as TensorFlow Serving gives a GetModelMetadataResponse."""
    height, width, channels = backend.input_shape
    found = {}
    for key, signature in signatures_of(backend).items():
        image = {"float32": (-1, height, width, channels), "uint8": (-1, -1, -1, channels), "bytes": (-1,)}
        inputs = {"images": _tensor(_DTYPES[signature.images], image[signature.images], f"{key}_images:0")}
        if signature.heatmap == "class":
            inputs["target"] = _tensor("DT_INT32", (-1,), f"{key}_target:0")
        outputs = {
            "probabilities": ("DT_FLOAT", (-1, len(backend.labels))),
            "labels": ("DT_STRING", (-1, min(TOP, len(backend.labels)))),
            "scores": ("DT_FLOAT", (-1, min(TOP, len(backend.labels)))),
        }
        if signature.heatmap != "none" or backend.answers_heatmap:
            outputs["heatmap"] = ("DT_FLOAT", (-1, -1, -1))
        found[key] = {
            "inputs": inputs,
            "outputs": {output: _tensor(*what, f"{key}_{output}:0") for output, what in outputs.items()},
            "method_name": "tensorflow/serving/predict",
        }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": found}},
    }


def _tensor(dtype: str, shape: Sequence[int], name: str) -> dict[str, Any]:
    dimensions = [{"size": str(side), "name": ""} for side in shape]
    return {"dtype": dtype, "tensor_shape": {"dim": dimensions, "unknown_rank": False}, "name": name}


def _columns(given: dict[str, Any], signature: Signature) -> tuple[dict[str, list], bool]:
    """Input → a value for each image, and whether they came in rows."""
    names = signature.inputs
    if ("instances" in given) == ("inputs" in given):
        raise UserError('The body needs either "instances" (an entry for each image) or "inputs" (columns).')
    if "instances" in given:
        rows = given["instances"]
        if not isinstance(rows, list):
            raise UserError(f'"instances" is a list with an entry for each image, got {_kind(rows)}.')
        rows = [row if _names_inputs(row, names) else {names[0]: row} for row in rows]
        for row in rows:
            _check_names(row, names, "Each instance")
        return {name: [row[name] for row in rows] for name in names}, True
    columns = given["inputs"]
    if not isinstance(columns, dict):
        columns = {names[0]: columns}
    _check_names(columns, names, '"inputs"')
    for name, column in columns.items():
        if not isinstance(column, list):
            raise UserError(f'"inputs" holds a list for each input, got {_kind(column)} for {name!r}.')
    if len({len(column) for column in columns.values()}) > 1:
        counts = " and ".join(f"{len(columns[name])} {name}" for name in names)
        raise UserError(f"target holds one class per file, got {counts}.")
    return columns, False


def _names_inputs(row: Any, names: Sequence[str]) -> bool:
    """Whether an instance is an object of inputs; with one input it may be the value itself, {"b64": …} included."""
    return isinstance(row, dict) and (len(names) > 1 or set(row) != {"b64"})


def _check_names(row: dict[str, Any], names: Sequence[str], what: str) -> None:
    if set(row) != set(names):
        raise UserError(f"{what} must hold {' and '.join(names)}, got {', '.join(sorted(row))[:80] or 'nothing'}.")


def _numbers(values: list, rule: str) -> np.ndarray:
    try:
        numbers = np.array(values)
    except (ValueError, OverflowError):
        raise UserError(f"{rule}, got lists of different lengths.") from None
    if numbers.dtype.kind not in "iuf":
        raise UserError(f"{rule}, got something that is not a number.")
    return numbers


def _float_images(values: list, backend: Backend, name: str, limits: _Limits) -> np.ndarray:
    height, width, channels = backend.input_shape
    rule = f"{name} takes images of shape (batch, {height}, {width}, {channels})"
    images = _numbers(values, rule)
    if images.shape[1:] != backend.input_shape:
        raise UserError(f"{rule}, got {list(images.shape)}.")
    with np.errstate(over="ignore"):  # beyond float32 is infinite there
        images = images.astype(np.float32)
    if not np.isfinite(images).all():
        raise UserError(f"{name} takes finite pixels, 0..255, got NaN or infinity.")
    return images


def _byte_images(values: list, backend: Backend, name: str, limits: _Limits) -> list[np.ndarray]:
    channels = backend.input_shape[-1]
    rule = f"{name} takes images of shape (batch, any height, any width, {channels})"
    images = _numbers(values, rule)
    if images.ndim != 4 or images.shape[-1] != channels or 0 in images.shape:
        raise UserError(f"{rule}, got {list(images.shape)}.")
    if images.dtype.kind not in "iu" or images.min() < 0 or images.max() > 255:
        raise UserError(f"{name} takes whole pixels, 0..255. Use {DEFAULT} for others.")
    if images.shape[1] * images.shape[2] > limits.pixels:
        raise UserError(f"An image has at most {limits.pixels:,} pixels, got {list(images.shape)}.")
    return [resize_with_pillow(image, backend.preprocessing) for image in images.astype(np.uint8)]


def _file_images(values: list, backend: Backend, name: str, limits: _Limits) -> list[np.ndarray]:
    found = []
    for number, value in enumerate(values, start=1):
        contents = _contents(value, f"Image {number}")
        if time.monotonic() > limits.until:
            raise UserError(f"Time was up at image {number} of {len(values)}. Send fewer or smaller images.")
        pixels = decode_image(contents, backend.preprocessing, name=f"Image {number}", max_pixels=limits.pixels)
        found.append(resize_with_pillow(pixels, backend.preprocessing))
    return found


_READERS = {"float32": _float_images, "uint8": _byte_images, "bytes": _file_images}


def _contents(value: Any, what: str) -> bytes:
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        # What `base64` prints has line ends, and other programs leave the padding out.
        text = "".join(value["b64"].split())
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise UserError(f"{what} is not base64.") from None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    raise UserError(f'{what} must be the bytes of an image file, {{"b64": "…"}}, got {_kind(value)}.')


def _targets(values: list | None, signature: Signature, backend: Backend, count: int) -> list[int | None]:
    if signature.heatmap == "none":
        return [TOP_CLASS if backend.answers_heatmap else None] * count
    if values is None:
        return [TOP_CLASS] * count
    classes = len(backend.labels)
    rule = f"one class per file: 0..{classes - 1}, or -1 for the most probable one"
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < classes:
            raise UserError(f"target holds {rule}, got {str(value)[:80]}.")
    return values


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
