"""What writes each format: functions of (`Writing`, the format's row, the path to write)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.export.formats import ExportSettings, Format
from keras_resnet.export.interchange import write_interchange
from keras_resnet.export.saved_model import write_saved_model
from keras_resnet.export.serving import serving_network
from keras_resnet.export.tflite import convert
from keras_resnet.export.tflite_metadata import add_metadata


@dataclass(frozen=True)
class Writing:
    """What writers write from.

    Attributes:
        source: The classifier, in float32.
        preprocessing: How an image becomes its input.
        names: The name of each class.
        settings: What the files are to be like.
        calibration: float32 [images, height, width, channels], 0..255, where a format needs it.
        progress: Called after each calibration image.
    """

    source: keras.Model
    preprocessing: Preprocessing
    names: tuple[str, ...]
    settings: ExportSettings
    calibration: np.ndarray | None
    progress: Callable[[], None]
    _networks: dict[str, keras.Model] = field(default_factory=dict)

    def network(self, row: Format) -> keras.Model:
        """Returns the network that a format is written from, built once for all formats that read the head alike."""
        heatmap = self.settings.heatmap
        classes = "row" if heatmap == "none" else row.reads_head_by
        if classes not in self._networks:
            self._networks.clear()  # one at a time: each holds all weights
            # An input of whole numbers is unknown to the quantiser to 16 bits.
            heatmap = "top" if classes == "all" else heatmap
            self._networks[classes] = serving_network(self.source, self.preprocessing, heatmap=heatmap, classes=classes)
        return self._networks[classes]


def write_saved_model_format(writing: Writing, row: Format, path: Path) -> None:
    """Writes a SavedModel."""
    write_saved_model(
        writing.source,
        writing.preprocessing,
        path,
        with_heatmap=writing.settings.heatmap != "none",
        precision=row.precision,
    )


def write_tflite(writing: Writing, row: Format, path: Path) -> None:
    """Writes a .tflite file with its metadata."""
    contents = convert(
        writing.network(row),
        row.name,
        calibration=writing.calibration,
        batch=writing.settings.batch,
        io_type=writing.settings.io_type,
        quantizer=writing.settings.quantizer,
        progress=writing.progress,
    )
    path.write_bytes(add_metadata(contents, writing.preprocessing, writing.names, name=writing.source.name))


def write_interchange_format(writing: Writing, row: Format, path: Path) -> None:
    """Writes ONNX or OpenVINO."""
    write_interchange(writing.network(row), row.name, path)
