"""What is said of a .tflite file before it goes onto a phone, against LiteRT itself."""

import dataclasses
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_resnet.cli.main import main
from keras_resnet.errors import UserError
from keras_resnet.export import checking
from keras_resnet.export.accelerators import ACCELERATORS
from keras_resnet.export.checking import check_file
from keras_resnet.export.serving import serving_network
from keras_resnet.export.tflite import convert
from keras_resnet.export.tflite_file import read_operators, unpack
from keras_resnet.export.tflite_metadata import add_metadata

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def files(artifact, model, preprocessing, tmp_path_factory):
    """The network with a heat map as .tflite files."""
    folder = tmp_path_factory.mktemp("files")
    network = serving_network(model, preprocessing, heatmap="input")
    for name, variant, batch in (("float32", "float32", 1), ("float16", "float16", 1), ("open", "float32", None)):
        contents = convert(network, variant, batch=batch)
        (folder / f"{name}.tflite").write_bytes(add_metadata(contents, preprocessing, preprocessing.labels, name=name))
    return folder


def save(model, path):
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return path


def test_memory_is_what_the_interpreter_plans(files):
    """The addresses of the interpreter's own tensors, without the delegate that has memory of its own. It may save a
    tensor, because some operators write over their input.
    """
    path = files / "float32.tflite"
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_path=str(path), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    graph = unpack(path.read_bytes()).subgraphs[0]
    computed = {int(index) for operator in graph.operators for index in operator.outputs} | set(map(int, graph.inputs))
    views = [interpreter.tensor(index)() for index in sorted(computed)]
    starts = [view.__array_interface__["data"][0] for view in views]
    real = max(start + view.nbytes for start, view in zip(starts, views, strict=True)) - min(starts)
    planned = check_file(path).activation_bytes
    assert 0.9 * planned <= real <= planned


def test_what_accelerators_take_of_a_heat_map(files):
    """The network itself goes to the accelerator in one part; what chooses the class to explain does not."""
    for name in ("float32", "float16"):
        found = check_file(files / f"{name}.tflite")
        assert found.runtime_error is None
        assert not found.missing_metadata
        assert {kind for kind, _ in found.accelerators["gpu"].refused} == {"ARG_MAX", "LESS", "SELECT"}
        assert {kind for kind, _ in found.accelerators["nnapi"].refused} == {"BATCH_MATMUL"}
        gpu = found.accelerators["gpu"]
        assert gpu.taken + sum(gpu.refused.values()) == gpu.operators
    assert found.operators == read_operators((files / "float16.tflite").read_bytes())


def test_open_sizes_and_missing_metadata_are_told(files, tmp_path):
    opened = check_file(files / "open.tflite")
    assert opened.inputs["images"].shape[0] == -1
    assert all("has an open size" in {why for _, why in each.refused} for each in opened.accelerators.values())
    bare = save(tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(2)]), tmp_path / "bare.tflite")
    missing = " ".join(check_file(bare).missing_metadata)
    assert "labels.txt" in missing
    assert "metadata" in missing


def test_the_runtime_is_asked(tmp_path, capsys):
    """An operator that only TensorFlow has: LiteRT's own interpreter refuses the file, and so does the command."""
    inputs = tf.keras.Input((4, 4, 3), batch_size=1)
    network = tf.keras.Model(inputs, tf.keras.layers.Lambda(lambda x: tf.raw_ops.Erfc(x=x))(inputs))
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.allow_custom_ops = True
    path = tmp_path / "custom.tflite"
    path.write_bytes(converter.convert())
    capsys.readouterr()
    assert main(["check", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert "Erfc" in found["runtime_error"]
    assert found["operators"] == {"Erfc": 1}


def test_exit_codes(files, capsys):
    path = str(files / "float32.tflite")
    assert main(["check", path]) == 0
    assert main(["check", path, "--require", "gpu"]) == 1
    assert "ARG_MAX is not supported" in capsys.readouterr().out
    assert main(["check", str(files)]) == 2
    assert main(["check", path, "--require", "tpu"]) == 2


def test_rules_are_about_operators_that_exist():
    known = set(vars(schema.BuiltinOperator))
    for rules in ACCELERATORS.values():
        assert set(rules) <= known


def test_damaged_files_are_refused_in_a_sentence(files, tmp_path, monkeypatch):
    """300 seeded damages: cut short, or bytes changed. LiteRT is asked about few, each in a process of its own."""
    monkeypatch.setattr(checking, "_loading_error", lambda path: None)
    contents = np.frombuffer((files / "float32.tflite").read_bytes(), np.uint8)
    random, path, refused = np.random.default_rng(0), tmp_path / "damaged.tflite", 0
    for number in range(300):
        damaged = contents.copy()
        if number % 3:
            damaged[random.integers(0, min(len(damaged), 20_000), 30)] = random.integers(0, 256, 30)
        else:
            damaged = damaged[: random.integers(0, len(damaged))]
        path.write_bytes(damaged.tobytes())
        try:
            check_file(path)
        except UserError as error:
            refused += str(path) in str(error)
    assert refused > 100
    monkeypatch.undo()
    path.write_bytes(contents[:5000].tobytes() + bytes(3000))
    with pytest.raises(UserError, match="complete"):
        check_file(path)


def test_a_process_that_dies_is_an_answer(files, monkeypatch):
    probe = files / "dies.py"
    probe.write_text("import os; os._exit(139)")
    monkeypatch.setattr(checking, "_PROBE", probe)
    found = check_file(files / "float32.tflite")
    assert "139" in found.runtime_error
    assert dataclasses.replace(found, runtime_error=None).weight_bytes > 300_000


@pytest.mark.parametrize("page", ["android.md", "ios.md"])
def test_the_names_in_the_phones_code_are_those_of_the_file(files, page):
    """What the pages' code asks for by name: tensors, the signature, packed files, keys of the preprocessing."""
    path = files / "float32.tflite"
    code = "\n".join(re.findall(r"```(?:kotlin|swift)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL))
    found = check_file(path)
    settings = json.loads(zipfile.ZipFile(path).read("preprocessing.json"))
    for name in (*found.inputs, *found.outputs):
        assert f'"{name}"' in code
    for key in ("height", "width", "channels"):
        assert re.search(rf'getInt\("{key}"\)|let {key}: Int', code)
        assert isinstance(settings[key], int)
    if page == "android.md":
        assert set(re.findall(r'entry\("(.+?)"\)', code)) <= set(zipfile.ZipFile(path).namelist())
        assert set(re.findall(r'create(?:In|Out)putBuffer\("(.+?)"\)', code)) == {*found.inputs, *found.outputs}
    else:
        interpreter = Interpreter(model_path=str(path))
        assert set(re.findall(r'signatureRunner\(with: "(.+?)"\)', code)) == set(interpreter.get_signature_list())
