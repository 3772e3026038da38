"""`benchmark.py serve`: the server over the loopback beside one image at a time, and beside a handler of one's own.

Every client keeps a connection and asks again as soon as it is answered. Each request carries one of many images whose
answer is known, so that an answer that was lost or is another request's is counted. Clients and server share the cores.
"""

import asyncio
import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_resnet.artifact import load_artifact
from keras_resnet.benchmarks.exports import random_network
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.export.saved_model import write_saved_model
from keras_resnet.export.serving import serving_network
from keras_resnet.export.tflite import convert
from keras_resnet.export.tflite_metadata import add_metadata
from keras_resnet.progress import ProgressBar
from keras_resnet.storage import save_model

BATCHED, ONE_BY_ONE, PLAIN = "batched", "one at a time", "FastAPI with model.predict"
IMAGES = 128
TOLERANCE = 2e-4  # of a probability, between runtimes
_START_SECONDS, _WARMUP_SECONDS = 120, 1.0
_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Answers:
    """What clients saw.

    Attributes:
        seconds: The time of each answer.
        wrong: Answers that were not those of the image.
        lost: Requests without an answer.
        took: Seconds from the first request to the last answer.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0
    took: float = 0.0


@dataclass(frozen=True)
class Contestant:
    """A server.

    Attributes:
        name: Its name in the rows.
        command: Its command line.
        environment: What it needs of the environment.
        path: Where it is asked.
        body: An image file → the body of a request.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    path: str
    body: Callable[[bytes], bytes]


def benchmark_serving(
    name: str,
    *,
    clients: tuple[int, ...] = (1, 8, 64),
    seconds: float = 5.0,
    backend: str = "auto",
    progress: ProgressBar,
) -> list[dict[str, Any]]:
    """Measures the server.

    Args:
        name: A name of the model table; its weights are random.
        clients: How many ask at once.
        seconds: How long each measurement lasts.
        backend: What answers, as `serve.py` takes it.
        progress: Takes a step a measurement.

    Returns:
        One row a contestant and number of clients: `contestant`, `backend`, `clients`, `images_per_second`, `p50_ms`,
        `p99_ms`, `requests`, `wrong`, `lost`; `runtime_ms`, the median call of the file with one image and no server;
        `overhead_ms`, what one client waits beyond that; and `speedup` over the plain handler.

    Raises:
        UserError: A server did not start.
    """
    model, preprocessing = random_network(name)
    measured: dict[tuple[str, int], tuple[str, Answers]] = {}
    bare = 0.0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / name
        write_saved_model(model, preprocessing, place / "1")
        labels = tuple(str(number) for number in range(model.outputs[0].shape[-1]))
        contents = convert(serving_network(model, preprocessing), "float32")
        (place / "float32.tflite").write_bytes(add_metadata(contents, preprocessing, labels, name=name))
        save_model(model, place / "model.keras", preprocessing)
        files, expected = _images(place / "float32.tflite", preprocessing)
        contestants = _contestants(place, preprocessing, backend)
        progress.begin("servers over the loopback", len(contestants) * len(clients), "measurements")
        for contestant in contestants:
            requests = [_request(contestant, file) for file in files]
            with _running(contestant) as (port, told):
                chosen = next((line.split()[3] for line in told if "<- serves" in line), "keras")
                for count in clients:
                    asyncio.run(_load(port, requests, expected, count, min(_WARMUP_SECONDS, seconds)))
                    answers = asyncio.run(_load(port, requests, expected, count, seconds))
                    measured[contestant.name, count] = chosen, answers
                    progress.step()
            if contestant.name == BATCHED:
                bare = _bare_milliseconds(place / ("1" if chosen == "saved_model" else f"{chosen}.tflite"))
    progress.end()
    return [{"model": name, **row} for row in _rows(measured, bare)]


def _contestants(place: Path, preprocessing: Preprocessing, backend: str) -> list[Contestant]:
    def as_json(file: bytes) -> bytes:
        instances = [{"b64": base64.b64encode(file).decode()}]
        return json.dumps({"signature_name": "serve_bytes", "instances": instances}).encode()

    python = [sys.executable, "-m"]
    serve = [*python, "keras_resnet", "serve", os.fspath(place), "--port", "0", "--backend", backend]
    path = f"/v1/models/{place.name}:predict"
    environment = {
        "MODEL": os.fspath(place / "model.keras"),
        "MEAN": ",".join(map(str, preprocessing.mean)),
        "STD": ",".join(map(str, preprocessing.std)),
    }
    plain = [*python, "uvicorn", "keras_resnet.benchmarks.plain_server:app", "--port", "0", "--no-access-log"]
    return [
        Contestant(BATCHED, serve, {}, path, as_json),
        Contestant(ONE_BY_ONE, [*serve, "--batch-size", "1"], {}, path, as_json),
        Contestant(PLAIN, plain, environment, "/predict", lambda file: file),
    ]


