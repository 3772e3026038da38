"""The server as users run it: a process that is asked over sockets, told to stop, killed and started again."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from keras_resnet.server import process
from keras_resnet.server.settings import ServerSettings

TFLITE = ("--backend", "tflite")


@pytest.fixture
def lite(flowers, tmp_path):
    """An export of .tflite files alone, which starts without TensorFlow."""
    folder = tmp_path / "flowers"
    folder.mkdir()
    shutil.copy(flowers / "float32.tflite", folder)
    return folder


@pytest.fixture(scope="module")
def shared(flowers, plain, start_server):
    """One server for the tests that leave it as it is."""
    with start_server(
        f"flowers={flowers / 'float32.tflite'}", plain, *TFLITE, "--deadline", "2", "--max-body-mb", "0.5"
    ) as server:
        yield server


def fetch(url, data=None, headers=None):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never past this machine
    with opener.open(urllib.request.Request(url, data, headers or {}), timeout=20) as answer:
        return answer.status, answer.read()


def raw(port, *pieces, pause=0.0, timeout=10):
    """Sends bytes as they are; returns what comes until the server closes or falls silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        found = b""
        with contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            while data := connection.recv(65536):
                found += data
        return found


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_it_says_what_it_serves_and_how_fast_it_was(shared):
    lines = "\n".join(shared.lines)
    assert "flowers, version 1: float32" in lines
    assert "ms an image alone" in lines
    assert "<- serves" in lines
    assert shared.lines[-1] == f"serving on http://127.0.0.1:{shared.port}"


def test_many_clients_get_their_own_answers(shared, load, pictures, expected):
    with load(shared.port, pictures, expected, clients=16) as clients:
        time.sleep(1.5)
    assert clients.wrong == []
    assert clients.lost == []
    assert clients.answered > 50
    _, text = fetch(f"{shared.url}/metrics")
    sizes = [line for line in text.decode().splitlines() if line.startswith("keras_resnet_batch_size_count")]
    batches = next(float(line.split()[-1]) for line in sizes if 'model="flowers"' in line)
    assert batches < clients.answered  # some of them were computed together


def test_clients_that_are_slow_or_silent_hold_up_nobody(shared, pictures):
    head = b"POST /v1/models/flowers:classify HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"
    found = {}

    def slow():
        found["slow"] = raw(shared.port, head, *[b"x"] * 5, pause=0.1)

    def silent():
        found["silent"] = raw(shared.port, b"POST /v1/models/flowers:classify HTTP/1.1\r\nHost", timeout=1)

    threads = [threading.Thread(target=slow), threading.Thread(target=silent)]
    for thread in threads:
        thread.start()
    for picture in pictures[:10]:
        began = time.monotonic()
        assert fetch(f"{shared.url}/v1/models/flowers:classify", picture)[0] == 200
        assert time.monotonic() - began < 2
    for thread in threads:
        thread.join(timeout=20)
    assert found["slow"].startswith(b"HTTP/1.1 408")
    assert b"could not be received within 2 s" in found["slow"]
    assert found["silent"] == b""


