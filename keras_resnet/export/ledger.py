"""The parity ledger: one row for the source and for each artifact, on the same images."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.artifact import Artifact
from keras_resnet.data.transforms import normalize
from keras_resnet.export.formats import FORMATS, Format
from keras_resnet.export.parity import compare, run_artifact
from keras_resnet.export.serving import explained_scores
from keras_resnet.export.tflite_file import read_operators
from keras_resnet.progress import ProgressBar


@dataclass(frozen=True)
class LedgerRow:
    """One line of the ledger.

    Attributes:
        name: "source" or the format.
        file: The artifact's path in the folder; "" for the source.
        images: How many images it was run on.
        top1: Accuracy, 0..1; None without labels.
        drop_points: Percentage points of accuracy lost against the source on the same images.
        agreement: Part of the images on which it names the source's class, 0..1.
        agreement_interval: 95 % interval of it (Wilson).
        largest_difference: Largest difference of a probability.
        mean_difference: Mean difference of a probability.
        kl_divergence: Mean Kullback-Leibler divergence from the source's distribution to its own, nats.
        heatmap_correlation: Mean correlation of the heat maps with gradient Grad-CAM on the source.
        bytes: Size.
        operators: Operators by kind; None where the format does not tell.
        latency_ms: {"1 thread": {"median", "p90"}, "N threads": …} of one call of batch `batch`.
        batch: Images in a timed call.
        peak_memory_bytes: Of the process that ran it, runtime included.
        kept: Whether it is within its limits, or kept in spite of them.
        beyond: The figures beyond their limits, as sentences.
    """

    name: str
    file: str
    images: int
    top1: float | None
    drop_points: float | None = None
    agreement: float | None = None
    agreement_interval: tuple[float, float] | None = None
    largest_difference: float | None = None
    mean_difference: float | None = None
    kl_divergence: float | None = None
    heatmap_correlation: float | None = None
    bytes: int | None = None
    operators: dict[str, int] | None = None
    latency_ms: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    batch: int = 1
    peak_memory_bytes: int | None = None
    kept: bool = True
    beyond: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """The images of the ledger and what the source answers to them.

    Attributes:
        pixels: uint8 [images, height, width, channels], 0..255.
        labels: int [images], the right classes, where they are known.
        probabilities: float32 [images, classes].
        heatmaps: float32 [images, rows, columns], gradient Grad-CAM, where artifacts have heat maps.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    probabilities: np.ndarray
    heatmaps: np.ndarray | None


def answer_by_source(
    source: Artifact, pixels: np.ndarray, labels: np.ndarray | None, *, with_heatmap: bool, progress: ProgressBar
) -> Reference:
    """Runs the source on the images of the ledger."""
    # With heat maps one pass gives both.
    explained = explained_scores(source.model) if with_heatmap else None
    answers, heatmaps = [], []
    for start in range(0, len(pixels), 32):
        chunk = pixels[start : start + 32]
        if explained is None:
            answers.append(source.probabilities(chunk))
        else:
            scores, maps = explained(normalize(chunk, source.preprocessing))
            answers.append((scores if source.head == "softmax" else tf.nn.softmax(scores)).numpy())
            heatmaps.append(maps.numpy())
        progress.step(len(chunk))
    return Reference(pixels, labels, np.concatenate(answers), np.concatenate(heatmaps) if heatmaps else None)


def source_row(reference: Reference, path: Path) -> LedgerRow:
    """Times the source and returns its row; `path` is its .keras file."""
    timed, latency = _run("source", path, reference.pixels, count=0)
    right = None if reference.labels is None else reference.probabilities.argmax(axis=1) == reference.labels
    return LedgerRow(
        name="source",
        file=path.name,
        images=len(reference.pixels),
        top1=None if right is None else float(right.mean()),
        bytes=size_of(path),
        latency_ms=latency,
        peak_memory_bytes=int(timed["peak_bytes"]) or None,
    )


