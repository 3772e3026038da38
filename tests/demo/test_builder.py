"""What is written, what a browser loads of it, and what is refused."""

import dataclasses
import functools
import gzip
import json
import shutil
import subprocess

import numpy as np
import pytest

from keras_resnet.cli import main
from keras_resnet.cli.demo import main as demo_script
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.demo import runtime as litert
from keras_resnet.demo.builder import build_demo
from keras_resnet.demo.bundling import bundle
from keras_resnet.demo.model_files import MAX_MODEL_BYTES, browser_problem, find_model_files, read_model_file
from keras_resnet.errors import UserError
from keras_resnet.export.serving import serving_network
from keras_resnet.export.tflite import convert
from keras_resnet.export.tflite_metadata import add_metadata
from keras_resnet.models.resnet import build_model

PREPROCESSING = Preprocessing(8, 8, 1, (0.5,), (0.25,), labels=("a", "b", "c"))


@pytest.fixture(scope="module")
def tiny():
    return build_model("resnet8", num_classes=3, input_shape=(8, 8, 1))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny"
    path.mkdir()
    (path / "preprocessing.json").write_text(json.dumps(PREPROCESSING.to_dict()))
    return path


@pytest.fixture(scope="module")
def write(tiny):
    """Writes a file of the tiny network into a folder, each kind converted once."""
    calibration = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype(np.float32)

    @functools.cache
    def converted(name, heatmap, **options):
        network = serving_network(tiny, PREPROCESSING, heatmap=heatmap)
        contents = convert(network, name, calibration=calibration, **options)
        return add_metadata(contents, PREPROCESSING, PREPROCESSING.labels, name="tiny")

    def write(folder, name, *, heatmap="none", **options):
        path = folder / f"{name}.tflite"
        path.write_bytes(converted(name, heatmap, **options))
        return path

    return write


def test_the_page_holds_what_a_browser_needs_and_no_more(exported, runtime, tmp_path):
    demo = build_demo(exported, tmp_path / "demo")
    assert demo.files == ("float32", "int8")
    assert demo.page == tmp_path / "demo" / "index.html"
    # Ten megabytes, three compressed: what a visitor waits for beside the model.
    assert demo.loaded_bytes < 10e6
    assert demo.compressed_bytes < 3e6
    for path in (tmp_path / "demo").rglob("*.gz"):
        assert gzip.decompress(path.read_bytes()) == path.with_suffix("").read_bytes()
    for name in demo.files:
        assert (tmp_path / "demo" / f"{name}.tflite").read_bytes() == (exported / f"{name}.tflite").read_bytes()
    manifest = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert manifest["labels"] == (exported / "labels.txt").read_text().splitlines()
    (int8,) = (file for file in manifest["files"] if file["name"] == "int8")
    assert int8["inputs"]["images"] == {"dtype": "uint8", "shape": [1, 40, 56, 3], "scale": 1.0, "zero_point": 0}
    assert int8["inputs"]["target"]["dtype"] == "int32"
    licences = (tmp_path / "demo" / "LICENSES.txt").read_text()
    assert "Apache License" in licences
    assert "XNNPACK" in licences
    page = demo.page.read_text(encoding="utf-8")
    ledger = json.loads((exported / "parity.json").read_text())
    assert ledger["hardware"] in page
    assert "int8 is beyond its limits and was kept all the same: agreement 96.0 % &lt;98 %&gt;." in page


def test_the_same_export_gives_the_same_page(exported, runtime, tmp_path):
    for name in ("a.html", "b.html"):
        build_demo(exported, tmp_path / name, is_single=True)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_an_older_page_is_replaced_and_nothing_else(exported, runtime, tmp_path):
    for place, is_single in ((tmp_path / "demo", False), (tmp_path / "demo.html", True)):
        build_demo(exported, place, names=["float32"], is_single=is_single)
        assert build_demo(exported, place, names=["int8"], is_single=is_single).files == ("int8",)
    assert not (tmp_path / "demo" / "float32.tflite").exists()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "mine.html").write_text("mine")
    for place, is_single in ((tmp_path / "notes", False), (tmp_path / "mine.html", True)):
        with pytest.raises(UserError, match=r"is no page of demo\.py"):
            build_demo(exported, place, is_single=is_single)
    assert (tmp_path / "notes" / "mine.txt").read_text() == (tmp_path / "mine.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "options", "reason", "flag"),
    [
        ("float32", {"batch": None}, "its batch is open", "--batch 1"),
        ("int8", {"io_type": "int8"}, "it takes and returns int8", "--io-type float32"),
    ],
)
def test_what_a_browser_cannot_run_is_said_with_the_command_that_helps(name, options, reason, flag, folder, write):
    write(folder, name, **options)
    with pytest.raises(UserError, match=reason) as raised:
        find_model_files(folder)
    command = f"python export.py runs/tiny --overwrite --with-heatmap input {flag}"
    assert str(raised.value).endswith(command)
    # One that runs is taken all the same, and the other one named.
    other = {"float32": "int8", "int8": "float32"}[name]
    write(folder, other)
    files, problems = find_model_files(folder)
    assert [file.name for file in files] == [other]
    assert len(problems) == 1
    with pytest.raises(UserError, match=reason):
        find_model_files(folder, (name,))


