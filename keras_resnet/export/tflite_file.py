"""A .tflite file as the FlatBuffer that it is: read, write, and what the converter leaves to be done in it.

Reference:
    TensorFlow Lite, "8-bit quantization specification": weights are symmetric, -127..127, with one scale per class in
    FULLY_CONNECTED; what only moves values has one scale for its input and output.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_resnet.errors import UserError

_KIND = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
_TYPE = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
_INT8_STEPS = 127  # of weights: symmetric, the converter does not use -128
_MOVES_VALUES = ("RESHAPE", "STRIDED_SLICE", "TRANSPOSE", "EXPAND_DIMS")


def unpack(contents: bytes) -> schema.ModelT:
    """Returns a whole .tflite file, without what lies in an archive behind it, as an object that can be changed."""
    model = schema.ModelT.InitFromPackedBuf(contents, 0)
    for buffer in model.buffers:
        # Some writers put the constants behind the FlatBuffer; packed anew, they would be sought in the wrong place.
        if buffer.offset > 1:
            buffer.data = np.frombuffer(contents, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def pack(model: schema.ModelT) -> bytes:
    """Returns the bytes of the .tflite file that `unpack` would read the same from."""
    size = sum(0 if buffer.data is None else len(buffer.data) for buffer in model.buffers)
    builder = flatbuffers.Builder(size + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file.

    Attributes:
        dtype: Such as "float32" or "uint8".
        shape: Its sides; -1 where one is open.
        is_constant: Whether the file holds its values.
        scale: What a step stands for where it is quantised, a number each channel; () where it is not.
        zero_point: The numbers that stand for 0.
    """

    dtype: str
    shape: tuple[int, ...]
    is_constant: bool = False
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()


def parse(contents: bytes) -> schema.ModelT:
    """Returns a .tflite file as an object to look at; see `unpack` for one that can be written again.

    Raises:
        UserError: The file is empty, no TFLite model or not complete.
    """
    if contents[4:8] != b"TFL3":
        raise UserError("This is no .tflite file: it does not carry the mark TFL3.")
    try:
        model = schema.ModelT.InitFromPackedBuf(contents, 0)
        for graph in model.subgraphs:
            for operator in graph.operators or []:
                operator_kind(model, operator)
    except Exception:  # flatbuffers reads past the end in many ways
        raise UserError("This is not a complete .tflite file: it was cut short or changed.") from None
    return model


def read_operators(contents: bytes) -> dict[str, int]:
    """Counts the operators of a .tflite file by kind.

    Raises:
        UserError: The file is empty or no TFLite model.
    """
    model = parse(contents)
    return dict(Counter(operator_kind(model, each) for graph in model.subgraphs for each in graph.operators or []))


def operator_kind(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Returns an operator's name: the schema's, or its own where it is a custom one."""
    code = model.operatorCodes[operator.opcodeIndex]
    kind = _KIND.get(max(code.builtinCode, code.deprecatedBuiltinCode), "?")
    return (code.customCode or b"custom").decode() if kind == "CUSTOM" else kind


def describe(model: schema.ModelT, tensor: schema.TensorT) -> Tensor:
    """Returns what a tensor of a file is."""
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    quantization, buffer = tensor.quantization, model.buffers[tensor.buffer]
    scale, zero_point = ((), ()) if quantization is None else (quantization.scale, quantization.zeroPoint)
    return Tensor(
        dtype=_TYPE[tensor.type],
        shape=_whole(shape),
        is_constant=tensor.buffer != 0 and (buffer.offset > 1 or (buffer.data is not None and len(buffer.data) > 0)),
        scale=() if scale is None else tuple(float(value) for value in scale),
        zero_point=_whole(zero_point),
    )


def named_tensors(model: schema.ModelT, entries: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields the inputs or outputs of a signature: name and tensor.

    Args:
        model: A file.
        entries: `inputs` or `outputs` of one of its signatures.
    """
    graph = model.subgraphs[0]
    for entry in entries or []:
        name = entry.name.decode() if isinstance(entry.name, bytes) else entry.name
        yield name, describe(model, graph.tensors[entry.tensorIndex])


def share_head(contents: bytes) -> bytes:
    """Lets the heat map of an 8-bit file read the head's own weights, which it otherwise stores once more.

    The head's weights have a scale for each class, which GATHER has no use for. Where the table that it reads was made
    with rows of magnitude 1 (`ClassActivation`, "scaled row"), both hold the same whole numbers, but for rounding and
    for what the table's range cuts off, and one buffer serves both.

    Args:
        contents: A .tflite file with int8 weights.

    Returns:
        The same file, where its table is none of the head's weights; else the smaller one.
    """
    model = unpack(contents)
    graph = model.subgraphs[0]
    steps = [(operator, operator_kind(model, operator)) for operator in graph.operators]
    heads = [graph.tensors[operator.inputs[1]] for operator, kind in steps if kind == "FULLY_CONNECTED"]
    is_changed = False
    for operator, kind in steps:
        table = graph.tensors[operator.inputs[0]]
        if kind != "GATHER" or _int8_values(model, table) is None:
            continue
        for head in heads:
            if _has_same_rows(model, table, head):
                model.buffers[table.buffer].data = None
                table.buffer = head.buffer
                _quantise_alike(graph, steps, operator)
                is_changed = True
    return pack(model) if is_changed else contents


def _int8_values(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray | None:
    data = model.buffers[tensor.buffer].data
    if tensor.type != schema.TensorType.INT8 or tensor.shape is None or data is None:
        return None
    return np.asarray(data).view(np.int8).reshape(tensor.shape)


def _has_same_rows(model: schema.ModelT, table: schema.TensorT, head: schema.TensorT) -> bool:
    """Whether the table holds the head's weights with rows scaled to magnitude 1."""
    own, weights = _int8_values(model, table), _int8_values(model, head)
    if own is None or weights is None or own.shape != weights.shape or table.buffer == head.buffer:
        return False
    (scale,), (zero,) = table.quantization.scale, table.quantization.zeroPoint
    # The table's range is that of the rows which calibration met; what lies beyond has been cut off.
    lowest, highest = (-128 - zero) * scale, (127 - zero) * scale
    expected = np.clip(weights.astype(np.float32) / _INT8_STEPS, lowest, highest)
    found = (own.astype(np.float32) - zero) * scale
    # Each was rounded on its own.
    return bool(np.abs(found - expected).max() <= 0.51 * scale + 0.51 / _INT8_STEPS)


def _quantise_alike(graph: schema.SubGraphT, steps: list, gather: schema.OperatorT) -> None:
    """Gives the table, and what carries its numbers on unchanged, the scale of rows of magnitude 1."""
    changed = {gather.inputs[0], gather.outputs[0]}
    for operator, kind in steps:
        if kind in _MOVES_VALUES and operator.inputs[0] in changed:
            changed.add(operator.outputs[0])
    for index in changed:
        quantization = graph.tensors[index].quantization
        quantization.scale, quantization.zeroPoint = np.float32([1 / _INT8_STEPS]), np.int64([0])
        quantization.min = quantization.max = None


def _whole(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)
