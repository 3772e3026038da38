"""`load_weights`: from a file, a tag of the catalogue, a state dict or a live model into one of our networks."""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.choices import HEADS
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.models.registry import get_config
from keras_resnet.models.resnet import build_model
from keras_resnet.models.weightless import build_weightless
from keras_resnet.storage import read_preprocessing
from keras_resnet.weights import keras_applications, pytorch, torch_files
from keras_resnet.weights.assign import FIRST_KERNELS, LoadReport, WeightsError, assign
from keras_resnet.weights.catalog import CATALOG, PublishedWeights, find_by_filename, find_weights
from keras_resnet.weights.download import fetch, matches_digest
from keras_resnet.weights.rows import advice, rows_that_fit

PUBLISHERS = tuple(sorted({entry.tag.split(":")[0] for entry in CATALOG}))


@dataclass(frozen=True)
class ReadWeights:
    """Weights as they came, read but not yet translated.

    Attributes:
        label: What errors call them.
        framework: "pytorch" or "keras": whose names and layout they have.
        tensors: Name → array.
        published: Their entry of the catalogue, where they are recognised.
    """

    label: str
    framework: str
    tensors: Mapping[str, np.ndarray]
    published: PublishedWeights | None = None


def load_weights(model_or_name: keras.Model | str, source: Any, *, head: str = "auto") -> keras.Model:
    """Loads weights into a network: every variable exactly once, or nothing at all.

    Args:
        model_or_name: A network built here, or a registry name. A network that is built for a name follows the source
            in the number of classes and of input channels.
        source: One of
            a checkpoint of PyTorch (`.pth`, `.th`, `.pt`, `.bin`, `.safetensors`) as torchvision, timm and the CIFAR
            repositories write them, or a state dict;
            keras.applications' weights (`.h5`, `.weights.h5`, `.keras`), or one of its models;
            a `.keras` file of ours, or a run directory;
            an entry of the catalogue or its tag ("torchvision:IMAGENET1K_V2"; "imagenet" is the network's default).
        head: "auto" keeps the network's own logits, with a warning, when it has another number of classes than the
            source; "new" keeps them in any case.

    Returns:
        The network; `learnt_preprocessing` says what images it was trained with.

    Raises:
        WeightsError: Variables are missing, tensors are left over, or shapes differ; they are named, and so are the
            networks that the source does fit. Nothing was changed.
        UserError: The source cannot be read, or only by running code in it.

    Warns:
        UserWarning: The head is new, or the first kernel was folded to another number of channels.
    """
    model, report = load_reported(model_or_name, source, head=head)
    for sentence in remarks(report):
        warnings.warn(sentence, stacklevel=2)
    return model


def load_reported(
    model_or_name: keras.Model | str, source: Any, *, head: str = "auto"
) -> tuple[keras.Model, LoadReport]:
    """Like `load_weights`, but returns a report in place of warnings."""
    if head not in HEADS:
        raise unknown_name("head", head, HEADS)
    if isinstance(model_or_name, str):
        get_config(model_or_name)  # a wrong name is told before anything is read or downloaded
        name = model_or_name
    else:
        name = model_or_name.name
    read = read_source(source, model_name=name)
    with _naming_what_fits(read, UserError):
        model = _built_for(name, read) if isinstance(model_or_name, str) else model_or_name
        tensors, left_over, ignored = _translate(model, read)
    with _naming_what_fits(read, WeightsError):
        report = assign(model, tensors, source=read.label, left_over=left_over, ignored=ignored, head=head)
    return model, report


def remarks(report: LoadReport) -> list[str]:
    """What a user should know about loaded weights, a sentence each."""
    sentences = []
    if report.new:
        sentences.append(
            f"The head is new: {' and '.join(report.new)} kept their values; nothing of {report.source} went "
            "into them. Train them before use."
        )
    if report.folded is not None:
        sentences.append(f"The first kernel of {report.source} was folded from {report.folded} channels.")
    return sentences


def read_source(source: Any, *, model_name: str) -> ReadWeights:
    """Reads weights without executing anything.

    Args:
        source: See `load_weights`.
        model_name: The network that a tag of the catalogue is looked up for.

    Raises:
        UserError: The source cannot be read, or is not one of these.
    """
    if isinstance(source, keras.Model):
        return ReadWeights(f"the model {source.name!r}", "keras", keras_applications.model_weights(source))
    if isinstance(source, Mapping):
        return ReadWeights("the state dict", "pytorch", torch_files.state_dict_arrays(source, source="The state dict"))
    if not isinstance(source, str | os.PathLike | PublishedWeights):
        raise UserError(f"Weights come from a file, a tag, a state dict or a Keras model, got {type(source).__name__}.")
    if not isinstance(source, PublishedWeights) and is_tag(source):
        source = find_weights(model_name, str(source))
    published: PublishedWeights | None = None
    if isinstance(source, PublishedWeights):
        published = source
        path = fetch(source)
    else:
        path = _file_of(source)
        published = _recognised(path)
    framework, tensors = _read_file(path)
    return ReadWeights(str(path), framework, tensors, published)


