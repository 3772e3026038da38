"""From images to labelled predictions, with any artifact: run directory, .keras file, SavedModel or .tflite file."""

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_resnet.data.images import image_files, is_shown, read_image
from keras_resnet.errors import DAMAGED_ARCHIVE, UserError
from keras_resnet.storage import load_model, read_json, read_member

if TYPE_CHECKING:
    import keras

    from keras_resnet.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to answer, whatever it is stored as.

    Attributes:
        labels: The class names in the order of the probabilities.
        preprocessing: How an image becomes the model's input.
        predict: float32 images [n, height, width, channels], 0..255, at the network's size → float32 probabilities
            [n, classes].
    """

    labels: tuple[str, ...]
    preprocessing: "Preprocessing"
    predict: Callable[[np.ndarray], np.ndarray]

    @property
    def pixels(self) -> "Preprocessing":
        """The preprocessing up to `predict`: resizing without normalization."""
        channels = self.preprocessing.channels
        # (pixel / 255 - 0) / (1 / 255) is the pixel again, exactly.
        return dataclasses.replace(
            self.preprocessing, mean=(0.0,) * channels, std=(1 / 255,) * channels, color_order="rgb"
        )


@dataclass(frozen=True)
class Prediction:
    """What a model says about one file.

    Attributes:
        file: The path as it was given.
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


def load_predictor(path: str | os.PathLike[str]) -> Predictor:
    """Loads a model to predict with.

    Args:
        path: A run directory, a folder of saved_models/, a SavedModel directory, a .keras or a .tflite file.

    Returns:
        The predictor.

    Raises:
        UserError: There is nothing at `path`, it is none of these, or it brings no preprocessing.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"There is no model at {path}. Give a run directory, .keras, SavedModel or .tflite.")
    if path.is_dir():
        if (path / "recipe.json").is_file():
            if not (path / "model.keras").is_file():
                raise UserError(f"The run {path} has no model yet. Finish it with train.py --resume.")
            return _keras_predictor(path / "model.keras")
        saved_model = _saved_model_in(path)
        if saved_model is not None:
            return _saved_model_predictor(saved_model)
        inside = [child.name for child in sorted(path.iterdir()) if is_shown(child.name) and _is_model(child)]
        if inside:
            raise UserError(f"{path} is not a model itself. Name one that it holds: {', '.join(inside)}.")
    elif path.suffix == ".keras":
        return _keras_predictor(path)
    elif path.suffix == ".tflite":
        return _tflite_predictor(path)
    raise UserError(f"{path} is not a model. Give a run directory, a .keras file, a SavedModel or a .tflite file.")


def model_predictor(model: "keras.Model", preprocessing: "Preprocessing") -> Predictor:
    """Makes a predictor of a network in memory that returns logits or probabilities.

    Args:
        model: The network.
        preprocessing: How an image becomes its input.

    Returns:
        The predictor. Classes without names are called by their numbers.
    """
    import tensorflow as tf

    from keras_resnet.data.transforms import normalize
    from keras_resnet.graphs.heads import check_classifier

    squash = tf.identity if check_classifier(model).has_probabilities else tf.nn.softmax
    shape = [None, preprocessing.height, preprocessing.width, preprocessing.channels]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)])
    def probabilities(images):
        return squash(tf.cast(model(normalize(images, preprocessing), training=False), tf.float32))

    return _named_predictor(
        f"The model {model.name!r}",
        preprocessing,
        lambda images: probabilities(tf.constant(images, tf.float32)).numpy(),
        model.output_shape,
    )


def predict_images(
    predictor: Predictor, files: Sequence[str | os.PathLike[str]], *, top: int = 1, batch_size: int = 32
) -> Iterator[Prediction]:
    """Predicts image files, one after another; a file that cannot be read does not stop the others.

    Args:
        predictor: The model.
        files: Image files and folders; a folder stands for the images in it and below, in order of name.
        top: How many classes a file gets; at most as many as there are.
        batch_size: Images at a time.

    Yields:
        A prediction for each file, in order.

    Raises:
        UserError: `top` is below 1.
    """
    from keras_resnet.data.transforms import resize_image

    if top < 1:
        raise UserError(f"The number of classes to show must be at least 1, got {top}.")
    batch: list[tuple[str, np.ndarray | None, str | None]] = []
    for file, problem in image_files(files):
        image = None
        if problem is None:
            try:
                pixels = read_image(file, predictor.preprocessing.channels)
                image = np.asarray(resize_image(pixels, predictor.preprocessing))
            except UserError as error:
                problem = str(error)
        batch.append((file, image, problem))
        if len(batch) == batch_size:
            yield from _predict_batch(predictor, batch, top)
            batch = []
    if batch:
        yield from _predict_batch(predictor, batch, top)


def _predict_batch(predictor: Predictor, batch: list, top: int) -> Iterator[Prediction]:
    images = [image for _, image, _ in batch if image is not None]
    rows = iter(predictor.predict(np.stack(images)) if images else ())
    for file, image, problem in batch:
        if image is None:
            yield Prediction(file, error=problem)
            continue
        row = next(rows)
        best = np.argsort(-row, kind="stable")[:top]
        yield Prediction(file, classes=tuple((predictor.labels[index], float(row[index])) for index in best))


def _keras_predictor(path: Path) -> Predictor:
    model, preprocessing = load_model(path)
    if preprocessing is None:
        raise UserError(f"{path} brings no preprocessing. Save it with keras_resnet.storage.save_model.")
    return model_predictor(model, preprocessing)


def _is_model(path: Path) -> bool:
    return _saved_model_in(path) is not None if path.is_dir() else path.suffix in (".keras", ".tflite")


def _saved_model_in(path: Path) -> Path | None:
    """The SavedModel at `path`, or its newest version below: TensorFlow Serving's layout."""
    if (path / "saved_model.pb").is_file():
        return path
    versions = [child for child in path.iterdir() if child.name.isdigit() and (child / "saved_model.pb").is_file()]
    return max(versions, key=lambda child: int(child.name), default=None)


