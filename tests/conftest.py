import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request

import numpy as np
import pytest
from tiny_data import write_tiny_data

import keras_resnet  # noqa: F401

if importlib.util.find_spec("triton"):
    # PyTorch imports it with its first optimizer. After TensorFlow 2.21 that ends the process (triton 3.7.1: each has
    # its own LLVM); before it, it does no harm.
    importlib.import_module("triton")
# Behind the package, which chooses TensorFlow's kernels before Keras loads it: tests compute as the scripts do.
keras = importlib.import_module("keras")


# Where modules take minutes.
LONG = {"training", "weights", "test_documentation.py"}


def pytest_collection_modifyitems(items):
    """Long modules come first: of two processes, one would wait for the other that has them last."""
    items.sort(key=lambda item: LONG.isdisjoint(item.path.parts))


@pytest.fixture(scope="module", autouse=True)
def seeded():
    """Fresh networks draw the same weights in every run, whatever ran in this process before."""
    keras.utils.set_random_seed(0)


def _untimed():
    """For exports whose times are not looked at: every artifact is started once, and the source never."""
    from keras_resnet.export import ledger

    run_artifact = ledger.run_artifact

    def run(name, *arguments, **options):
        if name == "source" and options["count"] == 0:
            return {"latencies": np.ones(1), "peak_bytes": np.int64(0)}
        return run_artifact(name, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        patch.setattr(ledger, "run_artifact", run)
        yield


untimed = pytest.fixture(_untimed, name="untimed")
untimed_module = pytest.fixture(_untimed, scope="module", name="untimed_module")


def _zero_kernels():
    """Fresh kernels are zeros, where only their number counts or others follow: drawing them takes longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            keras.initializers.VarianceScaling,
            "__call__",
            lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype),
        )
        yield


zero_kernels = pytest.fixture(_zero_kernels, name="zero_kernels")
zero_kernels_module = pytest.fixture(_zero_kernels, scope="module", name="zero_kernels_module")


def _bare_runs():
    """Trainings end without page and export, where nobody looks at them: they take longer than a few steps."""
    from keras_resnet.training import trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_export", lambda *arguments: None)
        patch.setattr(trainer, "report_if_possible", lambda *arguments, **options: None)
        yield


bare_runs = pytest.fixture(_bare_runs, name="bare_runs")
bare_runs_module = pytest.fixture(_bare_runs, scope="module", name="bare_runs_module")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A data set of three easy classes, 8 × 8 pixels, as `load_source` names it."""
    return write_tiny_data(tmp_path_factory.mktemp("data") / "tiny.npz")


class Browser:
    """Headless Chromium, spoken to with the WebDriver protocol. `apt-get install chromium chromium-driver`"""

    def __init__(self):
        driver = shutil.which("chromedriver")
        if not driver or not shutil.which("chromium"):
            # A user's machine may do without a browser; the check installs one, and must not lose this test unseen.
            miss = pytest.fail if os.environ.get("CI") else pytest.skip
            miss("Tests of pages need a browser: apt-get install chromium chromium-driver")
        self.process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for line in self.process.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                break
        self.address = f"http://127.0.0.1:{found[1]}/session"
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1600"]
        arguments.append("--use-fake-device-for-media-stream")  # a camera, for the pages that ask for one
        wanted = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self.address += f"/{session['sessionId']}"

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never past this machine
        with opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def run(self, script, *arguments):
        return self.ask("POST", "/execute/sync", {"script": script, "args": arguments})

    def wait(self, script, *arguments):
        """Returns what a script returns, once that is true; half a minute is the most."""
        end = time.monotonic() + 30
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < end, script
            time.sleep(0.05)
        return found

    def send(self, selector, text):
        """Types into an element; into one that takes files, their paths, one a line."""
        found = self.ask("POST", "/element", {"using": "css selector", "value": selector})
        (element,) = found.values()
        self.ask("POST", f"/element/{element}/value", {"text": text})

    def chrome(self, command, **parameters):
        """Sends a command of the DevTools protocol."""
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def problems(self, page):
        """Opens a page (a file, or an address); returns console messages, broken images, what it asked of others."""
        address = page if isinstance(page, str) else page.as_uri()
        self.ask("POST", "/url", {"url": address})
        console = [entry["message"] for entry in self.ask("POST", "/se/log", {"type": "browser"})]
        broken = self.run(
            "return [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt || i.src)"
        )
        asked = self.run(
            "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
        )
        if isinstance(page, str):
            asked = [name for name in asked if not name.startswith(address)]
        return console + broken + asked

    def problems_at(self, page, width):
        """What `problems` finds in a window of a width, and what is wider than the window."""
        # A window itself is at least 500 pixels wide.
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.chrome("Emulation.setDeviceMetricsOverride", **metrics)
        try:
            found = self.problems(page)
            wide = self.run("return document.documentElement.scrollWidth")
            return found + ([f"{wide} pixels wide in a window of {width}"] if wide > width else [])
        finally:
            self.chrome("Emulation.clearDeviceMetricsOverride")

    def close(self):
        try:
            self.ask("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait(timeout=20)


@pytest.fixture(scope="session")
def browser():
    browser = Browser()
    yield browser
    browser.close()