def _images(file: Path, preprocessing: Preprocessing) -> tuple[list[bytes], np.ndarray]:
    """PNG files at the network's size, and their probabilities, float32 [files, classes]."""
    random = np.random.default_rng(0)
    size = (preprocessing.width, preprocessing.height)
    coarse = random.integers(0, 256, (IMAGES, 4, 4, 3)).astype(np.uint8)
    pictures = [Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC) for pixels in coarse]
    files = []
    for picture in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        files.append(buffer.getvalue())
    images = np.stack([np.asarray(picture, np.float32) for picture in pictures])
    expected = load_artifact(file).probabilities(images)
    apart = np.abs(expected[:, None] - expected[None]).max(axis=-1) + np.eye(IMAGES)
    if apart.min() <= 2 * TOLERANCE:
        raise UserError("Two images have nearly the same answer: nobody could see if they were mixed up.")
    return files, expected


def _request(contestant: Contestant, file: bytes) -> bytes:
    body = contestant.body(file)
    head = f"POST {contestant.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextlib.contextmanager
def _running(contestant: Contestant) -> Iterator[tuple[int, list[str]]]:
    """Runs a server; yields its port and what it said."""
    usual = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1"}
    environment = {**os.environ, **usual, **contestant.environment}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            contestant.command, cwd=_ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            until = time.monotonic() + _START_SECONDS
            while True:
                output.seek(0)
                text = output.read()
                if found := re.search(r"on http://127\.0\.0\.1:(\d+)", text):
                    break
                if process.poll() is not None or time.monotonic() > until:
                    raise UserError(f"{contestant.name} did not start: {text.strip()[-500:] or 'it said nothing'}")
                time.sleep(0.05)
            yield int(found[1]), text.splitlines()
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _load(port: int, requests: list[bytes], expected: np.ndarray, clients: int, seconds: float) -> Answers:
    answers, began = Answers(), time.perf_counter()
    until = began + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        index = number
        while time.perf_counter() < until:
            index = (index + clients) % len(requests)
            sent = time.perf_counter()
            try:
                writer.write(requests[index])
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head.lower())
                body = json.loads(await reader.readexactly(int(length[1])))
            except (OSError, EOFError, ValueError):
                answers.lost += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            answers.seconds.append(time.perf_counter() - sent)
            found = body.get("probabilities") or body.get("predictions", [{}])[0].get("probabilities")
            if found is None or np.abs(np.array(found) - expected[index]).max() > TOLERANCE:
                answers.wrong += 1
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    answers.took = time.perf_counter() - began
    return answers


def _bare_milliseconds(file: Path) -> float:
    """The median call of a file with one image, in this process and without a server."""
    artifact = load_artifact(file)
    height, width, channels = (getattr(artifact.preprocessing, name) for name in ("height", "width", "channels"))
    image = np.random.default_rng(0).uniform(0, 255, (1, height, width, channels)).astype(np.float32)
    took = []
    for _ in range(120):
        began = time.perf_counter()
        artifact.answer(image)
        took.append(time.perf_counter() - began)
    return 1e3 * float(np.median(took[20:]))


def _rows(measured: dict[tuple[str, int], tuple[str, Answers]], bare: float) -> Iterator[dict[str, Any]]:
    rates = {key: len(answers.seconds) / answers.took for key, (_, answers) in measured.items()}
    for (contestant, count), (chosen, answers) in measured.items():
        p50, p99 = 1e3 * np.percentile(answers.seconds, [50, 99])
        yield {
            "contestant": contestant,
            "backend": chosen,
            "clients": count,
            "images_per_second": round(rates[contestant, count], 1),
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
            "requests": len(answers.seconds),
            "wrong": answers.wrong,
            "lost": answers.lost,
            "runtime_ms": round(bare, 2),
            "overhead_ms": round(float(p50) - bare, 2) if count == 1 else "",
            "speedup": round(rates[contestant, count] / rates[PLAIN, count], 2),
        }
