"""What a phone will make of a .tflite file: its runtime, its accelerators, the memory that it needs."""

import dataclasses
import json
import math
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from keras_resnet.errors import UserError
from keras_resnet.export.accelerators import ACCELERATORS, refusal
from keras_resnet.export.tflite_file import Tensor, describe, named_tensors, operator_kind, parse, read_operators
from keras_resnet.export.tflite_metadata import LABELS, METADATA, PREPROCESSING

_PROBE = Path(__file__).with_name("loading_probe.py")
_PROBE_SECONDS = 120
_OLDEST_RUNTIME = "min_runtime_version"  # as the converter calls it in the file's metadata
_ALIGNMENT = 64  # of tensors in LiteRT's arena, bytes
_BYTES = {"int64": 8, "float64": 8, "complex64": 8, "uint64": 8, "complex128": 16, "int16": 2, "uint16": 2}
_BYTES |= {"float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "bool": 1}


@dataclass(frozen=True)
class Delegation:
    """What an accelerator takes of a file.

    Attributes:
        taken: How many of the operators.
        operators: How many there are, without constants that are widened when the file is loaded.
        parts: Into how many runs those that it takes are cut by those that it leaves. Each cut costs a copy to the
            processor and back.
        refused: (operator, reason) → how many.
    """

    taken: int
    operators: int
    parts: int
    refused: dict[tuple[str, str], int]


@dataclass(frozen=True)
class FileCheck:
    """What is known of a .tflite file.

    Attributes:
        path: The file.
        bytes: Its size.
        inputs: The first signature's, by name.
        outputs: The first signature's, by name.
        operators: Kind → how many.
        runtime_error: Why LiteRT's interpreter refuses the file; None where it takes it.
        accelerators: Key of `ACCELERATORS` → what it takes.
        oldest_runtime: The first TensorFlow Lite that has these operators, as its converter says; None: it does not.
        missing_metadata: What apps that read labels and pixels' range from the file will miss, a sentence each.
        weight_bytes: Constants of the file.
        activation_bytes: The arena for what is computed, for one image where the batch is open.
    """

    path: Path
    bytes: int
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    operators: dict[str, int] = field(default_factory=dict)
    runtime_error: str | None = None
    accelerators: dict[str, Delegation] = field(default_factory=dict)
    oldest_runtime: str | None = None
    missing_metadata: tuple[str, ...] = ()
    weight_bytes: int = 0
    activation_bytes: int = 0


def check_file(path: Path) -> FileCheck:
    """Looks at a .tflite file and loads it.

    Args:
        path: The file.

    Returns:
        What was found.

    Raises:
        UserError: There is no such file, or it is no complete .tflite file.
    """
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not there"
        raise UserError(f"A check takes a .tflite file, {path} is {kind}.")
    contents = path.read_bytes()
    try:
        model = parse(contents)
        return _check(path, contents, model)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, MemoryError, OverflowError):
        raise UserError(f"{path}: This is not a complete .tflite file: it was cut short or changed.") from None


def _check(path: Path, contents: bytes, model: schema.ModelT) -> FileCheck:
    signature = (model.signatureDefs or [None])[0]
    graph = model.subgraphs[0]
    tensors = [describe(model, tensor) for tensor in graph.tensors]
    buffers = {tensor.buffer for tensor, about in zip(graph.tensors, tensors, strict=True) if about.is_constant}
    return FileCheck(
        path=path,
        bytes=len(contents),
        inputs=dict(named_tensors(model, signature.inputs)) if signature else {},
        outputs=dict(named_tensors(model, signature.outputs)) if signature else {},
        operators=read_operators(contents),
        runtime_error=_loading_error(path),
        accelerators={name: _delegation(name, model, graph, tensors) for name in ACCELERATORS},
        oldest_runtime=_oldest_runtime(model),
        missing_metadata=tuple(_missing_metadata(path, model, signature)),
        weight_bytes=sum(_buffer_bytes(model.buffers[index]) for index in buffers),
        activation_bytes=arena_bytes(model, tensors),
    )