def test_the_head_of_a_request_has_its_time(flowers, monkeypatch):
    """In this process, because the time is long and not a setting."""
    monkeypatch.setattr(process, "HEAD_SECONDS", 0.3)
    port, stop = serve_here(flowers, monkeypatch)
    try:
        for pieces in ((), (b"GET /healthz HTTP/1.1\r\nHost",), (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",)):
            began = time.monotonic()
            answer = raw(port, *pieces)  # until the server closes
            assert 0.2 < time.monotonic() - began < 5
            assert answer.startswith(b"HTTP/1.1 200") == (len(pieces) == 1 and pieces[0].endswith(b"\r\n\r\n"))
        assert raw(port, *[b"G"] * 9, pause=0.1) == b""  # a byte now and then is no head either
    finally:
        stop()


def serve_here(flowers, monkeypatch):
    """Runs `process.serve` in a thread; returns its port and what stops it."""
    lines, servers = [], []
    made = process._Server.__init__

    def remember(self, config):
        made(self, config)
        servers.append(self)

    monkeypatch.setattr(process._Server, "__init__", remember)
    settings = ServerSettings(models={"flowers": flowers / "float32.tflite"}, port=0, backend="tflite")
    thread = threading.Thread(target=process.serve, args=(settings,), kwargs={"tell": lines.append})
    thread.start()
    wait_until(lambda: servers and servers[0].started)

    def stop():
        servers[0].should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()

    return int(lines[-1].rpartition(":")[2]), stop


def test_an_answer_is_sent_at_once(shared, pictures):
    """Head and body are two pieces: held back until the first is confirmed, each answer takes 40 ms longer."""
    took = []
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as connection:
        for _ in range(20):
            began = time.monotonic()
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            found = b""
            while not found.endswith(b"}"):
                found += connection.recv(65536)
            took.append(time.monotonic() - began)
    assert min(took) < 0.03  # the quickest of many: whatever else this machine does


@pytest.mark.parametrize(
    "pieces",
    [
        (b"nonsense\r\n\r\n",),
        (b"POST /v1/models/flowers:classify HTTP/1.1\r\nContent-Length: x\r\n\r\n",),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",),
        (b"GET / HTTP/1.1\r\nHost: x\r\nLong: " + b"x" * 200_000 + b"\r\n\r\n",),
        (b"POST /v1/models/flowers:classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",),  # a browser that tries https
    ],
)
def test_what_is_no_http_is_refused_and_forgotten(shared, pieces):
    answer = raw(shared.port, *pieces, timeout=4)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    assert fetch(f"{shared.url}/readyz")[0] == 200


def test_a_body_that_ends_early_is_forgotten(shared):
    head = b"POST /v1/models/flowers:classify HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", shared.port)) as connection:
            connection.sendall(head + b"half")
    wait_until(lambda: b"keras_resnet_requests_in_progress 0.0" in fetch(f"{shared.url}/metrics")[1])
    assert "Traceback" not in shared.error_text()


def test_a_body_without_end_is_cut_off(shared):
    head = b"POST /v1/models/flowers:classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    assert raw(shared.port, head, *[chunk] * 12, timeout=3).startswith(b"HTTP/1.1 413")


def test_sigterm_under_load_loses_nothing(lite, start_server, load, pictures, expected):
    with start_server(lite, *TFLITE) as server:
        with load(server.port, pictures, expected, clients=12) as clients:
            time.sleep(1.0)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=30) == 0
        assert clients.wrong == []
        assert clients.lost == []
        assert clients.answered > 30
        assert "Traceback" not in server.error_text()


def test_who_reaches_the_queue_in_the_last_moment_is_answered(flowers, monkeypatch):
    """A connection that waits in the kernel's queue when the socket closes would be reset."""
    accept, late = process._accept_waiting, []

    def connect_and_accept(listener):  # where asyncio has looked for the last time and the socket is still open
        connection = socket.create_connection(listener.getsockname(), timeout=10)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        late.append(connection)
        return accept(listener)

    monkeypatch.setattr(process, "_accept_waiting", connect_and_accept)
    _, stop = serve_here(flowers, monkeypatch)
    stop()
    with late[0] as connection:
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer.lower()


def test_a_request_that_is_being_sent_at_sigterm_is_answered(lite, start_server, pictures):
    with start_server(lite, *TFLITE) as server:
        head = f"POST /v1/models/flowers:classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(pictures[0])}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(head.encode() + pictures[0][:50])
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(1.0)
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", server.port), timeout=5)
            connection.sendall(pictures[0][50:])
            answer = b""
            while data := connection.recv(65536):
                answer += data
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer.lower()
        assert server.process.wait(timeout=30) == 0


def test_after_a_kill_it_starts_again_on_its_port(lite, start_server, load, pictures, expected):
    with start_server(lite, *TFLITE) as server, load(server.port, pictures, expected, clients=4):
        time.sleep(0.5)
        server.process.kill()
        server.process.wait(timeout=20)
    with start_server(lite, *TFLITE, port=server.port) as again:
        assert again.port == server.port
        assert fetch(f"{again.url}/v1/models/flowers:classify", pictures[0])[0] == 200