def artifact_row(
    row: Format, folder: Path, reference: Reference, *, batch: int | None, seconds: float, progress: ProgressBar
) -> LedgerRow:
    """Runs an artifact on the images of the ledger and returns its row, `beyond` filled in.

    Args:
        row: Its format.
        folder: The exported folder.
        reference: The images, and the source's answers.
        batch: Images of a call of a .tflite file; None where it is open.
        seconds: After this long no further images are begun.
        progress: Told of images.
    """
    path = folder / row.file
    is_tflite = row.runtime == "tflite"
    static = (batch or 1) if is_tflite else 1
    found, latency = _run(
        row.name,
        path,
        reference.pixels,
        # A large batch only where the runtime gains by it.
        batch=static if is_tflite else 16,
        static_batch=static,
        seconds=seconds,
        progress=lambda done: progress.step(done - progress.done),
    )
    seen = len(found["probabilities"])
    compared = compare(
        row.name,
        reference.probabilities[:seen],
        found["probabilities"],
        labels=None if reference.labels is None else reference.labels[:seen],
        source_heatmaps=None if reference.heatmaps is None else reference.heatmaps[:seen],
        heatmaps=found.get("heatmap"),
        cut_short=seen < len(reference.pixels),
    )
    return LedgerRow(
        name=row.name,
        file=row.file,
        bytes=size_of(row.entry(folder)),
        operators=operators_of(row.runtime, path),
        latency_ms=latency,
        batch=static,
        peak_memory_bytes=int(found["peak_bytes"]) or None,
        **compared,
    )


def table(rows: Sequence[LedgerRow]) -> str:
    """Returns the ledger as a table for people, in Markdown."""
    heads = ["artifact", "images", "top-1", "drop", "agreement (95 %)", "max Δp", "mean Δp", "KL", "heat map", "MB"]
    threads = [key for row in rows for key in row.latency_ms]
    threads = sorted(set(threads), key=lambda key: int(key.split()[0]))
    heads += [f"ms {key} (p90)" for key in threads] + ["peak MB", "kept"]
    lines = [heads]
    for row in rows:
        interval = row.agreement_interval
        cells = [
            row.name,
            f"{row.images:,}",
            _formatted(row.top1, "{:.2%}"),
            _formatted(row.drop_points, "{:+.2f}"),
            "–" if interval is None else f"{row.agreement:.2%} ({interval[0]:.1%}–{interval[1]:.1%})",
            _formatted(row.largest_difference, "{:.1e}"),
            _formatted(row.mean_difference, "{:.1e}"),
            _formatted(row.kl_divergence, "{:.1e}"),
            _formatted(row.heatmap_correlation, "{:.4f}"),
            "–" if row.bytes is None else f"{row.bytes / 1e6:.2f}",
        ]
        for key in threads:
            timed = row.latency_ms.get(key)
            form = "{:.1f} ({:.1f})" if timed and timed["median"] >= 10 else "{:.2f} ({:.2f})"
            cells.append("–" if timed is None else form.format(timed["median"], timed["p90"]))
        cells.append("–" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:.0f}")
        cells.append("yes" if row.kept and not row.beyond else "beyond its limit" if row.kept else "NO")
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    texts = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)


def _formatted(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def milliseconds(latencies: np.ndarray) -> dict[str, float]:
    """Median and 90th percentile of seconds, in milliseconds."""
    return {"median": float(np.median(latencies) * 1e3), "p90": float(np.quantile(latencies, 0.9) * 1e3)}


def size_of(path: Path) -> int:
    """Bytes of a file or of all files in a folder."""
    if path.is_dir():
        return sum(child.stat().st_size for child in path.rglob("*") if child.is_file())
    return path.stat().st_size


def operators_of(runtime: str, path: Path) -> dict[str, int] | None:
    """Operators by kind of what a runtime runs, the calls of a graph as its file lists them."""
    if runtime == "saved_model":
        from tensorflow.core.protobuf import saved_model_pb2

        saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        graph = saved.meta_graphs[0].graph_def
        wanted = [f for f in graph.library.function if sum(n.op == "Conv2D" for n in f.node_def)]
        return _count(node.op for node in (wanted[0].node_def if wanted else graph.node))
    if runtime == "onnx":
        with contextlib.suppress(ImportError):
            import onnx

            return _count(node.op_type for node in onnx.load(os.fspath(path), load_external_data=False).graph.node)
        return None
    if runtime == "openvino":
        return _count(re.findall(r'<layer [^>]*type="(\w+)"', path.read_text()))
    return read_operators(path.read_bytes())


def _run(name, path, pixels, **options) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """What `run_artifact` finds on all cores, and its latency on one thread and on all."""
    cores = os.cpu_count() or 1
    # A format without fast kernels may take seconds per call.
    slow = name != "source" and FORMATS[name].is_slow
    options.update(repeats=5 if slow else 20, warmup=1 if slow else 3)
    found = run_artifact(name, path, pixels, threads=cores, **options)
    latency = {_threads(cores): milliseconds(found["latencies"])}
    if cores > 1:
        single = run_artifact(name, path, pixels, threads=1, **{**options, "count": 0})
        latency = {_threads(1): milliseconds(single["latencies"]), **latency}
    return found, latency


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _count(kinds: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
