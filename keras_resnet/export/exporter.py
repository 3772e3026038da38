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

import keras
import numpy as np
import tensorflow as tf

from keras_resnet import provenance
from keras_resnet.artifact import class_names
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import resize_image
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.export.calibration import calibration_images
from keras_resnet.export.formats import (
    FORMATS,
    HEATMAP_TARGETS,
    IO_TYPES,
    QUANTIZERS,
    check_formats,
    default_formats,
)
from keras_resnet.export.ledger import LedgerRow, answer_by_source, artifact_row, source_row, table
from keras_resnet.export.model_card import model_card
from keras_resnet.export.serving import check_exportable
from keras_resnet.export.tflite import check_quantizer
from keras_resnet.export.writers import Writing
from keras_resnet.graphs.folding import to_float32
from keras_resnet.progress import Progress
from keras_resnet.storage import atomic_directory, check_writable, save_model, write_json, write_text


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
    model: keras.Model,
    directory: str | os.PathLike[str],
    *,
    formats: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    calibration: np.ndarray | Sequence[np.ndarray] | None = None,
    calibration_labels: np.ndarray | None = None,
    parity_images: np.ndarray | Sequence[np.ndarray] | None = None,
    parity_labels: np.ndarray | None = None,
    overwrite: bool = False,
    allow_drop: bool = False,
    with_heatmap: bool = False,
    heatmap_target: str = "top",
    quantizer: str = "converter",
    batch: int | None = 1,
    io_type: str = "uint8",
    seconds_per_format: float = 60.0,
    show_progress: bool = False,
) -> ExportReport:
    """Writes a classifier in every format asked for, and a ledger of how each compares with its source.

    Args:
        model: A classifier that returns logits or probabilities, of any floating-point precision.
        directory: The folder to write, as a whole or not at all.
        formats: Names of `FORMATS`; default: those marked as default there.
        preprocessing: How an image becomes the model's input; default: the model's attribute `preprocessing`.
        calibration: Images [height, width, channels], 0..255, RGB, of the training data, for "int8" and "int16x8".
        calibration_labels: Their classes, int [images], where they are known.
        parity_images: Images [height, width, channels], 0..255, RGB, for the ledger; default: the calibration images.
        parity_labels: Their classes, int [images], for the accuracy columns.
        overwrite: Whether an existing folder may be replaced.
        allow_drop: Whether an artifact beyond its format's limits is kept.
        with_heatmap: Whether every format returns the class activation map as a second output.
        heatmap_target: "top" explains the most probable class; "input" adds the input `target`, int32 (batch,), the
            class to explain (-1: the most probable one); "int16x8" explains the most probable class always.
        quantizer: "converter" or "litert", see `tflite.convert`.
        batch: Images of a call of a .tflite file; None leaves it open.
        io_type: What an int8 .tflite takes and returns: "uint8", "int8" or "float32".
        seconds_per_format: After this long no further images are begun for a format; its row says how many it saw.
        show_progress: Whether to draw a progress bar for each stage on standard error.

    Returns:
        The report. Formats beyond their limits are named in `rejected`, and are not in the folder unless `allow_drop`.

    Raises:
        UserError: What the model, the images, the options or the disk do not allow; the folder is as it was before.
    """
    began = time.monotonic()
    directory = Path(directory)
    preprocessing = _preprocessing(model, preprocessing)
    head = check_exportable(model, preprocessing)
    formats = default_formats() if formats is None else formats
    _check_options(formats, heatmap_target, quantizer, batch, io_type, calibration)
    if directory.exists() and not overwrite:
        raise UserError(f"{directory} exists already. Choose another place or allow it to be overwritten.")
    if calibration is not None:
        calibration = calibration_images(calibration, preprocessing, calibration_labels)
    pixels, labels = _parity_set(parity_images, parity_labels, calibration, calibration_labels, preprocessing)
    check_writable(directory.parent, int(4 * model.count_params() * (1.5 + 1.2 * len(formats))))

    chosen = [FORMATS[name] for name in formats]
    progress = Progress(1 + 2 * len(formats), show=show_progress)
    rows, rejected = [], []
    try:
        with atomic_directory(directory, overwrite=overwrite) as folder:
            source = to_float32(model)
            names = class_names(preprocessing, model.outputs[0].shape[-1])
            save_model(source, folder / "model.keras", preprocessing)
            write_text(folder / "labels.txt", "".join(f"{name}\n" for name in names))
            write_json(folder / "preprocessing.json", preprocessing.to_dict())
            writing = Writing(
                source,
                preprocessing,
                names,
                heatmap=heatmap_target if with_heatmap else "none",
                calibration=calibration,
                batch=batch,
                io_type=io_type,
                quantizer=quantizer,
                progress=progress.step,
            )
            for row in chosen:
                progress.begin(f"write {row.name}", *((len(calibration),) if row.is_calibrated else (1, "files")))
                row.write(writing, folder)
                progress.end()
                _give_memory_back()
            del writing

            progress.begin("run source", len(pixels))
            reference = answer_by_source(
                source, preprocessing, head, pixels, labels, with_heatmap=with_heatmap, progress=progress
            )
            rows.append(source_row(reference, folder / "model.keras"))
            progress.end()
            _give_memory_back()
            for row in chosen:
                progress.begin(f"run {row.name}", len(pixels))
                found = artifact_row(row, folder, reference, batch=batch, seconds=seconds_per_format, progress=progress)
                progress.end(found.images)
                if found.beyond:
                    found = dataclasses.replace(found, kept=allow_drop)
                    if not allow_drop:
                        rejected.append(f"{row.name}: {'; '.join(found.beyond)}")
                        _remove(row.entry(folder))
                rows.append(found)
            report = ExportReport(directory, tuple(rows), tuple(rejected), time.monotonic() - began)
            described = {
                "model": model.name,
                "preprocessing_fingerprint": preprocessing.fingerprint(),
                "limits": {row.name: dataclasses.asdict(row.limit) for row in chosen},
                **provenance.result_row(),
                **report.to_dict(),
            }
            write_json(folder / "parity.json", described)
            write_text(folder / "README.md", model_card(model.name, names, preprocessing, rows, rejected, described))
    except (OSError, tf.errors.OpError) as error:
        # TensorFlow and the converter report a full disk in their own ways; no artifact has got out.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"Cannot write {directory}: {reason[:300]}") from error
    return report