def _saved_model_predictor(path: Path) -> Predictor:
    import tensorflow as tf

    inside = path / "assets.extra" / "preprocessing.json"
    embedded = json.dumps(read_json(inside)).encode() if inside.is_file() else None
    preprocessing = _preprocessing_of(path, embedded, [path / "preprocessing.json", path.parent / "preprocessing.json"])
    try:
        loaded = tf.saved_model.load(os.fspath(path))
    except Exception as error:  # TensorFlow raises OSError, ValueError, its own kinds, …
        raise UserError(f"{path} is not a complete SavedModel: {str(error).splitlines()[0]}") from None
    if "serving_default" not in loaded.signatures:
        raise UserError(f"{path} has no signature 'serving_default'.")
    serve = loaded.signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]

    def predict(images: np.ndarray, keep: Any = loaded) -> np.ndarray:  # `keep`: the signature alone frees the weights
        return _probabilities(serve(**{name: tf.constant(images, tf.float32)}), path).numpy()

    outputs = serve.structured_outputs
    return _named_predictor(str(path), preprocessing, predict, tuple(_probabilities(outputs, path).shape))


def _tflite_predictor(path: Path) -> Predictor:
    from ai_edge_litert.interpreter import Interpreter

    with path.open("rb") as file:
        if file.read(8)[4:] != b"TFL3":
            size = path.stat().st_size
            raise UserError(f"{path} is not a complete .tflite file: its {size} bytes do not carry the mark TFL3.")
    try:
        interpreter = Interpreter(model_path=os.fspath(path), num_threads=os.cpu_count())
        interpreter.allocate_tensors()
    except Exception as error:
        raise UserError(f"{path} is not a complete .tflite file: {str(error).splitlines()[0]}") from None
    preprocessing = _preprocessing_of(
        path,
        _embedded_in_tflite(path),
        [path.with_suffix(".preprocessing.json"), path.parent / "preprocessing.json"],
    )
    # Two dimensions: probabilities; three: a heat map. The second input, if any, asks which class to explain.
    inputs = next((entry for entry in interpreter.get_input_details() if len(entry["shape"]) == 4), None)
    if inputs is None:
        raise UserError(f"{path} takes no images: none of its inputs are [batch, height, width, channels].")
    targets = [entry for entry in interpreter.get_input_details() if entry["index"] != inputs["index"]]
    outputs = next((entry for entry in interpreter.get_output_details() if len(entry["shape"]) == 2), None)
    if outputs is None:
        raise UserError(f"{path} is no classifier: none of its outputs are [batch, classes].")
    batch = int(inputs["shape"][0])

    def predict(images: np.ndarray) -> np.ndarray:
        # In the file's own batches: the graphs need not have a dynamic one.
        parts = [images[start : start + batch] for start in range(0, len(images), batch)]
        return np.concatenate([run(part) for part in parts])

    def run(images: np.ndarray) -> np.ndarray:
        filled = np.resize(images, (batch, *images.shape[1:]))
        interpreter.set_tensor(inputs["index"], _quantized(filled, inputs))
        for target in targets:
            interpreter.set_tensor(target["index"], np.full(batch, -1, np.int32))
        interpreter.invoke()
        return _dequantized(interpreter.get_tensor(outputs["index"]), outputs)[: len(images)]

    return _named_predictor(str(path), preprocessing, predict, tuple(int(side) for side in outputs["shape"]))


