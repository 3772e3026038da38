import asyncio
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_resnet.data.preprocessing import Preprocessing

pytest.importorskip("fastapi")

ROOT = Path(__file__).resolve().parents[2]
LABELS = ("red", "green", "blue", "größer")


@pytest.fixture(scope="session")
def preprocessing():
    return Preprocessing(
        16,
        20,
        3,
        (0.5, 0.4, 0.3),
        (0.2, 0.3, 0.4),
        color_order="bgr",
        resize="crop",
        crop_fraction=0.8,
        labels=LABELS,
    )


@pytest.fixture(scope="session")
def network(preprocessing):
    import keras

    from keras_resnet.models.resnet import build_model

    keras.utils.set_random_seed(1)
    return build_model("resnet8", num_classes=len(LABELS), input_shape=(16, 20, 3))


@pytest.fixture(scope="session")
def flowers(network, preprocessing, tmp_path_factory):
    """An export as `export.py` writes it: a SavedModel, and a .tflite file that draws the heat map of any class."""
    from keras_resnet.export.saved_model import export_saved_model
    from keras_resnet.export.serving import serving_network
    from keras_resnet.export.tflite import convert
    from keras_resnet.export.tflite_metadata import add_metadata

    folder = tmp_path_factory.mktemp("exports") / "flowers"
    export_saved_model(network, preprocessing, folder)
    contents = convert(serving_network(network, preprocessing, heatmap="input"), "float32")
    (folder / "float32.tflite").write_bytes(add_metadata(contents, preprocessing, LABELS, name="flowers"))
    return folder


@pytest.fixture(scope="session")
def plain(network, preprocessing, tmp_path_factory):
    """A .tflite file of an open batch, without a heat map."""
    from keras_resnet.export.serving import serving_network
    from keras_resnet.export.tflite import convert
    from keras_resnet.export.tflite_metadata import add_metadata

    file = tmp_path_factory.mktemp("files") / "plain.tflite"
    contents = convert(serving_network(network, preprocessing), "float32", batch=None)
    file.write_bytes(add_metadata(contents, preprocessing, LABELS, name="plain"))
    return file


@pytest.fixture(scope="session")
def pictures():
    """24 image files that differ, as PNG: without loss, so that their answers are known."""
    files = []
    for seed in range(24):
        coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((50, 40), Image.Resampling.NEAREST).save(file, "PNG")
        files.append(file.getvalue())
    return files


@pytest.fixture(scope="session")
def expected(flowers, pictures):
    """The probabilities of each picture, float32 [24, classes], by the file alone."""
    from keras_resnet.artifact import load_artifact
    from keras_resnet.data.images import decode_with_pillow, resize_with_pillow

    artifact = load_artifact(flowers / "float32.tflite")
    images = [decode_with_pillow(file, 3, name="picture") for file in pictures]
    found = artifact.probabilities(np.stack([resize_with_pillow(image, artifact.preprocessing) for image in images]))
    apart = np.abs(found[:, None] - found[None]).max(axis=-1) + np.eye(len(found))
    assert apart.min() > 1e-3  # each has an answer of its own
    return found


def start(*arguments, port=0, program=("serve.py",), environment=None):
    """`serve.py`, or another program that does the same, in a process of its own; port 0: a free one."""
    command = [sys.executable, *program, *map(os.fspath, arguments), "--port", str(port)]
    return Server(command, environment)


class Server:
    def __init__(self, command, environment):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the server)
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **(environment or {})},
        )
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if found := re.search(r"serving on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            self.process.wait(timeout=20)
            raise AssertionError(f"the server did not start: {self.error_text()}")
        # What it prints from here on must not fill the pipe.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.port}"

    def error_text(self):
        self.errors.seek(0)
        return self.errors.read()

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=20)


@pytest.fixture(scope="session")
def start_server():
    return start


@pytest.fixture(scope="session")
def load():
    return Load


class Load:
    """Clients that ask without a pause, each over a connection that it keeps, until they are told to stop.

    Attributes:
        answered: How many answers were right.
        wrong: What came instead of a right answer.
        lost: Requests that were sent over a fresh connection, and got no answer.
    """

    def __init__(self, port, pictures, expected, *, clients, path="/v1/models/flowers:classify?top=4"):
        self.port, self.pictures, self.expected, self.path, self.clients = port, pictures, expected, path, clients
        self.answered, self.wrong, self.lost, self.versions = 0, [], [], set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *problem):
        self._stop.set()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()

    async def _run(self):
        await asyncio.gather(*(self._client(number) for number in range(self.clients)))

    async def _client(self, number):
        streams, turn = None, 0
        while not self._stop.is_set():
            index = (number + turn * self.clients) % len(self.pictures)
            turn += 1
            is_fresh = streams is None
            try:
                streams = streams or await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:  # it listens no longer
                return
            try:
                status, body, stays = await self._ask(streams, self.pictures[index])
            except (OSError, EOFError, ValueError) as error:
                # A connection that was kept may be closed while it is idle: HTTP lets a client ask again.
                if is_fresh:
                    self.lost.append(repr(error))
                streams = None
                continue
            self._check(index, status, body)
            if not stays:
                streams[1].close()
                streams = None

    async def _ask(self, streams, picture):
        reader, writer = streams
        head = f"POST {self.path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(picture)}\r\n\r\n"
        writer.write(head.encode() + picture)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(int(re.search(r"content-length: (\d+)", head)[1]))
        return int(head.split()[1]), body, "connection: close" not in head

    def _check(self, index, status, body):
        found = json.loads(body)
        if status != 200:
            self.wrong.append((status, found))
            return
        self.versions.add(found["version"])
        by_label = {entry["label"]: entry["probability"] for entry in found["predictions"]}
        if np.abs(np.array([by_label[label] for label in LABELS]) - self.expected[index]).max() > 1e-5:
            self.wrong.append((index, found))
        else:
            self.answered += 1