def _preprocessing(model: Any, given: Preprocessing | None) -> Preprocessing:
    recorded = getattr(model, "preprocessing", None)
    if given is None and recorded is None:
        raise UserError("The model brings no preprocessing. Give the one that it was trained with.")
    if given is not None and recorded is not None and given.fingerprint() != recorded.fingerprint():
        before, after = recorded.to_dict(), given.to_dict()
        differing = [key for key in before if before[key] != after[key]]
        raise UserError(
            f"The model was trained with another preprocessing than the one given: {', '.join(differing)} differ "
            f"({differing[0]}: {str(before[differing[0]])[:80]} recorded, {str(after[differing[0]])[:80]} given). "
            "Leave the argument out to use the recorded one."
        )
    return given or recorded


def _check_options(formats, heatmap_target, quantizer, batch, io_type, calibration) -> None:
    check_formats(formats)
    for kind, value, valid in (
        ("heat map target", heatmap_target, HEATMAP_TARGETS),
        ("quantizer", quantizer, QUANTIZERS),
        ("input and output type", io_type, IO_TYPES),
    ):
        if value not in valid:
            raise unknown_name(kind, value, valid)
    if batch is not None and batch < 1:
        raise UserError(f"The batch must be at least 1, or open, got {batch}.")
    for name in formats:
        check_quantizer(quantizer, name, io_type, targets=heatmap_target == "input")
        missing = FORMATS[name].missing_packages()
        if missing:
            raise UserError(f"The format {name} needs {', '.join(missing)}: pip install 'keras-resnet[{name}]'.")
        if FORMATS[name].is_calibrated and calibration is None:
            raise UserError(f"The format {name} needs calibration images of the training data.")


def _parity_set(images, labels, calibration, calibration_labels, preprocessing) -> tuple[np.ndarray, Any]:
    if images is None:
        if calibration is None:
            raise UserError("The ledger needs images: give parity images (validation images of the data set).")
        images, labels = calibration, calibration_labels
    if not len(images):
        raise UserError("The ledger needs images, got none.")
    if labels is not None and len(labels) != len(images):
        raise UserError(f"{len(images)} parity images came with {len(labels)} labels; each needs one.")
    resized = np.stack([np.asarray(resize_image(image, preprocessing)) for image in images])
    # Whole pixels: what every artifact, also one with integer input, can be given exactly.
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8), None if labels is None else np.asarray(labels)


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
