"""PyTorch's checkpoint files, read without running code in them, and written."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.errors import UserError, unknown_name
from keras_resnet.storage import atomic_file

SUFFIXES = (".pth", ".th", ".pt", ".bin", ".safetensors")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.")
INSTALL = "pip install 'keras-resnet[torch]'"


def read_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a checkpoint. Nothing in it is executed.

    Args:
        path: `.safetensors`, or a file of `torch.save` (`.pth`, `.th`, `.pt`, `.bin`) with a state dict, alone or under
            "state_dict", "model_state_dict", "model" or "net".

    Returns:
        Name → float32 array (integers stay integers), without "module." and the like in front of the names.

    Raises:
        UserError: There is no such file, it is damaged or empty, holds more than tensors, or PyTorch (for all but
            `.safetensors`) is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return state_dict_arrays(content, source=str(path))


def state_dict_arrays(content: Any, *, source: str) -> dict[str, np.ndarray]:
    """Finds the state dict in what a checkpoint holds, as NumPy arrays.

    Args:
        content: A mapping of names to tensors or arrays, or one that holds it under a usual name.
        source: What errors call it.

    Raises:
        UserError: There are no tensors in it.
    """
    state = _unwrap(content)
    try:
        tensors = {str(name): _to_numpy(str(name), value) for name, value in state.items() if hasattr(value, "shape")}
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    if not tensors:
        raise UserError(
            f"{source} holds no tensors. Expected names and tensors, alone or under "
            f"{', '.join(map(repr, WRAPPERS))}, got {_described(content)}."
        )
    for _ in PREFIXES:
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def write_checkpoint(state: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Writes a state dict.

    Args:
        state: Name → array.
        path: `.safetensors` (needs no PyTorch), or `.pth`, `.th` or `.pt`.

    Raises:
        UserError: For another suffix, a missing package, or a folder that cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise unknown_name("checkpoint suffix", path.suffix, SUFFIXES)
    if path.suffix == ".safetensors":
        safetensors = _import_safetensors()
        with atomic_file(path) as temporary:
            safetensors.save_file(dict(state), temporary)
        return
    torch = _import_torch()
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
    with atomic_file(path) as temporary:
        torch.save(tensors, temporary)


def _read_torch(path: Path) -> Any:
    torch = _import_torch()
    try:
        _check_archive(path)
        # weights_only: an unpickler that knows tensors and plain containers and runs nothing.
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, or is not a checkpoint, and was not opened: reading it would have to run "
            f"code in it ({_reason(error)}). Save its state_dict() alone."
        ) from None
    except UserError:
        raise
    except Exception as error:  # torch, zipfile and pickle each have their own kinds
        raise UserError(f"{path} is damaged or no checkpoint: {_reason(error)}") from None


def _check_archive(path: Path) -> None:
    """Compares the checksums of a zip archive's members; PyTorch does not do so for all of them."""
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty.")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise UserError(f"{path} is damaged: the checksum of {broken} is wrong.")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    safetensors = _import_safetensors()
    try:
        return safetensors.load_file(path)
    except Exception as error:  # SafetensorError, and others for kinds of numbers that NumPy lacks
        raise UserError(f"{path} is damaged or no safetensors file: {_reason(error)}") from None


def _import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise UserError(f"PyTorch checkpoints need PyTorch. Install it: {INSTALL}") from None
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        # CVE-2025-32434: before 2.6 a checkpoint could run code in spite of weights_only.
        raise UserError(f"PyTorch {torch.__version__} does not read checkpoints safely; 2.6 does. {INSTALL}")
    return torch


def _import_safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise UserError(f".safetensors files need the package safetensors. Install it: {INSTALL}") from None
    return safetensors.numpy


def _unwrap(content: Any) -> Mapping:
    if not isinstance(content, Mapping):
        return {}
    if any(hasattr(value, "shape") for value in content.values()):
        return content
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return _unwrap(content[key])
    return {}


def _to_numpy(name: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        import torch

        if value.layout != torch.strided or value.is_complex() or value.is_quantized:
            kind = "complex" if value.is_complex() else "quantized" if value.is_quantized else "sparse"
            raise UserError(f"{name!r} is a {kind} tensor. Weights must be plain dense tensors of real numbers.")
        claimed, held = value.numel() * value.element_size(), value.untyped_storage().nbytes()
        if claimed > held:
            raise UserError(f"{name!r} claims {claimed:,} bytes of which the file holds {held:,}. Save it again.")
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
        value = value.numpy()
    value = np.asarray(value)
    is_integer = np.issubdtype(value.dtype, np.integer) or value.dtype == bool
    return value if is_integer else value.astype(np.float32, copy=False)


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a mapping with {', '.join(map(str, list(content)[:5])) or 'nothing in it'}"
    return f"a {type(content).__name__}"


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
