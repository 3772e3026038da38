"""From a file of weights to a file of ours, and back to PyTorch; each is read again and compared before it counts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.deep_graphs import deep_graphs
from keras_resnet.models.registry import get_config
from keras_resnet.models.resnet import build_model
from keras_resnet.storage import atomic_file, load_model, read_config, save_model
from keras_resnet.weights import pytorch, torch_files
from keras_resnet.weights.assign import variables_by_name
from keras_resnet.weights.catalog import find_weights
from keras_resnet.weights.loading import learnt_preprocessing, load_reported, remarks

KERAS_SUFFIX = ".keras"
# Side of the images on which a written model is compared when its network leaves the size open.
OPEN_SIDE = 64


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        source: Where the weights came from.
        model: The network's name.
        output: The file that was written.
        variables: Variables that were set.
        parameters: Numbers in them.
        new: Variables of a new head.
        folded: Channels of the source's first kernel, when it was folded.
        ignored: How many tensors of the source inference has no use for.
        max_difference: Largest difference between what was written, read again, and the network it came from: of
            logits for `.keras`, of weights for PyTorch. 0 is expected.
        preprocessing: What images go through, or None where that is not known.
        remarks: What a person should know, a sentence each.
    """

    source: str
    model: str
    output: str
    variables: int
    parameters: int
    new: tuple[str, ...]
    folded: int | None
    ignored: int
    max_difference: float
    preprocessing: dict[str, Any] | None
    remarks: tuple[str, ...]


def convert(
    source: str,
    output: str | Path,
    *,
    model_name: str | None = None,
    num_classes: int | None = None,
    channels: int | None = None,
    head: str = "auto",
    preprocessing_of: str | None = None,
    labels: Sequence[str] = (),
    naming: str | None = None,
) -> Conversion:
    """Converts weights and writes them as one file.

    Args:
        source: A file or a tag of the catalogue, see `keras_resnet.weights.loading.load_weights`.
        output: The file: `.keras`, or one of PyTorch's suffixes for a state dict.
        model_name: The network; None is enough for a `.keras` file of ours.
        num_classes: Width of the logits; None: the source's.
        channels: Input channels; None: the source's.
        head: "auto" or "new", see `load_weights`.
        preprocessing_of: A tag of the catalogue whose preprocessing the weights were trained with, where the source is
            no published file itself.
        labels: Class names in the order of the logits.
        naming: How a state dict spells the names, a key of `keras_resnet.weights.pytorch.NAMINGS`.

    Returns:
        What was done.

    Raises:
        UserError: The source or an argument does not fit, or the file cannot be written. Nothing is written then.
    """
    output = Path(output)
    if output.suffix not in (KERAS_SUFFIX, *torch_files.SUFFIXES):
        raise unknown_name("suffix to write", output.suffix, (KERAS_SUFFIX, *torch_files.SUFFIXES))
    if model_name is None:
        model, preprocessing = _own_model(source)
        config, report = read_config(source), None
    else:
        target, config = model_name, get_config(model_name)
        if num_classes is not None or channels is not None:
            shape = (*config.input_shape[:2], channels or config.input_shape[2])
            target = build_model(config, num_classes=num_classes, input_shape=shape)
        model, report = load_reported(target, source, head=head)
        preprocessing = learnt_preprocessing(model, source, name=model_name)
    if preprocessing_of is not None:
        published = find_weights(model_name or model.name, preprocessing_of)
        preprocessing = learnt_preprocessing(model, published)
    if preprocessing is not None and report and report.new:
        preprocessing = dataclasses.replace(preprocessing, labels=())
    if labels:
        preprocessing = _with_labels(preprocessing, labels, model)
    if output.suffix == KERAS_SUFFIX:
        difference = _write_keras(model, output, preprocessing, config)
    else:
        difference = _write_torch(model, output, naming)
    said = remarks(report) if report else []
    if output.suffix == KERAS_SUFFIX and preprocessing is None:
        said.append(
            "No preprocessing is known for these weights and none was stored: name the published weights whose "
            "preprocessing they share, or normalise images yourself."
        )
    variables = variables_by_name(model)
    return Conversion(
        source=str(source),
        model=model.name,
        output=str(output),
        variables=report.variables if report else len(variables),
        parameters=sum(int(np.prod(variable.shape)) for variable in variables.values()),
        new=report.new if report else (),
        folded=report.folded if report else None,
        ignored=len(report.ignored) if report else 0,
        max_difference=difference,
        preprocessing=None if preprocessing is None else preprocessing.to_dict(),
        remarks=tuple(said),
    )


def _own_model(source: str) -> tuple[keras.Model, Preprocessing | None]:
    if Path(source).suffix != KERAS_SUFFIX:
        raise UserError(f"Only a .keras file of ours says which network it is. Name the network of {source}.")
    with deep_graphs():
        model, preprocessing = load_model(source)
    names = {layer.name for layer in model.layers}
    if not any(layer.startswith("stem_conv") for layer in names) or "stage1_block1_out" not in names:
        raise UserError(
            f"{source} is not a network built here (model {model.name!r}). Name the network that it is to become."
        )
    return model, preprocessing


def _with_labels(preprocessing: Preprocessing | None, labels: Sequence[str], model: keras.Model) -> Preprocessing:
    if preprocessing is None:
        raise UserError("Labels are stored with the preprocessing, which is not known for these weights. Name it, too.")
    if len(labels) != model.output_shape[-1]:
        raise UserError(f"There are {len(labels)} labels for {model.output_shape[-1]} classes. Give one for each.")
    return dataclasses.replace(preprocessing, labels=tuple(labels))


def _write_keras(
    model: keras.Model, output: Path, preprocessing: Preprocessing | None, config: ResNetConfig | None
) -> float:
    height, width, channels = model.inputs[0].shape[1:]
    shape = (2, height or OPEN_SIDE, width or OPEN_SIDE, channels)
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = np.asarray(keras.ops.convert_to_numpy(model(images, training=False)))
    with atomic_file(output) as temporary, deep_graphs():
        save_model(model, temporary, preprocessing, config)
        again, _ = load_model(temporary)
        found = np.asarray(keras.ops.convert_to_numpy(again(images, training=False)))
        difference = float(np.abs(found - expected).max())
        # The same operators on the same weights; threads may add up in another order.
        if not difference <= 1e-4 * max(1.0, float(np.abs(expected).max())):
            raise RuntimeError(f"The written model differs from its source by {difference}.")
    return difference


def _write_torch(model: keras.Model, output: Path, naming: str | None) -> float:
    with atomic_file(output) as temporary:
        pytorch.save_checkpoint(model, temporary, naming)
        again = torch_files.read_checkpoint(temporary)
        expected = pytorch.to_state_dict(model, naming)
        if set(again) != set(expected):
            raise RuntimeError(f"The written checkpoint lost {sorted(set(expected) ^ set(again))}.")
        return max(float(np.abs(again[name] - expected[name]).max()) for name in expected)
