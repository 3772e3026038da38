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
import importlib.util
import os
import re
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
from keras_resnet.data.transforms import normalize, resize_image
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.export.calibration import calibration_images
from keras_resnet.export.interchange import write_interchange
from keras_resnet.export.parity import (
    LIMITS,
    Row,
    compare,
    milliseconds,
    operators_of,
    run_artifact,
    size_of,
    table,
)
from keras_resnet.export.saved_model import PRECISION_OF, VERSION, write_saved_model
from keras_resnet.export.serving import (
    READS_HEAD_BY,
    check_exportable,
    explained_scores,
    serving_network,
)
from keras_resnet.export.tflite import (
    CALIBRATED,
    IO_TYPES,
    QUANTIZERS,
    VARIANTS,
    check_quantizer,
    convert,
)
from keras_resnet.export.tflite_metadata import add_metadata
from keras_resnet.graphs.folding import to_float32
from keras_resnet.progress import Progress
from keras_resnet.storage import atomic_directory, check_writable, save_model, write_json, write_text

FORMATS = (*PRECISION_OF, *VARIANTS, "onnx", "openvino")
DEFAULT_FORMATS = ("saved_model", "float32", "float16", "dynamic", "int8")
HEATMAP_TARGETS = ("top", "input")
PACKAGES = {"onnx": ("onnx", "onnxruntime", "tf2onnx"), "openvino": ("openvino",)}


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
    rows: tuple[Row, ...]
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
        return table(list(self.rows))


