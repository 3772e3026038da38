"""The formats of an export, one row each: its file, its writer, its runtime, and how far it may be from its source.

Free of TensorFlow, so that flags are checked before it is loaded.
"""

import importlib.util
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_resnet.errors import UserError, unknown_name

HEATMAPS = ("none", "top", "input")
QUANTIZERS = ("converter", "litert")
IO_TYPES = ("uint8", "int8", "float32")
SAVED_MODEL_VERSION = "1"


@dataclass(frozen=True)
class ExportSettings:
    """What an export's files are to be like.

    Attributes:
        heatmap: "none"; "top": every format returns the class activation map of the most probable class as a second
            output; "input": of the class that a second input names, `target`, int32 (batch,), or -1 for the most
            probable one ("int16x8" explains the most probable class always).
        quantizer: "converter" or "litert", see `tflite.convert`.
        batch: Images of a call of a .tflite file; None leaves it open.
        io_type: What an int8 .tflite takes and returns: "uint8", "int8" or "float32".

    Raises:
        UserError: A value is none of these.
    """

    heatmap: str = "none"
    quantizer: str = "converter"
    batch: int | None = 1
    io_type: str = "uint8"

    def __post_init__(self) -> None:
        for kind, value, valid in (
            ("heat map target", self.heatmap, HEATMAPS),
            ("quantizer", self.quantizer, QUANTIZERS),
            ("input and output type", self.io_type, IO_TYPES),
        ):
            if value not in valid:
                raise unknown_name(kind, value, valid)
        if self.batch is not None and self.batch < 1:
            raise UserError(f"The batch must be at least 1, or open, got {self.batch}.")


@dataclass(frozen=True)
class Limit:
    """How far a format may be from its source.

    Attributes:
        agreement: Least part of the images on which both name the same class, 0..1.
        difference: Largest allowed difference of a probability; None where quantisation makes it meaningless.
        drop_points: Most percentage points of top-1 accuracy that may be lost; None where agreement says it all.
        heatmap_correlation: Least mean correlation of the heat maps.
    """

    agreement: float
    difference: float | None
    drop_points: float | None
    heatmap_correlation: float


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: As `formats` and `--formats` name it.
        file: The artifact's path in the exported folder.
        runtime: What runs it, a key of `runtimes.OPENERS`.
        writer: What writes it, "module:function" of (`writers.Writing`, this row, path).
        limit: How far it may be from its source.
        packages: What must be installed to write it: the extra of the format's name.
        precision: What its feature maps are computed in.
        reads_head_by: How its heat map reads the head, see `serving.ClassActivation`.
        is_calibrated: Whether it is written with images of the training data.
        is_default: Whether it is written where no format is named.
        is_slow: Whether a call may take seconds, for want of fast kernels.
    """

    name: str
    file: str
    runtime: str
    writer: str
    limit: Limit
    packages: tuple[str, ...] = ()
    precision: str = "float32"
    reads_head_by: str = "row"
    is_calibrated: bool = False
    is_default: bool = False
    is_slow: bool = False

    def write(self, writing: Any, folder: Path) -> None:
        """Writes the artifact into an exported folder."""
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        pkgutil.resolve_name(self.writer)(writing, self, path)

    def entry(self, folder: Path) -> Path:
        """Returns what stands in the exported folder for the artifact: its file, or the folder that it lies in."""
        return folder / Path(self.file).parts[0]

    def missing_packages(self) -> list[str]:
        """Returns the packages that are needed and not installed."""
        return [package for package in self.packages if importlib.util.find_spec(package) is None]


EXACT = Limit(1.0, 1e-4, None, 0.999)
_SAVED_MODEL = {"runtime": "saved_model", "writer": "keras_resnet.export.writers:write_saved_model_format"}
_TFLITE = {"runtime": "tflite", "writer": "keras_resnet.export.writers:write_tflite"}
_INTERCHANGE = {"writer": "keras_resnet.export.writers:write_interchange_format", "reads_head_by": "column"}
FORMATS = {
    row.name: row
    for row in (
        Format("saved_model", SAVED_MODEL_VERSION, limit=EXACT, is_default=True, **_SAVED_MODEL),
        Format(
            "saved_model_bfloat16",
            f"bfloat16/{SAVED_MODEL_VERSION}",
            # Eight significant bits: 99.9 % and 100 % of 1,017 images of CIFAR-10 by ResNet-20 and ResNet-32.
            limit=Limit(0.99, None, 0.5, 0.99),
            precision="bfloat16",
            **_SAVED_MODEL,
        ),
        Format("float32", "float32.tflite", limit=EXACT, is_default=True, **_TFLITE),
        Format("float16", "float16.tflite", limit=Limit(0.995, 1e-2, None, 0.99), is_default=True, **_TFLITE),
        Format(
            "dynamic",
            "dynamic.tflite",
            limit=Limit(0.99, None, 0.5, 0.95),
            reads_head_by="scaled row",
            is_default=True,
            **_TFLITE,
        ),
        Format(
            "int8",
            "int8.tflite",
            limit=Limit(0.98, None, 1.0, 0.95),
            reads_head_by="scaled row",
            is_calibrated=True,
            is_default=True,
            **_TFLITE,
        ),
        Format(
            "int16x8",
            "int16x8.tflite",
            limit=Limit(0.99, None, 0.5, 0.95),
            reads_head_by="all",
            is_calibrated=True,
            is_slow=True,
            **_TFLITE,
        ),
        Format(
            "onnx",
            "model.onnx",
            "onnx",
            limit=EXACT,
            packages=("onnx", "onnxruntime", "tf2onnx"),
            **_INTERCHANGE,
        ),
        Format("openvino", "openvino/model.xml", "openvino", limit=EXACT, packages=("openvino",), **_INTERCHANGE),
    )
}


def default_formats() -> tuple[str, ...]:
    """Returns the names of the formats that are written where none is named."""
    return tuple(name for name, row in FORMATS.items() if row.is_default)


def check_formats(names: Sequence[str]) -> None:
    """Raises UserError unless every name is a format, there is one, and none comes twice."""
    for name in names:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
    if not names:
        raise UserError(f"Name at least one format: {', '.join(FORMATS)}.")
    if len(set(names)) != len(names):
        raise UserError(f"Name every format once, got {', '.join(names)}.")


def needs_calibration(names: Sequence[str]) -> bool:
    """Returns whether one of the formats is written with images of the training data."""
    return any(FORMATS[name].is_calibrated for name in names)