def _loading_error(path: Path) -> str | None:
    try:
        probe = subprocess.run(
            [sys.executable, str(_PROBE), str(path)], capture_output=True, text=True, timeout=_PROBE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"it was not loaded within {_PROBE_SECONDS} s"
    lines = probe.stdout.splitlines()
    if probe.returncode or not lines:
        return f"loading it ended the process with code {probe.returncode}"
    return json.loads(lines[-1])


def _delegation(accelerator: str, model: schema.ModelT, graph: schema.SubGraphT, tensors: list[Tensor]) -> Delegation:
    refused: Counter[tuple[str, str]] = Counter()
    parts, taken, was_taken = 0, 0, False
    widened = [each for each in graph.operators or [] if _is_widened_constant(model, each, tensors)]
    constant = {int(each.outputs[0]) for each in widened}
    tensors = [
        dataclasses.replace(tensor, is_constant=tensor.is_constant or index in constant)
        for index, tensor in enumerate(tensors)
    ]
    operators = [each for each in graph.operators or [] if each not in widened]
    for operator in operators:
        kind = operator_kind(model, operator)
        version = model.operatorCodes[operator.opcodeIndex].version
        inputs, outputs = ([tensors[i] for i in indices if i >= 0] for indices in (operator.inputs, operator.outputs))
        reason = refusal(accelerator, kind, version, inputs, outputs)
        if reason is not None:
            refused[kind, reason] += 1
        else:
            taken += 1
            parts += not was_taken
        was_taken = reason is None
    return Delegation(taken, len(operators), parts, dict(refused))


def _is_widened_constant(model: schema.ModelT, operator: schema.OperatorT, tensors: list[Tensor]) -> bool:
    return operator_kind(model, operator) == "DEQUANTIZE" and tensors[operator.inputs[0]].is_constant


def _metadata(model: schema.ModelT) -> dict[str, schema.BufferT]:
    return {_text(entry.name): model.buffers[entry.buffer] for entry in model.metadata or []}


def _oldest_runtime(model: schema.ModelT) -> str | None:
    written = _metadata(model).get(_OLDEST_RUNTIME)
    if written is None or written.data is None:
        return None
    return bytes(written.data).rstrip(b"\0").decode("ascii", "replace") or None


def _missing_metadata(path: Path, model: schema.ModelT, signature: schema.SignatureDefT | None) -> list[str]:
    missing = []
    if signature is None:
        missing.append("a signature: tensors are known by their places alone")
    if METADATA not in _metadata(model):
        missing.append("metadata: apps must know by themselves what pixels it takes")
    files = set(zipfile.ZipFile(path).namelist()) if zipfile.is_zipfile(path) else set()
    missing += [f"{name}: not packed into the file" for name in (LABELS, PREPROCESSING) if name not in files]
    return missing


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _buffer_bytes(buffer: schema.BufferT) -> int:
    return buffer.size if buffer.offset > 1 else (0 if buffer.data is None else len(buffer.data))


def arena_bytes(model: schema.ModelT, tensors: list[Tensor]) -> int:
    """Plans the memory of what is computed, as LiteRT's interpreter does without a delegate.

    A tensor is there from the operator that writes it to the last one that reads it; inputs, outputs and constants that
    are widened are never overwritten. The largest come first, each at the best gap between those that are there at the
    same time (LiteRT 2.2.0, tflite/arena_planner.cc). A convolution has room of its own meanwhile
    (tflite/kernels/conv.cc). Operators that write over their input are not taken into account.

    Args:
        model: The file.
        tensors: Those of its first subgraph; an open side counts as 1.

    Returns:
        Bytes.
    """
    graph = model.subgraphs[0]
    end = len(graph.operators or [])
    inputs, outputs = ({int(index) for index in indices} for indices in (graph.inputs, graph.outputs))
    first, last = dict.fromkeys(inputs, 0), {}
    needs = []  # bytes, first operator, last operator
    kept = inputs | outputs
    for number, operator in enumerate(graph.operators or []):
        is_widened = _is_widened_constant(model, operator, tensors)
        for index in map(int, operator.outputs):
            first.setdefault(index, 0 if is_widened else number)
            kept |= {index} if is_widened else set()
        last |= {int(index): number for index in (*operator.inputs, *operator.outputs)}
        if operator_kind(model, operator) == "CONV_2D":
            room = _convolution_room(*(tensors[i] for i in (*operator.inputs[:2], operator.outputs[0])))
            needs += [(size, number, number) for size in room]
    for index, begins in first.items():
        if not tensors[index].is_constant:
            needs.append((_size(tensors[index]), begins, end if index in kept else last[index]))
    # Those that stay to the end come first.
    needs.sort(key=lambda need: (need[1:] != (0, end), -need[0], need[1]))
    placed: list[tuple[int, int, tuple[int, int, int]]] = []  # start, stop, need
    for need in needs:
        size, begins, ends = need
        start, best, free = None, None, 0
        for other_start, other_stop, (_, other_begins, other_ends) in sorted(placed):
            if other_begins <= ends and begins <= other_ends:
                gap = other_start - free
                if gap >= size and (best is None or gap < best):
                    start, best = free, gap
                free = max(free, -(-other_stop // _ALIGNMENT) * _ALIGNMENT)
        start = free if start is None else start
        placed.append((start, start + size, need))
    return max((stop for _, stop, _ in placed), default=0)


def _convolution_room(image: Tensor, kernel: Tensor, result: Tensor) -> list[int]:
    """What a convolution needs while it computes: bytes of its patches and, of 8-bit kernels on floats, of its sums."""
    _, height, width, channels = kernel.shape
    is_mixed = image.dtype == "float32" and kernel.dtype != "float32"
    needs = []
    if (height, width) != (1, 1) or image.shape[1:3] != result.shape[1:3]:
        # 1 × 1 without a stride: the image is the patches. Floats are rounded to the kernel's type first.
        dtype = kernel.dtype if is_mixed else image.dtype
        needs.append(_size(Tensor(dtype, (*result.shape[:3], height * width * channels))))
    if is_mixed:
        needs += [_size(Tensor(kernel.dtype, image.shape)), _size(Tensor("int32", result.shape))]
    return needs


def _size(tensor: Tensor) -> int:
    """Bytes of a tensor; an open side counts as 1."""
    return _BYTES.get(tensor.dtype, 4) * math.prod(max(side, 1) for side in tensor.shape)