def _quantized(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    if details["dtype"] == np.float32:
        return values.astype(np.float32)
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(details["dtype"])


def _dequantized(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return ((values.astype(np.float32) - zero) * scale).astype(np.float32)


def _probabilities(outputs: dict[str, Any], path: Path) -> Any:
    """The output "probabilities", or the only one."""
    if "probabilities" in outputs:
        return outputs["probabilities"]
    if len(outputs) != 1:
        raise UserError(f"{path} must return 'probabilities', its outputs are {', '.join(outputs)}.")
    return next(iter(outputs.values()))


def _embedded_in_tflite(path: Path) -> bytes | None:
    """preprocessing.json in the zip archive behind a .tflite file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return read_member(archive, "preprocessing.json")
    except DAMAGED_ARCHIVE:
        return None


def _preprocessing_of(path: Path, embedded: bytes | None, places: Sequence[Path]) -> "Preprocessing":
    """The preprocessing inside an artifact, which a file beside it must not contradict."""
    from keras_resnet.data.preprocessing import Preprocessing

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
        before, after = recorded.to_dict(), found.to_dict()
        differing = ", ".join(key for key in before if before[key] != after[key])
        raise UserError(f"{path} was exported with another preprocessing than {beside} says: {differing} differ.")
    return recorded


def _named_predictor(
    source: str, preprocessing: "Preprocessing", predict: Callable[[np.ndarray], np.ndarray], shape: tuple
) -> Predictor:
    if len(shape) != 2 or shape[1] is None or shape[1] < 2:
        raise UserError(f"{source} is not a classifier: its output is {shape}, not (batch, at least two classes).")
    labels = preprocessing.labels or tuple(str(number) for number in range(shape[1]))
    if len(labels) != shape[1]:
        raise UserError(f"The model has {shape[1]} outputs, its preprocessing names {len(labels)} classes.")

    def checked(images: np.ndarray) -> np.ndarray:
        probabilities = predict(images)
        if not np.isfinite(probabilities).all():
            raise UserError(f"{source} answers NaN or infinity: its weights are damaged. Take another one.")
        return probabilities

    return Predictor(labels, preprocessing, checked)
