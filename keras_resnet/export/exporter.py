"""`export`: every format that was asked for, built beside the target folder, compared with its source, then renamed.

What the folder holds:

    1/                    SavedModel (TensorFlow Serving's layout: the folder is the model, 1 its version)
    bfloat16/1/           SavedModel with its feature maps in bfloat16
    float32.tflite …      the TFLite family
    model.onnx            ONNX
    openvino/model.xml    OpenVINO
    model.keras           the source
    labels.txt, preprocessing.json
    parity.json           the ledger for machines
    README.md             the model card: the ledger for people
"""

import contextlib
import ctypes
import dataclasses
import gc
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet import provenance
from keras_resnet.artifact import Artifact, artifact_of
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import resize_image
from keras_resnet.errors import UserError
from keras_resnet.export.calibration import calibration_images
from keras_resnet.export.formats import FORMATS, ExportSettings, Format, check_formats, default_formats
from keras_resnet.export.ledger import LedgerRow, answer_by_source, artifact_row, source_row, table
from keras_resnet.export.model_card import model_card
from keras_resnet.export.serving import check_exportable
from keras_resnet.export.tflite import check_quantizer
from keras_resnet.export.writers import Writing
from keras_resnet.graphs.precision import to_float32
from keras_resnet.progress import ProgressBar
from keras_resnet.storage import atomic_directory, check_writable, save_model, write_json, write_text

