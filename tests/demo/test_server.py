"""The page's server: this machine alone, the headers that threads need, and files as browsers want them."""

import gzip
import http.client
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keras_resnet.demo.server import open_server
from keras_resnet.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address(served, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<p>page</p>")
    (folder / "x.wasm").write_bytes(b"wasm" * 100)
    (folder / "x.wasm.gz").write_bytes(gzip.compress(b"wasm" * 100))
    (folder / "inner").mkdir()
    (folder.parent / "secret.txt").write_text("secret")
    with served(folder) as address:
        yield address.removeprefix("http://").rstrip("/")


def get(address, path, method="GET", **headers):
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    contents = answer.read()
    connection.close()
    return answer, contents


def test_it_listens_on_this_machine_alone(tmp_path):
    with open_server(tmp_path, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(UserError, match=r"Port \d+ cannot be opened.*--port"):
            open_server(tmp_path, server.server_address[1])
    with pytest.raises(UserError, match="Port 99999999 cannot be opened"):
        open_server(tmp_path, 99_999_999)


def test_every_answer_lets_the_page_use_threads(address):
    for path in ("/", "/x.wasm", "/none"):
        answer, _ = get(address, path)
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_what_lies_there_compressed_is_sent_so(address):
    answer, contents = get(address, "/x.wasm", **{"Accept-Encoding": "gzip, br"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Type"] == "application/wasm"
    assert gzip.decompress(contents) == b"wasm" * 100
    answer, contents = get(address, "/x.wasm")
    assert answer.headers["Content-Encoding"] is None
    assert contents == b"wasm" * 100
    answer, contents = get(address, "/x.wasm", "HEAD", **{"Accept-Encoding": "gzip"})
    assert (answer.status, contents) == (200, b"")


@pytest.mark.parametrize("path", ["/../secret.txt", "/%2e%2e/secret.txt", "/inner/", "/none", "//secret.txt"])
def test_nothing_else_is_answered(address, path):
    answer, contents = get(address, path)
    assert answer.status == 404
    assert b"secret" not in contents.replace(b"secret.txt", b"")


def test_a_foreign_name_for_this_machine_is_refused(address):
    answer, _ = get(address, "/", Host="elsewhere.example")
    assert answer.status == 403
    assert get(address, "/", Host="localhost")[0].status == 200


def test_the_script_serves_until_it_is_interrupted(exported, runtime, tmp_path):
    command = [sys.executable, "demo.py", str(exported), "--output", str(tmp_path / "demo"), "--serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    written = json.loads(process.stdout.readline())
    answer, contents = get(written["address"].removeprefix("http://").rstrip("/"), "/demo.json")
    assert answer.status == 200
    assert [file["name"] for file in json.loads(contents)["files"]] == written["files"]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.endswith("\nInterrupted.\n")
