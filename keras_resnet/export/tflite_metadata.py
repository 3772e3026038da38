"""What Android's task library and MediaPipe read in a .tflite file: labels, image type, normalisation.

The description is a FlatBuffer of its own ("M001", TensorFlow Lite's metadata schema) in a buffer of the model, and the
files it names are a zip archive behind the model: a .tflite file with metadata opens with `unzip`, too. The field
numbers below are those of `metadata_schema.fbs`.
"""

import contextlib
import io
import json
import zipfile
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError

METADATA = "TFLITE_METADATA"
LABELS = "labels.txt"
PREPROCESSING = "preprocessing.json"
_IDENTIFIER = b"M001"
_IMAGE_PROPERTIES, _FEATURE_PROPERTIES, _NORMALIZATION = 2, 1, 1
_RGB, _GRAYSCALE = 1, 2
_AXIS_LABELS = 2


def add_metadata(contents: bytes, preprocessing: Preprocessing, labels: tuple[str, ...], *, name: str) -> bytes:
    """Embeds labels and preprocessing in a .tflite file.

    Args:
        contents: The file, without metadata.
        preprocessing: The network's; its normalisation is in the graph already: the file says mean 0, deviation 1.
        labels: The class names.
        name: Name of the model.

    Returns:
        The file with metadata, `labels.txt` and `preprocessing.json`.
    """
    model = schema.ModelT.InitFromPackedBuf(contents, 0)
    for buffer in model.buffers:
        # Some writers put the constants behind the FlatBuffer; packed anew, they would be sought in the wrong place.
        if buffer.offset > 1:
            buffer.data = np.frombuffer(contents, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    graph = model.subgraphs[0]
    inputs = [_tensor_name(graph, index) for index in graph.inputs]
    outputs = [_tensor_name(graph, index) for index in graph.outputs]
    classes = [_classes(graph, index) for index in graph.outputs]
    description = schema.BufferT()
    description.data = _description(inputs, outputs, classes, preprocessing, len(labels), name)
    model.buffers.append(description)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA, len(model.buffers) - 1
    model.metadata = [old for old in model.metadata or [] if old.name != METADATA.encode()] + [entry]
    builder = flatbuffers.Builder(len(contents) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    file = io.BytesIO(bytes(builder.Output()))
    # Stored, not deflated: Android maps the files from the archive without unpacking it.
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(LABELS, "".join(f"{label}\n" for label in labels))
        archive.writestr(PREPROCESSING, json.dumps(preprocessing.to_dict(), ensure_ascii=False))
    return file.getvalue()


def read_operators(contents: bytes) -> dict[str, int]:
    """Counts the operators of a .tflite file by kind.

    Raises:
        UserError: The file is empty or no TFLite model.
    """
    if contents[4:8] != b"TFL3":
        raise UserError("This is no .tflite file: it does not carry the mark TFL3.")
    try:
        model = schema.ModelT.InitFromPackedBuf(contents, 0)
        names = {value: key for key, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
        counts: dict[str, int] = {}
        for graph in model.subgraphs:
            for operator in graph.operators or []:
                code = model.operatorCodes[operator.opcodeIndex]
                kind = names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "?")
                if kind == "CUSTOM":
                    kind = (code.customCode or b"custom").decode()
                counts[kind] = counts.get(kind, 0) + 1
    except UserError:
        raise
    except Exception as error:  # flatbuffers reads past the end in many ways
        raise UserError(f"This is no whole .tflite file: {type(error).__name__}.") from None
    return counts


def read_associated(contents_or_path: Any) -> dict[str, bytes]:
    """Returns the files embedded in a .tflite file: name → contents; none where it has no archive."""
    with contextlib.suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(contents_or_path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
    return {}


def _tensor_name(graph: Any, index: int) -> str:
    name = graph.tensors[index].name
    return name.decode() if isinstance(name, bytes) else str(name)


def _classes(graph: Any, index: int) -> int:
    shape = graph.tensors[index].shape
    return int(shape[-1]) if shape is not None and len(shape) == 2 else 0


def _description(
    inputs: list[str], outputs: list[str], classes: list[int], preprocessing: Preprocessing, labels: int, name: str
) -> bytes:
    b = flatbuffers.Builder(1024)

    def table(fields: dict[int, tuple[str, Any]], slots: int) -> int:
        b.StartObject(slots)
        for slot, (kind, value) in fields.items():
            if kind == "offset":
                b.PrependUOffsetTRelativeSlot(slot, value, 0)
            else:
                b.PrependUint8Slot(slot, value, 0)
        return b.EndObject()

    def offsets(values: list[int]) -> int:
        b.StartVector(4, len(values), 4)
        for value in reversed(values):
            b.PrependUOffsetTRelative(value)
        return b.EndVector()

    def floats(values: list[float]) -> int:
        b.StartVector(4, len(values), 4)
        for value in reversed(values):
            b.PrependFloat32(value)
        return b.EndVector()

    def text(value: str) -> tuple[str, int]:
        return "offset", b.CreateString(value)

    def image_input() -> int:
        color = _RGB if preprocessing.channels == 3 else _GRAYSCALE
        properties = table({0: ("byte", color)}, 2)
        content = table({0: ("byte", _IMAGE_PROPERTIES), 1: ("offset", properties)}, 3)
        mean, std = floats([0.0]), floats([1.0])
        normalization = table({0: ("offset", mean), 1: ("offset", std)}, 2)
        units = offsets([table({0: ("byte", _NORMALIZATION), 1: ("offset", normalization)}, 2)])
        high, low = floats([255.0]), floats([0.0])
        stats = table({0: ("offset", high), 1: ("offset", low)}, 2)
        title, about = text("image"), text("Pixels 0..255, RGB; the network normalises them itself.")
        fields = {0: title, 1: about, 3: ("offset", content), 4: ("offset", units), 5: ("offset", stats)}
        return table(fields, 7)

    def plain_tensor(title: str, about: str, files: list[int]) -> int:
        properties = table({}, 0)
        content = table({0: ("byte", _FEATURE_PROPERTIES), 1: ("offset", properties)}, 3)
        fields = {0: text(title), 1: text(about), 3: ("offset", content)}
        if files:
            fields[6] = ("offset", offsets(files))
            high, low = floats([1.0]), floats([0.0])
            fields[5] = ("offset", table({0: ("offset", high), 1: ("offset", low)}, 2))
        return table(fields, 7)

    def label_file() -> int:
        fields = {0: text(LABELS), 1: text("The class names, one a line."), 2: ("byte", _AXIS_LABELS)}
        return table(fields, 5)

    input_tables = [
        plain_tensor("target", "The class to explain; -1: the most probable one.", [])
        if "target" in tensor
        else image_input()
        for tensor in inputs
    ]
    output_tables = [
        plain_tensor("probability", "Probability of each class.", [label_file()])
        if count == labels
        else plain_tensor("heatmap", "Where the features speak for the class; divide by the maximum to draw.", [])
        for count in classes
    ]
    graph_fields = {2: ("offset", offsets(input_tables)), 3: ("offset", offsets(output_tables))}
    graphs = offsets([table(graph_fields, 10)])
    fields = {
        0: text(name),
        1: text("Residual network for image classification."),
        3: ("offset", graphs),
        7: text("1.0.0"),
    }
    b.Finish(table(fields, 8), _IDENTIFIER)
    return bytes(b.Output())
