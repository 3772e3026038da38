"""An artifact beside its source: both on the same images, and how far they are apart.

An artifact is run by the runtime that its users have, in a process of its own without Keras (`runner.py`). The source
is timed there as well, with Keras.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from keras_resnet.errors import UserError
from keras_resnet.export.formats import FORMATS


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
        name: The format, a key of `FORMATS`.
        source: float [images, classes], the source's probabilities.
        own: float [images, classes], the artifact's.
        labels: int [images], the right classes, where they are known.
        source_heatmaps: float [images, rows, columns].
        heatmaps: float [images, rows, columns].
        cut_short: Whether time ended before the images did. Then the upper end of the agreement's interval is held to
            the limit: one image of thirty proves nothing.

    Returns:
        Fields of `LedgerRow`, `beyond` among them.
    """
    source, own = np.asarray(source, np.float64), np.asarray(own, np.float64)
    limit = FORMATS[name].limit
    same = source.argmax(axis=1) == own.argmax(axis=1)
    difference = np.abs(source - own)
    found: dict[str, Any] = {
        "images": len(own),
        "agreement": float(same.mean()),
        "agreement_interval": _interval(same),
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
        agreement = _interval(counted)[1]
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


def _interval(hits: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a proportion by Wilson's method, right also near 0 and 1."""
    found = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


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
        seconds: After this long no further images are begun (a format without fast kernels may take seconds per image).
        progress: Called with the number of images answered so far.

    Returns:
        `probabilities` and perhaps `heatmap` of the images answered, `latencies` in seconds, and `peak_bytes`.

    Raises:
        UserError: The runtime is missing, or refuses the artifact.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if name == "source":  # it alone needs this project
        # "" is the folder of an interactive session or a notebook; the environment has no way to write it.
        environment["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.save(place / "images.npy", images)
        request = {
            "kind": "source" if name == "source" else FORMATS[name].runtime,
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
