"""The parity ledger: the source network and every artifact on the same images, and the limits of each format.

An artifact is run by the runtime that its users have, in a process of its own without Keras (`runner.py`). The source
is timed there as well, with Keras.
"""

import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.errors import UserError


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


EXACT = Limit(1.0, 1e-4, None, 0.999)
LIMITS = {
    "saved_model": EXACT,
    "float32": EXACT,
    "onnx": EXACT,
    "openvino": EXACT,
    # Eight significant bits: 99.9 % and 100 % of 1,017 images of CIFAR-10 by ResNet-20 and ResNet-32.
    "saved_model_bfloat16": Limit(0.99, None, 0.5, 0.99),
    "float16": Limit(0.995, 1e-2, None, 0.99),
    "dynamic": Limit(0.99, None, 0.5, 0.95),
    "int16x8": Limit(0.99, None, 0.5, 0.95),
    "int8": Limit(0.98, None, 1.0, 0.95),
}
# How each is run and read; what is not here is a .tflite file.
KINDS = {
    "source": "source",
    "saved_model": "saved_model",
    "saved_model_bfloat16": "saved_model",
    "onnx": "onnx",
    "openvino": "openvino",
}


@dataclass(frozen=True)
class Row:
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


def compare(
    name: str,
    source: np.ndarray,
    own: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    source_heatmaps: np.ndarray | None = None,
    heatmaps: np.ndarray | None = None,
    cut_short: bool = False,
) -> dict[str, Any]:
    """Compares an artifact's answers with the source's on the same images.

    Args:
        name: The format, a key of `LIMITS`.
        source: float [images, classes], the source's probabilities.
        own: float [images, classes], the artifact's.
        labels: int [images], the right classes, where they are known.
        source_heatmaps: float [images, rows, columns].
        heatmaps: float [images, rows, columns].
        cut_short: Whether time ended before the images did. Then the upper end of the agreement's interval is held to
            the limit: one image of thirty is no proof.

    Returns:
        Fields of `Row`, `beyond` among them.
    """
    source, own = np.asarray(source, np.float64), np.asarray(own, np.float64)
    limit = LIMITS[name]
    same = source.argmax(axis=1) == own.argmax(axis=1)
    difference = np.abs(source - own)
    found: dict[str, Any] = {
        "images": len(own),
        "agreement": float(same.mean()),
        "agreement_interval": wilson_interval(int(same.sum()), len(same)),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "kl_divergence": kl_divergence(source, own),
        "top1": None,
        "drop_points": None,
        "heatmap_correlation": None,
    }
    if labels is not None:
        before, after = (float((p.argmax(axis=1) == labels).mean()) for p in (source, own))
        found["top1"], found["drop_points"] = after, 100 * (before - after)
    if heatmaps is not None and source_heatmaps is not None:
        found["heatmap_correlation"] = mean_correlation(source_heatmaps, heatmaps)

    beyond = []
    counted = same
    if limit.difference is not None:
        # Two classes as close as the allowed difference may change places without anything being wrong.
        best = np.sort(source, axis=1)
        counted = same[best[:, -1] - best[:, -2] > 2 * limit.difference]
        if not found["largest_difference"] <= limit.difference:
            beyond.append(
                f"largest probability difference {found['largest_difference']:.2g} (limit {limit.difference:g})"
            )
    agreement = float(counted.mean()) if len(counted) else 1.0
    if cut_short and len(counted):
        agreement = wilson_interval(int(counted.sum()), len(counted))[1]
    if not agreement >= limit.agreement:
        beyond.append(f"top-1 agreement {agreement:.2%} (limit {limit.agreement:.1%})")
    drop = found["drop_points"]
    if limit.drop_points is not None and drop is not None and not drop <= limit.drop_points:
        beyond.append(f"accuracy drop {drop:.2f} points (limit {limit.drop_points:g})")
    correlation = found["heatmap_correlation"]
    if correlation is not None and not correlation >= limit.heatmap_correlation:
        beyond.append(f"heat-map correlation {correlation:.4f} (limit {limit.heatmap_correlation:g})")
    found["beyond"] = tuple(beyond)
    return found


