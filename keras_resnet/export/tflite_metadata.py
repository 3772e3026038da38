"""What Android's task library and MediaPipe read in a .tflite file: labels, image type, normalisation.

The description is a FlatBuffer of its own ("M001", TensorFlow Lite's metadata schema) in a buffer of the model, and the
files it names are a zip archive behind the model: a .tflite file with metadata opens with `unzip`, too. The field
numbers below are those of `metadata_schema.fbs`.
"""

import io
import json
import zipfile
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.export.tflite_file import pack, unpack

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
    model = unpack(contents)
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
    file = io.BytesIO(pack(model))
    # Stored, not deflated: Android maps the files from the archive without unpacking it.
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(LABELS, "".join(f"{label}\n" for label in labels))
        archive.writestr(PREPROCESSING, json.dumps(preprocessing.to_dict(), ensure_ascii=False))
    return file.getvalue()


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
        fields = {0: text(LABELS), 1: text("The class names, one per line."), 2: ("byte", _AXIS_LABELS)}
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
