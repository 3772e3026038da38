"""Does what the Dockerfile says without Docker: copies, installs, starts the server, asks it, and stops it.

    PYTHONPATH=. python tests/run_container.py MODELS IMAGE

MODELS is what would be mounted as /models, a folder of exports or one of them; IMAGE is a picture for the first model.
Needs a package index, takes half a minute, and writes to a temporary folder alone. Exits with 1 unless the server
starts in an environment without TensorFlow and Keras, is healthy, answers, and ends well at the Dockerfile's signal.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_SECONDS = 60


def read_steps() -> list[tuple[str, str]]:
    """Returns (instruction, rest) of each step of the Dockerfile, lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest) for name, rest in (line.split(maxsplit=1) for line in lines)]


def words(rest: str) -> list[str]:
    """Returns the strings of a list in a step."""
    return re.findall(r'"([^"]*)"', rest)


def build(app: Path, bin_folder: Path) -> None:
    """Runs the steps COPY and RUN."""
    for name, rest in read_steps():
        if name == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, app / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, app / target)
        elif name == "RUN":
            program, *arguments = shlex.split(rest)
            quiet = {**os.environ, "PIP_QUIET": "1"}
            subprocess.run([bin_folder / program, *arguments], cwd=app, env=quiet, check=True)


def main(models: Path, image: Path) -> None:
    """Builds, starts, asks and stops."""
    found = dict(read_steps())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # This machine alone, on a port that is free; the paths of the image are those of this machine.
    places = {"0.0.0.0": "127.0.0.1", found["EXPOSE"]: port, "/models": os.fspath(models.resolve())}
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "app"
        app.mkdir()
        subprocess.run([sys.executable, "-m", "venv", Path(folder) / "venv"], check=True)
        bin_folder = Path(folder) / "venv" / "bin"
        build(app, bin_folder)
        python = bin_folder / "python"
        for package in ("tensorflow", "keras"):
            assert subprocess.run([python, "-c", f"import {package}"], capture_output=True).returncode, package
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink())
        print(f"without TensorFlow and Keras, {size / 1e6:.0f} MB beside Python itself")
        command = [places.get(word, word) for word in words(found["ENTRYPOINT"]) + words(found["CMD"])]
        server = subprocess.Popen([python, *command[1:]], cwd=app)
        try:
            check = words(found["HEALTHCHECK"])
            health = [python, *(word.replace(found["EXPOSE"], port) for word in check[1:])]
            until = time.monotonic() + START_SECONDS
            while subprocess.run(health, capture_output=True).returncode:
                assert server.poll() is None, "it has ended"
                assert time.monotonic() < until, "it does not become healthy"
                time.sleep(0.2)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never past this machine
            name = re.search(r'model="([^"]+)"', opener.open(f"http://127.0.0.1:{port}/metrics").read().decode()).group(
                1
            )
            url = f"http://127.0.0.1:{port}/v1/models/{name}:classify?top=1"
            print(json.loads(opener.open(url, image.read_bytes()).read())["predictions"][0])
            server.send_signal(getattr(signal, found["STOPSIGNAL"]))
            assert server.wait(timeout=30) == 0
            print(f"healthy, answered, and ended at {found['STOPSIGNAL']}")
        finally:
            server.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