def is_tag(source: str | os.PathLike[str]) -> bool:
    """Whether a source is spelled like a tag of the catalogue instead of a file."""
    if not isinstance(source, str):
        return False
    publisher, colon, _ = source.partition(":")
    return source == "imagenet" or (bool(colon) and publisher in PUBLISHERS)


def learnt_preprocessing(model: keras.Model, source: Any, *, name: str | None = None) -> Preprocessing | None:
    """Returns what images went through when weights were trained, at a network's input size.

    Args:
        model: The network; sides that it leaves open get the size of the weights' training.
        source: Weights as `load_weights` takes them.
        name: The network that a tag is looked up for; default: the model's name.

    Returns:
        The preprocessing, without labels where the network has another number of classes. None where nothing is known
        of the weights: they are neither in the catalogue nor a .keras file of ours, or the inputs are not images.

    Raises:
        UserError: The source is a tag that is not in the catalogue.
    """
    height, width, channels = model.inputs[0].shape[1:]
    if channels not in (1, 3):
        return None
    if is_tag(source):
        source = find_weights(name or model.name, str(source))
    published = source if isinstance(source, PublishedWeights) else None
    if isinstance(source, str | os.PathLike):
        path = _file_of(source)
        if path.suffix == ".keras" and path.is_file():
            return _stored_preprocessing(path, model)
        published = _recognised(path)
    if published is None:
        return None
    settings = published.preprocessing(height or published.size, width or published.size, channels)
    labels = settings["labels"] if len(settings["labels"]) == model.output_shape[-1] else ()
    return Preprocessing(**{**settings, "labels": labels})


def _stored_preprocessing(path: Path, model: keras.Model) -> Preprocessing | None:
    stored = read_preprocessing(path)
    if stored is None:
        return None
    height, width, channels = model.inputs[0].shape[1:]
    if channels != stored.channels:
        return None
    labels = stored.labels if len(stored.labels) == model.output_shape[-1] else ()
    return dataclasses.replace(stored, height=height or stored.height, width=width or stored.width, labels=labels)


def _file_of(source: str | os.PathLike[str]) -> Path:
    """A run directory or an export's folder stands for its model.keras."""
    inside = Path(source) / "model.keras"
    return inside if inside.is_file() else Path(source)


def _recognised(path: Path) -> PublishedWeights | None:
    """The catalogue's entry of a file that has a publisher's name and, where one is known, its digest."""
    published = find_by_filename(path.name)
    if published is None or not published.digest or not path.is_file():
        return None
    return published if matches_digest(path, published.digest) else None


def _read_file(path: Path) -> tuple[str, Mapping[str, np.ndarray]]:
    if path.suffix in torch_files.SUFFIXES:
        return "pytorch", torch_files.read_checkpoint(path)
    if path.suffix in keras_applications.SUFFIXES:
        return "keras", keras_applications.read_weights(path)
    suffixes = ", ".join((*torch_files.SUFFIXES, *keras_applications.SUFFIXES))
    raise UserError(
        f"Weights come in files that end in {suffixes}, or from a tag of {', '.join(PUBLISHERS)}, got {str(path)!r}."
    )


def _translate(model: keras.Model, read: ReadWeights):
    module = pytorch if read.framework == "pytorch" else keras_applications
    return module.translate(model, read.tensors, source=read.label)


@contextlib.contextmanager
def _naming_what_fits(read: ReadWeights, kind: type[UserError]) -> Iterator[None]:
    """Adds to an error which networks the weights do fit."""
    try:
        yield
    except kind as error:
        sentence = advice(rows_that_fit(read.tensors, lambda model: _translate(model, read)))
        message = f"{error} {sentence}".rstrip()
        if not isinstance(error, WeightsError):
            raise UserError(message) from None
        raise WeightsError(
            message, missing=error.missing, left_over=error.left_over, wrong_shape=error.wrong_shape
        ) from None


def _built_for(name: str, read: ReadWeights) -> keras.Model:
    """The named network with the source's number of classes and input channels, where it tells them."""
    config = get_config(name)
    tensors, _, _ = _translate(build_weightless(config), read)
    head = tensors.get("logits/kernel")
    classes = head.value.shape[1] if head is not None and head.value.ndim == 2 else config.num_classes
    channels = config.input_shape[2]
    for kernel in FIRST_KERNELS:
        if kernel in tensors and tensors[kernel].value.ndim == 4:
            channels = tensors[kernel].value.shape[2]
    size = read.published.size if read.published is not None else None
    shape = (size or config.input_shape[0], size or config.input_shape[1], channels)
    return build_model(config, num_classes=classes, input_shape=shape)