# Images of any sizes, [height, width, channels] each, and their classes, where they are known.
Examples = tuple[np.ndarray | Sequence[np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        directory: The folder.
        rows: The ledger: the source first, then each format.
        rejected: Sentences naming the formats that were not kept and the figures beyond their limits.
        seconds: How long it took.
    """

    directory: Path
    rows: tuple[LedgerRow, ...]
    rejected: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a dictionary that JSON can hold."""
        return {
            "directory": str(self.directory),
            "rejected": list(self.rejected),
            "seconds": round(self.seconds, 1),
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }

    def table(self) -> str:
        """Returns the ledger as a table for people."""
        return table(self.rows)


def export(
    artifact: Artifact,
    directory: str | os.PathLike[str],
    *,
    formats: Sequence[str] | None = None,
    calibration: Examples | None = None,
    parity: Examples | None = None,
    settings: ExportSettings | None = None,
    overwrite: bool = False,
    allow_drop: bool = False,
    seconds_per_format: float = 60.0,
    show_progress: bool = False,
) -> ExportReport:
    """Writes a classifier in every format asked for, and a ledger of how each compares with its source.

    Args:
        artifact: A network with its preprocessing, from `load_artifact` or `artifact_of`: a classifier that returns
            logits or probabilities, of any floating-point precision.
        directory: The folder to write, as a whole or not at all.
        formats: Names of `FORMATS`; default: those marked as default there.
        calibration: (images, labels) of the training data, for "int8" and "int16x8": images [height, width, channels],
            0..255, RGB, of any sizes, and their classes, int [images], or None where they are not known.
        parity: (images, labels) for the ledger, likewise; the accuracy columns need labels. Default: `calibration`.
        settings: What the files are to be like.
        overwrite: Whether an existing folder may be replaced.
        allow_drop: Whether an artifact beyond its format's limits is kept.
        seconds_per_format: After this long no further images are begun for a format; its row says how many it saw.
        show_progress: Whether to draw a progress bar for each stage on standard error.

    Returns:
        The report. Formats beyond their limits are named in `rejected`, and are not in the folder unless `allow_drop`.

    Raises:
        UserError: What the model, the images, the options or the disk do not allow; the folder is as it was before.
    """
    began = time.monotonic()
    directory = Path(directory)
    settings = settings or ExportSettings()
    if artifact.model is None:
        raise UserError(f"{artifact.source} is an exported file. Give the run or .keras file that it was made from.")
    check_exportable(artifact.model, artifact.preprocessing)
    chosen = _checked_formats(default_formats() if formats is None else formats, settings, calibration)
    if directory.exists() and not overwrite:
        raise UserError(f"{directory} exists already. Choose another place or allow it to be overwritten.")
    calibrating = None if calibration is None else calibration_images(*calibration, artifact.preprocessing)
    pixels, labels = _parity_set(parity or calibration, artifact.preprocessing)
    check_writable(directory.parent, int(4 * artifact.model.count_params() * (1.5 + 1.2 * len(chosen))))

    progress = ProgressBar(1 + 2 * len(chosen), show=show_progress)
    try:
        with atomic_directory(directory, overwrite=overwrite) as folder:
            source = artifact_of(to_float32(artifact.model), artifact.preprocessing, source=artifact.source)
            _write(source, folder, chosen, settings, calibrating, progress)
            rows = _compare(source, folder, chosen, settings, pixels, labels, seconds_per_format, progress)
            rejected = _reject(rows, folder, allow_drop)
            report = ExportReport(directory, tuple(rows), tuple(rejected), time.monotonic() - began)
            described = {
                "model": source.model.name,
                "preprocessing_fingerprint": source.preprocessing.fingerprint(),
                "limits": {row.name: dataclasses.asdict(row.limit) for row in chosen},
                **provenance.result_row(),
                **report.to_dict(),
            }
            write_json(folder / "parity.json", described)
            card = model_card(source.model.name, source.labels, source.preprocessing, rows, rejected, described)
            write_text(folder / "README.md", card)
    except (OSError, tf.errors.OpError) as error:
        # TensorFlow and the converter report a full disk in their own ways; no artifact has got out.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"Cannot write {directory}: {reason[:300]}") from error
    return report


def _checked_formats(names: Sequence[str], settings: ExportSettings, calibration: Examples | None) -> list[Format]:
    check_formats(names)
    for name in names:
        check_quantizer(settings.quantizer, name, settings.io_type, targets=settings.heatmap == "input")
        missing = FORMATS[name].missing_packages()
        if missing:
            raise UserError(f"The format {name} needs {', '.join(missing)}: pip install 'keras-resnet[{name}]'.")
        if FORMATS[name].is_calibrated and calibration is None:
            raise UserError(f"The format {name} needs calibration images of the training data.")
    return [FORMATS[name] for name in names]


def _parity_set(parity: Examples | None, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray | None]:
    if parity is None:
        raise UserError("The ledger needs images: give parity images (validation images of the data set).")
    images, labels = parity
    if not len(images):
        raise UserError("The ledger needs images, got none.")
    if labels is not None and len(labels) != len(images):
        raise UserError(f"{len(images)} parity images came with {len(labels)} labels; each needs one.")
    resized = np.stack([np.asarray(resize_image(image, preprocessing)) for image in images])
    # Whole pixels: what every artifact, also one with integer input, can be given exactly.
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8), None if labels is None else np.asarray(labels)


def _write(
    source: Artifact,
    folder: Path,
    chosen: list[Format],
    settings: ExportSettings,
    calibration: np.ndarray | None,
    progress: ProgressBar,
) -> None:
    save_model(source.model, folder / "model.keras", source.preprocessing, source.config)
    write_text(folder / "labels.txt", "".join(f"{name}\n" for name in source.labels))
    write_json(folder / "preprocessing.json", source.preprocessing.to_dict())
    writing = Writing(source.model, source.preprocessing, source.labels, settings, calibration, progress.step)
    for row in chosen:
        progress.begin(f"write {row.name}", *((len(calibration),) if row.is_calibrated else (1, "files")))
        row.write(writing, folder)
        progress.end()
        _give_memory_back()


def _compare(
    source: Artifact,
    folder: Path,
    chosen: list[Format],
    settings: ExportSettings,
    pixels: np.ndarray,
    labels: np.ndarray | None,
    seconds_per_format: float,
    progress: ProgressBar,
) -> list[LedgerRow]:
    """The ledger: the source first, then each format."""
    progress.begin("run source", len(pixels))
    reference = answer_by_source(source, pixels, labels, with_heatmap=settings.heatmap != "none", progress=progress)
    rows = [source_row(reference, folder / "model.keras")]
    progress.end()
    _give_memory_back()
    for row in chosen:
        progress.begin(f"run {row.name}", len(pixels))
        rows.append(
            artifact_row(row, folder, reference, batch=settings.batch, seconds=seconds_per_format, progress=progress)
        )
        progress.end(rows[-1].images)
    return rows


def _reject(rows: list[LedgerRow], folder: Path, allow_drop: bool) -> list[str]:
    """Removes the artifacts beyond their limits, unless allowed, marks their rows, and says what is wrong with them."""
    rejected = []
    for place, found in enumerate(rows):
        if found.beyond:
            rows[place] = dataclasses.replace(found, kept=allow_drop)
            if not allow_drop:
                rejected.append(f"{found.name}: {'; '.join(found.beyond)}")
                _remove(FORMATS[found.name].entry(folder))
    return rejected


def _give_memory_back() -> None:
    """Hands freed memory back to the system: a converter leaves gigabytes of it with the allocator."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
