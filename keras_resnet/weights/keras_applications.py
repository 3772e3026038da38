"""keras.applications' ResNets: their weight files, read as plain numbers, and their live models.

Three layouts of files: the published `.h5` (a group a layer, "conv2_block1_1_conv/kernel:0"), the same inside a whole
model's `.h5` under "model_weights", and Keras 3's `.weights.h5` and `.keras` ("layers/conv2d_1/vars/0", the layer's
name in an attribute). Configurations in the files, which could ask for code, are never looked at.
"""

import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from keras_resnet.errors import UserError
from keras_resnet.weights.assign import Tensor, variables_by_name

SUFFIXES = (".h5", ".hdf5", ".keras")
WEIGHTS_MEMBER = "model.weights.h5"
NORMALIZATION = ("gamma", "beta", "moving_mean", "moving_variance")
CONVOLUTION = ("kernel", "bias")

FIXED_NAMES = {
    "conv1_conv": "stem_conv",
    "conv1_bn": "stem_norm",
    "post_bn": "final_norm",
    "predictions": "logits",
}
# In a pre-activation block normalisation 1 has a name of its own and the others stand behind their convolution.
PARTS_V1 = {"0_conv": "shortcut_conv", "0_bn": "shortcut_norm"} | {
    f"{k}_{kind}": f"{ours}{k}" for k in (1, 2, 3) for kind, ours in (("conv", "conv"), ("bn", "norm"))
}
PARTS_V2 = {
    "preact_bn": "norm1",
    "1_bn": "norm2",
    "2_bn": "norm3",
    "0_conv": "shortcut_conv",
    **{f"{k}_conv": f"conv{k}" for k in (1, 2, 3)},
}


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every layer's weights from an HDF5 or `.keras` file. Nothing in it is executed.

    Args:
        path: `.h5`, `.weights.h5` or `.keras`.

    Returns:
        "layer/variable" → array, under the file's own names of layers.

    Raises:
        UserError: There is no such file, it is damaged, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no weights file {path}.")
    try:
        if path.suffix == ".keras":
            weights = _read_archive(path)
        else:
            with h5py.File(path, "r") as file:
                weights = _read_hdf5(file, path.stat().st_size)
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except Exception as error:  # h5py, zipfile and zlib each have their own kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"{path} is damaged or no weights file: {reason}.") from None
    if not weights:
        raise UserError(f"{path} holds no weights of layers.")
    return weights


def model_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """The weights of a live model, "layer/variable" → array."""
    return {
        name: np.asarray(keras.ops.convert_to_numpy(variable)) for name, variable in variables_by_name(model).items()
    }


def translate(
    model: keras.Model, weights: Mapping[str, np.ndarray], *, source: str
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Translates keras.applications' names, or our own, into a network's variables.

    Args:
        model: The network.
        weights: "layer/variable" → array.
        source: What errors call it.

    Returns:
        Variable name → tensor; the names left over; the names ignored (what a network without its top has no place
        for).

    Raises:
        UserError: Not one name is one that this network could have.
    """
    layers = {layer.name for layer in model.layers}
    is_pre = isinstance(model.get_layer("stage1_block1_out"), keras.layers.Add)
    variables = variables_by_name(model)
    ours = any(name in variables for name in weights)
    # What a whole network ends with and this one lacks, as without its top or as a list of features.
    beyond = {part for part, last in (("logits", "logits"), ("final_norm", "features")) if last not in layers}
    tensors, left_over, ignored = {}, [], []
    for name, value in weights.items():
        layer, variable = name.split("/")
        translated = layer if ours else _our_layer(layer, is_pre)
        if translated is None:
            left_over.append(name)
        elif translated in beyond:
            ignored.append(name)
        else:
            tensors[f"{translated}/{variable}"] = Tensor(name, value)
    if not any(name in variables for name in tensors):
        first = ", ".join(list(weights)[:5])
        raise UserError(
            f"{source} holds no weights of a network like {model.name!r}: no name fits. Its first names: {first}."
        )
    return tensors, left_over, ignored


def _our_layer(layer: str, is_pre: bool) -> str | None:
    """keras.applications' name of a layer → ours; None for a name that it does not use."""
    if layer in FIXED_NAMES:
        return FIXED_NAMES[layer]
    match = re.fullmatch(r"conv(\d)_block(\d+)_(\w+)", layer)
    if match is None:
        return None
    stage, block, part = match.groups()
    part = (PARTS_V2 if is_pre else PARTS_V1).get(part)
    return None if part is None else f"stage{int(stage) - 1}_block{block}_{part}"


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        if WEIGHTS_MEMBER not in archive.namelist():
            raise UserError(f"is no .keras file: there is no {WEIGHTS_MEMBER} in it.")
        # HDF5 needs a file that can be sought in; a weights file is hundreds of megabytes, so not in memory.
        with tempfile.TemporaryDirectory() as folder:
            extracted = archive.extract(WEIGHTS_MEMBER, folder)
            with h5py.File(extracted, "r") as file:
                return _read_hdf5(file, os.path.getsize(extracted))


def _read_hdf5(file: h5py.File, size: int) -> dict[str, np.ndarray]:
    layers, whole_model = _own_group(file, "layers"), _own_group(file, "model_weights")
    if layers is not None:
        found = list(_keras3_datasets(layers))
    else:
        found = list(_legacy_datasets(file if whole_model is None else whole_model))
    weights, total = {}, 0
    for name, dataset in found:
        total += dataset.nbytes
        if dataset.external or dataset.is_virtual or total > 4 * size:
            # Such a dataset would read other files of this machine, or fill its memory from a few bytes.
            raise UserError("does not hold its numbers itself and was not read. Save the weights anew.")
        if name in weights:
            raise UserError(f"holds {name} twice.")
        weights[name] = np.asarray(dataset[()])
    return weights


def _own_group(file: h5py.File, name: str) -> h5py.Group | None:
    """A group of the file itself: a link could lead into another file."""
    is_own = name in file and isinstance(file.get(name, getlink=True), h5py.HardLink)
    return file[name] if is_own and isinstance(file[name], h5py.Group) else None


def _legacy_datasets(root: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    for layer, dataset, path in _datasets(root):
        if layer in ("optimizer_weights", "top_level_model_weights"):
            continue
        yield f"{layer}/{path[-1].split(':')[0]}", dataset


def _keras3_datasets(root: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    groups: dict[tuple[str, ...], list[h5py.Dataset]] = {}
    for layer, dataset, path in _datasets(root):
        # Deeper "vars" belong to parts of layers, such as the seeds of dropout.
        if len(path) == 2 and path[0] == "vars":
            groups.setdefault((layer, *path[:-1]), []).append(dataset)
    for (layer, _), datasets in groups.items():
        datasets.sort(key=lambda dataset: int(dataset.name.rsplit("/", 1)[1]))
        name = str(datasets[0].parent.attrs.get("name", layer))
        is_normalization = datasets[0].ndim == 1
        for variable, dataset in zip(NORMALIZATION if is_normalization else CONVOLUTION, datasets, strict=False):
            yield f"{name}/{variable}", dataset


def _datasets(root: h5py.Group) -> Iterator[tuple[str, h5py.Dataset, list[str]]]:
    """(first group's name, dataset, path below it) of every dataset reached by hard links, so never another file."""
    found: list[tuple[str, h5py.Dataset, list[str]]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            layer, *path = name.split("/")
            if path:
                found.append((layer, item, path))

    root.visititems(visit)
    return iter(found)