def export(
    model: keras.Model,
    directory: str | os.PathLike[str],
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
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
        formats: Any of `FORMATS`.
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
    _check_options(formats, heatmap_target, quantizer, batch, io_type, calibration)
    if directory.exists() and not overwrite:
        raise UserError(f"{directory} exists already. Choose another place or allow it to be overwritten.")
    if calibration is not None:
        calibration = calibration_images(calibration, preprocessing, calibration_labels)
    pixels, labels = _parity_set(parity_images, parity_labels, calibration, calibration_labels, preprocessing)
    check_writable(directory.parent, int(4 * model.count_params() * (1.5 + 1.2 * len(formats))))

    progress = Progress(1 + 2 * len(formats), show=show_progress)
    rows, rejected = [], []
    try:
        with atomic_directory(directory, overwrite=overwrite) as folder:
            source = to_float32(model)
            names = class_names(preprocessing, model.outputs[0].shape[-1])
            save_model(source, folder / "model.keras", preprocessing)
            write_text(folder / "labels.txt", "".join(f"{name}\n" for name in names))
            write_json(folder / "preprocessing.json", preprocessing.to_dict())
            heatmap = heatmap_target if with_heatmap else "none"
            networks: dict[str, keras.Model] = {}

            def network(name: str) -> keras.Model:
                classes = READS_HEAD_BY.get(name, "row") if with_heatmap else "row"
                if classes not in networks:
                    networks.clear()  # one at a time: each holds all weights
                    # An input of whole numbers is unknown to the quantiser to 16 bits, too.
                    wanted = "top" if classes == "all" else heatmap
                    networks[classes] = serving_network(source, preprocessing, heatmap=wanted, classes=classes)
                return networks[classes]

            places: dict[str, Path] = {}
            for name in formats:
                progress.begin(f"write {name}", *((len(calibration),) if name in CALIBRATED else (1, "files")))
                if name in PRECISION_OF:
                    precision = PRECISION_OF[name]
                    places[name] = (folder if precision == "float32" else folder / precision) / VERSION
                    write_saved_model(
                        source, preprocessing, places[name], with_heatmap=with_heatmap, precision=precision
                    )
                elif name in PACKAGES:
                    places[name] = write_interchange(network(name), name, folder)
                else:
                    contents = convert(
                        network(name),
                        name,
                        calibration=calibration,
                        batch=batch,
                        io_type=io_type,
                        quantizer=quantizer,
                        progress=progress.step,
                    )
                    places[name] = folder / f"{name}.tflite"
                    places[name].write_bytes(add_metadata(contents, preprocessing, names, name=model.name))
                progress.end()
                _give_memory_back()
            networks.clear()

            progress.begin("run source", len(pixels))
            answers, heatmaps, row = _run_source(
                source, preprocessing, pixels, labels, head, with_heatmap, folder / "model.keras", progress
            )
            progress.end()
            _give_memory_back()
            rows.append(row)
            for name, path in places.items():
                progress.begin(f"run {name}", len(pixels))
                row = _ledger_row(
                    name, path, pixels, labels, answers, heatmaps, folder, batch, seconds_per_format, progress
                )
                progress.end(row.images)
                if row.beyond:
                    row = dataclasses.replace(row, kept=allow_drop)
                    if not allow_drop:
                        rejected.append(f"{name}: {'; '.join(row.beyond)}")
                        _remove(_entry(path, folder))
                rows.append(row)
            report = ExportReport(directory, tuple(rows), tuple(rejected), time.monotonic() - began)
            described = {
                "model": model.name,
                "preprocessing_fingerprint": preprocessing.fingerprint(),
                "limits": {name: dataclasses.asdict(LIMITS[name]) for name in formats},
                **provenance.result_row(),
                **report.to_dict(),
            }
            write_json(folder / "parity.json", described)
            write_text(folder / "README.md", _model_card(model, preprocessing, names, report, described))
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
    if not formats:
        raise UserError(f"Name at least one format: {', '.join(FORMATS)}.")
    for kind, values, valid in (
        ("format", formats, FORMATS),
        ("heat map target", (heatmap_target,), HEATMAP_TARGETS),
        ("quantizer", (quantizer,), QUANTIZERS),
        ("input and output type", (io_type,), IO_TYPES),
    ):
        for value in values:
            if value not in valid:
                raise unknown_name(kind, value, valid)
    if len(set(formats)) != len(formats):
        raise UserError(f"Name every format once, got {', '.join(formats)}.")
    if batch is not None and batch < 1:
        raise UserError(f"The batch must be at least 1, or open, got {batch}.")
    for name in formats:
        check_quantizer(quantizer, name, io_type, targets=heatmap_target == "input")
        missing = [package for package in PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
        if missing:
            raise UserError(f"The format {name} needs {', '.join(missing)}: pip install 'keras-resnet[{name}]'.")
        if name in CALIBRATED and calibration is None:
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


def _run_source(source, preprocessing, pixels, labels, head, with_heatmap, path, progress):
    @tf.function(reduce_retracing=True)
    def call(images):
        scores = source(normalize(images, preprocessing), training=False)
        return scores if head.has_probabilities else tf.nn.softmax(scores)

    # With heat maps one pass gives both.
    explained = explained_scores(source) if with_heatmap else None
    answers, heatmaps = [], []
    for start in range(0, len(pixels), 32):
        chunk = pixels[start : start + 32]
        if explained is None:
            answers.append(call(tf.constant(chunk)).numpy())
        else:
            scores, maps = explained(normalize(chunk, preprocessing))
            answers.append((scores if head.has_probabilities else tf.nn.softmax(scores)).numpy())
            heatmaps.append(maps.numpy())
        progress.step(len(chunk))
    timed, latency = _run("source", path, pixels, count=0)
    probabilities = np.concatenate(answers)
    row = Row(
        name="source",
        file="model.keras",
        images=len(pixels),
        top1=None if labels is None else float((probabilities.argmax(axis=1) == labels).mean()),
        bytes=size_of(path),
        latency_ms=latency,
        peak_memory_bytes=int(timed["peak_bytes"]) or None,
    )
    return probabilities, np.concatenate(heatmaps) if heatmaps else None, row


def _ledger_row(name, path, pixels, labels, answers, heatmaps, folder, batch, seconds, progress) -> Row:
    is_tflite = name in VARIANTS
    static = (batch or 1) if is_tflite else 1
    found, latency = _run(
        name,
        path,
        pixels,
        # A large batch only where the runtime gains by it.
        batch=static if is_tflite else 16,
        static_batch=static,
        seconds=seconds,
        progress=lambda done: progress.step(done - progress.done),
    )
    seen = len(found["probabilities"])
    compared = compare(
        name,
        answers[:seen],
        found["probabilities"],
        labels=None if labels is None else labels[:seen],
        source_heatmaps=None if heatmaps is None else heatmaps[:seen],
        heatmaps=found.get("heatmap"),
        cut_short=seen < len(pixels),
    )
    return Row(
        name=name,
        file=os.fspath(path.relative_to(folder)),
        bytes=size_of(_entry(path, folder)),
        operators=operators_of(name, path),
        latency_ms=latency,
        batch=static,
        peak_memory_bytes=int(found["peak_bytes"]) or None,
        **compared,
    )


def _run(name, path, pixels, **options) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """What `run_artifact` finds on all cores, and its latency on one thread and on all."""
    cores = os.cpu_count() or 1
    # A format without fast kernels may take seconds a call.
    slow = name == "int16x8"
    options.update(repeats=5 if slow else 20, warmup=1 if slow else 3)
    found = run_artifact(name, path, pixels, threads=cores, **options)
    latency = {_threads(cores): milliseconds(found["latencies"])}
    if cores > 1:
        single = run_artifact(name, path, pixels, threads=1, **{**options, "count": 0})
        latency = {_threads(1): milliseconds(single["latencies"]), **latency}
    return found, latency


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _entry(path: Path, folder: Path) -> Path:
    """What stands in the export's folder for an artifact: its file, or the folder that it lies in."""
    return folder / path.relative_to(folder).parts[0]


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()


def _escaped(text: str) -> str:
    """Text as Markdown shows it: nothing in a class name is formatting or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", text)


def _model_card(model, preprocessing, names, report: ExportReport, described: dict[str, Any]) -> str:
    size = f"{preprocessing.height}×{preprocessing.width}×{preprocessing.channels}"
    shown = ", ".join(map(_escaped, names[:20])) + (f", … ({len(names)} in all)" if len(names) > 20 else "")
    lines = [
        f"# {_escaped(model.name)}",
        "",
        f"An image classifier of {len(names)} classes for images of {size} pixels: {shown}.",
        "",
        "Every artifact takes pixels from 0 to 255 in RGB; the normalisation is inside. `preprocessing.json` says how "
        "an image is brought to size, `labels.txt` names the outputs in order.",
        "",
        "## How each artifact compares with its source",
        "",
        report.table(),
        "",
        "Latency is of one call with one batch, in milliseconds; peak memory is that of the whole process, the runtime "
        "included. Heat map: mean correlation with gradient Grad-CAM on the source.",
    ]
    if report.rejected:
        lines += ["", "Not kept, because beyond their limits:", *[f"- {sentence}" for sentence in report.rejected]]
    lines += [
        "",
        "## Provenance",
        "",
        f"{described['hardware']}; TensorFlow {described['tensorflow']}, Keras {described['keras']}, Python "
        f"{described['python']}; {described['date']}. Preprocessing {preprocessing.fingerprint()[:12]}.",
        "",
    ]
    return "\n".join(lines)