def test_which_files_are_taken(folder, write, tmp_path):
    with pytest.raises(UserError, match=r"no \.tflite file.*export\.py runs/tiny --overwrite --with-heatmap input"):
        find_model_files(folder)
    write(folder, "dynamic")
    with pytest.raises(UserError, match=r"is no export itself\. Name one that it holds: tiny\."):
        find_model_files(folder.parent)
    path = write(folder, "float16", heatmap="top")
    assert [file.name for file in find_model_files(folder)[0]] == ["float16"]
    assert [file.name for file in find_model_files(folder, ("dynamic", "float16"))[0]] == ["dynamic", "float16"]
    file = read_model_file(path, "float16")
    assert file.inputs.keys() == {"images"}
    assert file.outputs["heatmap"].shape == (1, 2, 2)
    with pytest.raises(UserError, match=r"holds no int8\.tflite\. It holds: float16, dynamic"):
        find_model_files(folder, ("int8",))
    with pytest.raises(UserError, match="Closest: 'float32'"):
        find_model_files(folder, ("flaot32",))
    with pytest.raises(UserError, match="There is no folder"):
        find_model_files(tmp_path / "none")
    (folder / "recipe.json").write_text("{}")
    with pytest.raises(UserError, match="is a run"):
        find_model_files(folder)


def test_damaged_foreign_and_huge_files_are_refused(folder, write):
    path = write(folder, "float32")
    file = read_model_file(path, "float32")
    assert browser_problem(file) is None
    images = dataclasses.replace(file.inputs["images"], shape=(4, 8, 8, 1))
    assert "it takes 4 images at a time" in browser_problem(dataclasses.replace(file, inputs={"images": images}))
    assert "--files int8" in browser_problem(dataclasses.replace(file, bytes=MAX_MODEL_BYTES + 1))
    contents = path.read_bytes()
    for damaged in (b"", b"no model at all", contents[:100]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="Export it anew"):
            read_model_file(path, "float32")


def test_modules_are_joined_in_their_order(tmp_path):
    sources = {
        "./a.js": 'import { twice, one as first } from "./b.js";\nglobalThis.result = twice(first);\n',
        "./b.js": """import { two } from "./c.js";
const one = 1;
export function twice(x) {
  return two * x;
}
export { one };
""",
        "./c.js": "export const two = 2;\nconst one = 'kept apart';\n",
    }
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node to run the joined script")
    script = bundle("./a.js", sources) + "console.log(globalThis.result);"
    done = subprocess.run([node, "-e", script], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


def test_modules_that_cannot_be_joined_are_refused():
    with pytest.raises(ValueError, match="which there is not"):
        bundle("./a.js", {"./a.js": 'import { b } from "./b.js";\n'})
    with pytest.raises(ValueError, match="import each other"):
        bundle("./a.js", {"./a.js": 'import { b } from "./b.js";\n', "./b.js": 'import { a } from "./a.js";\n'})
    for line in ("import * as b from './b.js';", "export default 1;", "export let count = 1;"):
        with pytest.raises(ValueError, match="cannot join"):
            bundle("./a.js", {"./a.js": line + "\n"})


def test_the_runtime_is_the_published_one(runtime, monkeypatch, tmp_path):
    assert set(runtime.files) == {
        f"{build}{suffix}"
        for build in (litert.PLAIN, litert.COMPATIBLE, litert.THREADED)
        for suffix in (".js", ".wasm")
    }
    false = tmp_path / litert.FILENAME
    false.write_bytes(b"something else")
    with pytest.raises(UserError, match="its digest is another"):
        litert.open_runtime(false)
    with pytest.raises(UserError, match="There is no file"):
        litert.open_runtime(tmp_path / "none.tgz")


def test_without_npm_or_network_the_user_is_told_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_RESNET_CACHE", str(tmp_path))
    monkeypatch.setattr(litert, "__file__", str(tmp_path / "runtime.py"))
    monkeypatch.setattr(litert.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"there is no npm\. Install Node\.js.*--runtime FILE\.tgz"):
        litert.open_runtime()
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(litert.shutil, "which", lambda name: str(npm))
    with pytest.raises(UserError, match=r"cannot be fetched: npm error code ENOTFOUND\. Connect to the network"):
        litert.open_runtime()
    npm.write_text(f"#!/bin/sh\necho false > $4/{litert.FILENAME}\n")
    with pytest.raises(UserError, match="is not the published"):
        litert.open_runtime()
    assert [path.name for path in tmp_path.iterdir()] == ["npm"]


def test_the_script_writes_the_page_and_says_what_is_wrong(exported, runtime, folder, tmp_path, capsys):
    assert demo_script([str(exported), "--output", str(tmp_path / "demo"), "--files", "int8", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["files"] == ["int8"]
    assert written["page"] == str(tmp_path / "demo" / "index.html")
    assert main.main(["demo", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for flags, message in (
        (["--serve", "--single-file"], "opens from the disk"),
        (["--files", "int8,int8"], "each once"),
        (["--port", "-1"], "--port must be at least 0"),
    ):
        assert demo_script([str(exported), *flags]) == 2
        assert message in capsys.readouterr().err