def wilson_interval(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a proportion; right also near 0 and 1, where the usual one is not.

    Reference:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    part = hits / count
    center = part + z * z / (2 * count)
    spread = z * math.sqrt(part * (1 - part) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def kl_divergence(source: np.ndarray, own: np.ndarray) -> float:
    """Mean over images of Σ p·log(p/q) in nats; integer formats round small q to 0, which counts as 1e-7 here."""
    p, q = np.maximum(source, 1e-12), np.maximum(own, 1e-7)
    q = q / q.sum(axis=1, keepdims=True)
    return max(0.0, float((p * np.log(p / q)).sum(axis=1).mean()))


def mean_correlation(source: np.ndarray, own: np.ndarray) -> float:
    """Mean Pearson correlation of pairs of maps. Maps that are flat in both are left out; flat in one counts as 0."""
    found = []
    for a, b in zip(source, own, strict=True):
        a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
        sizes = np.linalg.norm(a), np.linalg.norm(b)
        if max(sizes) <= 1e-12:
            continue
        found.append(float(a @ b / (sizes[0] * sizes[1])) if min(sizes) > 1e-12 else 0.0)
    return float(np.mean(found)) if found else 1.0


def run_artifact(
    name: str,
    path: Path,
    images: np.ndarray,
    *,
    threads: int,
    count: int | None = None,
    batch: int = 1,
    static_batch: int = 1,
    repeats: int = 20,
    warmup: int = 3,
    seconds: float = 60.0,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, np.ndarray]:
    """Runs an artifact in a process of its own.

    Args:
        name: The format; "source" for the source network.
        path: The artifact.
        images: uint8 [images, height, width, channels], at the network's size.
        threads: How many threads the runtime gets.
        count: How many images to answer; 0 only times it. Default: all.
        batch: Images of a call.
        static_batch: The fixed batch of the file.
        repeats: Timed calls.
        warmup: Calls before them.
        seconds: After this long no further images are begun (a format without fast kernels may take seconds an image).
        progress: Called with the number of images answered so far.

    Returns:
        `probabilities` and perhaps `heatmap` of the images answered, `latencies` in seconds, and `peak_bytes`.

    Raises:
        UserError: The runtime is missing, or refuses the artifact.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if name == "source":  # it alone needs this project
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.save(place / "images.npy", images)
        request = {
            "kind": KINDS.get(name, "tflite"),
            "path": os.fspath(path),
            "images": os.fspath(place / "images.npy"),
            "answers": os.fspath(place / "answers.npz"),
            "threads": threads,
            "count": len(images) if count is None else count,
            "batch": batch,
            "static_batch": static_batch,
            "repeats": repeats,
            "warmup": warmup,
            "seconds": seconds,
        }
        (place / "request.json").write_text(json.dumps(request))
        with open(place / "errors.txt", "w+") as errors:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("runner.py")), str(place / "request.json")],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
            try:
                for line in process.stdout:
                    if line.startswith("done "):
                        progress(int(line.split()[1]))
                code = process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
            if code:
                errors.seek(0)
                lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
                reason = lines[-1] if lines else f"exit code {code}"
                raise UserError(f"{path.name} does not run: {reason[:300]}")
        with np.load(place / "answers.npz") as answers:
            return {key: answers[key] for key in answers.files}


def milliseconds(latencies: np.ndarray) -> dict[str, float]:
    """Median and 90th percentile of seconds, in milliseconds."""
    return {"median": float(np.median(latencies) * 1e3), "p90": float(np.quantile(latencies, 0.9) * 1e3)}


def size_of(path: Path) -> int:
    """Bytes of a file or of all files in a folder."""
    if path.is_dir():
        return sum(child.stat().st_size for child in path.rglob("*") if child.is_file())
    return path.stat().st_size


def operators_of(name: str, path: Path) -> dict[str, int] | None:
    """Operators by kind of an artifact, the calls of a graph as its file lists them."""
    if KINDS.get(name) == "saved_model":
        from tensorflow.core.protobuf import saved_model_pb2

        saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        graph = saved.meta_graphs[0].graph_def
        wanted = [f for f in graph.library.function if sum(n.op == "Conv2D" for n in f.node_def)]
        return _count(node.op for node in (wanted[0].node_def if wanted else graph.node))
    if name == "onnx":
        with contextlib.suppress(ImportError):
            import onnx

            return _count(node.op_type for node in onnx.load(os.fspath(path), load_external_data=False).graph.node)
        return None
    if name == "openvino":
        import re

        return _count(re.findall(r'<layer [^>]*type="(\w+)"', path.read_text()))
    from keras_resnet.export.tflite_file import read_operators

    return read_operators(path.read_bytes())


def table(rows: list[Row]) -> str:
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
            _shown(row.top1, "{:.2%}"),
            _shown(row.drop_points, "{:+.2f}"),
            "–" if interval is None else f"{row.agreement:.2%} ({interval[0]:.1%}–{interval[1]:.1%})",
            _shown(row.largest_difference, "{:.1e}"),
            _shown(row.mean_difference, "{:.1e}"),
            _shown(row.kl_divergence, "{:.1e}"),
            _shown(row.heatmap_correlation, "{:.4f}"),
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


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _count(kinds: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
