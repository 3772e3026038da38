import json
import os
import re
import shutil
import subprocess
import urllib.request

import keras
import numpy as np
import pytest


@pytest.fixture(scope="module", autouse=True)
def seeded():
    """Fresh networks draw the same weights in every run, whatever ran in this process before."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def one_core(monkeypatch):
    """For exports whose ledger is not looked at: on one core every artifact is started once, not twice."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


@pytest.fixture
def zero_kernels(monkeypatch):
    """Fresh kernels are zeros, where only their number counts or others follow: drawing them takes longest."""
    monkeypatch.setattr(
        keras.initializers.VarianceScaling, "__call__", lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype)
    )


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A data set of three easy classes, 8 × 8 pixels, as `load_source` names it."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"

    def draw(count):
        labels = np.arange(count) % 3
        images = random.integers(0, 60, (count, 8, 8, 1))
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label : 2 * label + 3] += 150
        return images.astype("uint8"), labels

    x_train, y_train = draw(110)
    x_test, y_test = draw(31)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return f"npz:{path}"


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
        wanted = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self.address += f"/{session['sessionId']}"

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never past this machine
        with opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def run(self, script):
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def problems(self, file):
        """Opens a page; returns its console messages, broken images and what it asked of a network."""
        self.ask("POST", "/url", {"url": file.as_uri()})
        console = [entry["message"] for entry in self.ask("POST", "/se/log", {"type": "browser"})]
        broken = self.run(
            "return [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt || i.src)"
        )
        asked = self.run(
            "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
        )
        return console + broken + asked

    def problems_at(self, file, width):
        """What `problems` finds in a window of a width, and what is wider than the window."""
        # A window itself is at least 500 pixels wide.
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
        self.ask("POST", "/goog/cdp/execute", command)
        try:
            found = self.problems(file)
            wide = self.run("return document.documentElement.scrollWidth")
            return found + ([f"{wide} pixels wide in a window of {width}"] if wide > width else [])
        finally:
            self.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.clearDeviceMetricsOverride", "params": {}})

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