def test_a_new_version_is_served_without_a_lost_request(lite, start_server, load, pictures, expected, tmp_path):
    second = tmp_path / "second"
    second.mkdir()
    shutil.copy(lite / "float32.tflite", second)
    with start_server(lite, *TFLITE, "--poll", "0.1", "--versions", "2") as server:

        def states():
            found = json.loads(fetch(f"{server.url}/v1/models/flowers")[1])["model_version_status"]
            return {int(entry["version"]): (entry["state"], entry["status"]["error_message"]) for entry in found}

        with load(server.port, pictures, expected, clients=8) as clients:
            # A broken version changes nothing, and says so.
            (lite / "2").mkdir()
            (lite / "2" / "float32.tflite").write_bytes(b"rubbish")
            wait_until(lambda: states().get(2, ("", ""))[0] == "END")
            assert "not a complete .tflite file" in states()[2][1]
            wait_until(lambda: clients.versions)  # on a busy machine the first answers come later than that
            assert clients.versions == {"1"}
            # It is mended in place.
            shutil.copy(second / "float32.tflite", lite / "2")
            wait_until(lambda: states()[2] == ("AVAILABLE", ""))
            wait_until(lambda: "2" in clients.versions)
            assert fetch(f"{server.url}/v1/models/flowers/versions/1:classify", pictures[0])[0] == 200
            # Two versions are kept.
            shutil.copytree(second, lite / "30")
            wait_until(lambda: states().get(30) == ("AVAILABLE", ""))
            wait_until(lambda: states()[1] == ("END", ""))
            # The newest is taken away again, and then everything: what is in memory goes on.
            shutil.rmtree(lite / "30")
            wait_until(lambda: states()[30] == ("END", ""))
            shutil.rmtree(lite)
            time.sleep(0.5)
            before = clients.answered
            wait_until(lambda: clients.answered > before)
        assert clients.wrong == []
        assert clients.lost == []
        assert clients.versions == {"1", "2", "30"}
        assert "Traceback" not in server.error_text()


WITHOUT_TENSORFLOW = """
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

MISSING = {"tensorflow", "keras", "tqdm", "jinja2", "matplotlib", "scipy", "yaml", "h5py", "flatbuffers", "sklearn"}
sys.meta_path.insert(0, Missing())
sys.argv = ["serve.py", *sys.argv[1:]]
runpy.run_path("serve.py", run_name="__main__")
"""


@pytest.mark.parametrize("backend", ["tflite", "auto"])
def test_tflite_files_are_served_where_tensorflow_is_not_installed(flowers, start_server, pictures, expected, backend):
    """`flowers` holds a SavedModel as well, which then cannot be served."""

    with start_server(flowers, "--backend", backend, program=("-c", WITHOUT_TENSORFLOW)) as server:
        found = json.loads(fetch(f"{server.url}/v1/models/flowers:classify", pictures[0])[1])
        assert found["predictions"][0]["probability"] == pytest.approx(float(expected[0].max()), abs=1e-5)
        picture = fetch(f"{server.url}/v1/models/flowers:explain", pictures[0], {"Accept": "image/png"})[1]
        assert picture.startswith(b"\x89PNG")
        if backend == "auto":
            assert "needs tensorflow: pip install tensorflow" in "\n".join(server.lines)


def test_a_saved_model_is_served_beside_them(flowers, start_server, pictures, expected):
    with start_server(flowers) as server:
        told = "\n".join(server.lines)
        assert "version 1: saved_model" in told
        assert "version 1: float32" in told
        assert told.count("<- serves") == 1
        found = json.loads(fetch(f"{server.url}/v1/models/flowers:classify", pictures[0])[1])
        assert found["predictions"][0]["probability"] == pytest.approx(float(expected[0].max()), abs=1e-4)


@pytest.mark.slow
def test_the_api_is_what_its_document_says(shared, tmp_path):
    """Schemathesis makes up requests, good and bad ones; none may end in a mistake of ours, or hang."""
    pytest.importorskip("schemathesis")
    program = Path(sys.executable).with_name("schemathesis")
    command = [program, "run", f"{shared.url}/openapi.json", "--max-examples", "15"]
    command += ["--request-timeout", "10", "--seed", "1", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "Traceback" not in shared.error_text()
    assert fetch(f"{shared.url}/readyz")[0] == 200
