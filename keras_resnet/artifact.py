"""`Artifact`: a network or an exported file, whatever its format, together with everything that is needed to use it.

Importing this module imports neither TensorFlow nor Keras; an exported file needs its own runtime alone.
"""

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_resnet import runtimes
from keras_resnet.archives import DAMAGED_ARCHIVE, read_member
from keras_resnet.backends import JAX, as_array, backend, compiled
from keras_resnet.data.images import is_shown
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.storage import load_model, read_config, read_json

if TYPE_CHECKING:
    import keras

    from keras_resnet.models.config import ResNetConfig

# Suffix of an exported file → its runtime; a SavedModel is a folder.
RUNTIMES = {".tflite": "tflite", ".onnx": "onnx", ".xml": "openvino"}
# Runtimes that are an extra of this package.
EXTRAS = ("onnx", "openvino")
APPLICATIONS = "keras.applications:"


@dataclass(frozen=True)
class Artifact:
    """A network or runtime that is ready to answer.

    Attributes:
        source: What errors call it: a path, or the name of a network in memory.
        preprocessing: How an image becomes its input.
        labels: The class names in the order of the probabilities; their numbers where none are known.
        head: What the stored network returns: "linear" (logits), "softmax" or "sigmoid".
        answer: float32 images [n, height, width, channels], 0..255, RGB, at the network's size → "probabilities",
            float32 [n, classes], and "heatmap", float32 [n, rows, columns], where a file has one inside.
        model: The Keras network; None for an exported file, whose layers cannot be asked for.
        config: What the network was built from, where its file says so.
        runtime: The opened file, for what else it can do; None for a network.
    """

    source: str
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    head: str
    answer: Callable[[np.ndarray], dict[str, np.ndarray]] = dataclasses.field(repr=False)
    model: "keras.Model | None" = dataclasses.field(default=None, repr=False)
    config: "ResNetConfig | None" = dataclasses.field(default=None, repr=False)
    runtime: runtimes.Runtime | None = dataclasses.field(default=None, repr=False)

    @property
    def pixels(self) -> Preprocessing:
        """The preprocessing up to `answer`: resizing without normalisation."""
        channels = self.preprocessing.channels
        # (pixel / 255 - 0) / (1 / 255) is the pixel again, exactly.
        return dataclasses.replace(
            self.preprocessing, mean=(0.0,) * channels, std=(1 / 255,) * channels, color_order="rgb"
        )

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Computes class probabilities.

        Args:
            images: float32 [n, height, width, channels], 0..255, RGB, at the network's size.

        Returns:
            float32 [n, classes], 0..1.

        Raises:
            UserError: The answer holds NaN or infinity.
        """
        found = self.answer(images)["probabilities"]
        if not np.isfinite(found).all():
            raise UserError(f"{self.source} answers NaN or infinity: its weights are damaged. Take another one.")
        return found

    def folded(self) -> "Artifact":
        """Returns the artifact with batch norms and normalisation folded into the convolutions: faster on many images.

        It answers the same but for rounding, with the weights that the network has now. Exported files, which are
        folded already, networks of half precision and those that are no functional graph are returned as they are.
        """
        if self.model is None or self.model.dtype_policy.compute_dtype != "float32":
            return self
        from keras_resnet.graphs.folding import fold_batch_norms
        from keras_resnet.graphs.pixels import fold_pixels

        settings = self.preprocessing
        try:
            network = fold_pixels(
                fold_batch_norms(self.model),
                mean=settings.mean,
                std=settings.std,
                reverse_channels=settings.color_order == "bgr",
                shape=(settings.height, settings.width, settings.channels),
            )
        except UserError:
            return self
        return dataclasses.replace(self, answer=artifact_of(network, self.pixels, source=self.source).answer)

    def heatmaps(self, images: np.ndarray) -> np.ndarray | None:
        """Returns the heat maps of the most probable classes, float32 [n, rows, columns]; None without them inside."""
        return self.answer(images).get("heatmap")


def class_names(preprocessing: Preprocessing, count: int) -> tuple[str, ...]:
    """Returns the class names of a network of `count` classes; their numbers where none are known."""
    return preprocessing.labels or tuple(str(number) for number in range(count))


def load_artifact(path: str | os.PathLike[str], *, in_memory: bool = False) -> Artifact:
    """Loads a network or an exported file.

    Args:
        path: A run directory, a folder of saved_models/, a .keras file, a SavedModel directory, a .tflite or .onnx
            file, OpenVINO's .xml, or the name of a keras.applications ResNet with its weights file
            ("keras.applications:ResNet50=weights.h5"; without "=…" the weights are random).
        in_memory: Whether a .tflite file is read as a whole, so that it may be overwritten while it is in use.

    Returns:
        The artifact.

    Raises:
        UserError: There is nothing at `path`, it is none of these, or is damaged, or has no preprocessing.
    """
    if os.fspath(path).startswith(APPLICATIONS):
        return _keras_application(os.fspath(path).removeprefix(APPLICATIONS))
    path = Path(path)
    if not path.exists():
        raise UserError(f"There is no model at {path}. Give a run directory, .keras, SavedModel or .tflite.")
    if path.is_dir():
        if (path / "recipe.json").is_file():
            if not (path / "model.keras").is_file():
                raise UserError(f"The run {path} has no model yet. Finish it with train.py --resume.")
            return _keras_artifact(path / "model.keras")
        saved_model = _saved_model_in(path)
        if saved_model is not None:
            return _exported(saved_model, "saved_model")
        inside = [child.name for child in sorted(path.iterdir()) if is_shown(child.name) and _is_model(child)]
        if inside:
            raise UserError(f"{path} is not a model itself. Name one that it holds: {', '.join(inside)}.")
    elif path.is_file() and path.suffix == ".keras":
        return _keras_artifact(path)
    elif path.is_file() and path.suffix in RUNTIMES:
        return _exported(path, RUNTIMES[path.suffix], in_memory=in_memory)
    raise UserError(
        f"{path} is not a model. Give a run directory, a .keras file, a SavedModel, or a .tflite, .onnx or .xml file."
    )


def load_network(path: str | os.PathLike[str]) -> Artifact:
    """Loads an artifact whose layers can be asked for, from a run, an export folder's model.keras or a .keras file.

    Raises:
        UserError: As `load_artifact`, or it is an exported file.
    """
    place = Path(path)
    if place.is_dir() and not (place / "recipe.json").is_file():
        if not (place / "model.keras").is_file():
            raise UserError(
                f"{path} is not a run directory: it holds no model.keras. Heat maps need the network's layers, which "
                "an exported model does not have: give the run or the .keras file that it was exported from."
            )
        path = place / "model.keras"
    elif place.is_file() and place.suffix in RUNTIMES:
        raise UserError(f"{path} is not a .keras file. Heat maps need layers: give a run or a .keras file.")
    return load_artifact(path)


def artifact_of(
    model: "keras.Model",
    preprocessing: Preprocessing,
    *,
    source: str | None = None,
    config: "ResNetConfig | None" = None,
) -> Artifact:
    """Makes an artifact of a network in memory.

    Args:
        model: A classifier that returns logits or probabilities.
        preprocessing: How an image becomes its input.
        source: What errors call it; default: the model's name.
        config: What the network was built from; its .keras files hold it then.

    Returns:
        The artifact.

    Raises:
        UserError: The model is not a classifier, or has another number of classes than the preprocessing names.
    """
    from keras import ops

    from keras_resnet.graphs.heads import check_classifier

    head = check_classifier(model)
    scale, offset = preprocessing.scale_and_offset()
    takes_pixels = bool((scale == 1).all() and (offset == 0).all())
    shape = (None, preprocessing.height, preprocessing.width, preprocessing.channels)

    def probabilities(images: Any) -> Any:
        # What `transforms.normalize` does, by either backend.
        pixels = ops.flip(images, axis=-1) if preprocessing.color_order == "bgr" else images
        if not takes_pixels:
            pixels = pixels * scale + offset
        found = ops.cast(model(pixels, training=False), "float32")
        return found if head.has_probabilities else ops.softmax(found)

    compute = compiled(probabilities, lambda: model.variables, [(shape, "float32")])
    largest = 0

    def answer(images: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal largest
        count = len(images)
        if backend() == JAX and count:
            # JAX compiles anew for every number of images: the last, smaller batch is filled up.
            largest = max(largest, count)
            images = np.resize(np.asarray(images, np.float32), (largest, *np.shape(images)[1:]))
        return {"probabilities": as_array(compute(np.asarray(images, np.float32)))[:count]}

    source = source or f"The model {model.name!r}"
    labels = _checked_labels(source, preprocessing, model.output_shape)
    return Artifact(source, preprocessing, labels, head.activation, answer, model, config)


def _keras_artifact(path: Path) -> Artifact:
    model, preprocessing = load_model(path)
    if preprocessing is None:
        raise UserError(f"{path} has no preprocessing. Save it with keras_resnet.storage.save_model.")
    return artifact_of(model, preprocessing, source=str(path), config=read_config(path))


def _exported(path: Path, runtime: str, *, in_memory: bool = False) -> Artifact:
    if runtime == "saved_model" and backend() == JAX:
        raise UserError(
            f"{path} is a SavedModel, which TensorFlow runs. Set KERAS_BACKEND=tensorflow, or give the run or the "
            ".keras file that it was exported from."
        )
    places = [path.with_suffix(".preprocessing.json"), path.parent / "preprocessing.json"]
    if runtime == "saved_model":
        inside = path / "assets.extra" / "preprocessing.json"
        embedded = json.dumps(read_json(inside)).encode() if inside.is_file() else None
        places[0] = path / "preprocessing.json"
    else:
        embedded = _embedded_in_tflite(path) if runtime == "tflite" else None
    if runtime == "openvino":
        places.append(path.parents[1] / "preprocessing.json")
    name = {"saved_model": "SavedModel"}.get(runtime, f"{path.suffix} file")
    try:
        options = {"in_memory": in_memory} if runtime == "tflite" else {}
        opened = runtimes.OPENERS[runtime](os.fspath(path), **options)
    except ModuleNotFoundError as error:
        package = f"'keras-resnet[{runtime}]'" if runtime in EXTRAS else (error.name or "").replace("_", "-")
        raise UserError(f"{path} needs {error.name}: pip install {package}.") from None
    except Exception as error:  # each runtime has its own kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not a complete {name} of a classifier: {reason}") from None
    preprocessing = _preprocessing_of(path, embedded, places)
    labels = _checked_labels(str(path), preprocessing, opened.output_shape)
    return Artifact(str(path), preprocessing, labels, "softmax", opened.answer, runtime=opened)


def _checked_labels(source: str, preprocessing: Preprocessing, shape: tuple) -> tuple[str, ...]:
    if len(shape) != 2 or shape[1] is None or shape[1] < 2:
        raise UserError(f"{source} is not a classifier: its output is {shape}, not (batch, at least two classes).")
    labels = class_names(preprocessing, shape[1])
    if len(labels) != shape[1]:
        raise UserError(f"The model has {shape[1]} outputs, its preprocessing names {len(labels)} classes.")
    return labels


def _keras_application(text: str) -> Artifact:
    import keras

    name, _, weights = text.partition("=")
    names = [key for key in dir(keras.applications) if key.startswith("ResNet")]
    if name not in names:
        raise unknown_name("keras.applications model", name, names)
    if weights and not Path(weights).is_file():
        raise UserError(f"There is no weights file {weights}.")
    model = getattr(keras.applications, name)(weights=weights or None)
    mean: tuple[float, ...]
    if name.endswith("V2"):
        mean, std, order = (0.5,) * 3, (0.5,) * 3, "rgb"
    else:  # "caffe": BGR, the mean subtracted, no scaling
        mean, std, order = tuple(v / 255 for v in (103.939, 116.779, 123.68)), (1 / 255,) * 3, "bgr"
    height, width = model.input_shape[1:3]
    preprocessing = Preprocessing(height, width, 3, mean, std, color_order=order)
    return artifact_of(model, preprocessing)


def _is_model(path: Path) -> bool:
    return _saved_model_in(path) is not None if path.is_dir() else path.suffix in (".keras", *RUNTIMES)


def _saved_model_in(path: Path) -> Path | None:
    """The SavedModel at `path`, or its newest version below: TensorFlow Serving's layout."""
    if (path / "saved_model.pb").is_file():
        return path
    versions = [child for child in path.iterdir() if child.name.isdigit() and (child / "saved_model.pb").is_file()]
    return max(versions, key=lambda child: int(child.name), default=None)


def _embedded_in_tflite(path: Path) -> bytes | None:
    """preprocessing.json in the zip archive behind a .tflite file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return read_member(archive, "preprocessing.json")
    except DAMAGED_ARCHIVE:
        return None


def _preprocessing_of(path: Path, embedded: bytes | None, places: Sequence[Path]) -> Preprocessing:
    """The preprocessing inside an artifact, which a file beside it must not contradict."""
    beside = next((place for place in places if place.is_file()), None)
    found = None if beside is None else Preprocessing.from_dict(read_json(beside))
    if embedded is None:
        if found is None:
            raise UserError(f"{path} has no preprocessing beside it, expected {places[-1]}.")
        return found
    try:
        recorded = Preprocessing.from_dict(json.loads(embedded))
    except ValueError as error:
        raise UserError(f"{path} holds a broken preprocessing: {error}") from None
    if found is not None and found.fingerprint() != recorded.fingerprint():
        difference = recorded.difference(found)
        raise UserError(f"{path} was exported with another preprocessing than {beside} says: {difference}.")
    return recorded
