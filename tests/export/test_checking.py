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
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_resnet.cli.main import main
from keras_resnet.data.preprocessing import RESIZES
from keras_resnet.errors import UserError
from keras_resnet.export import checking
from keras_resnet.export.accelerators import ACCELERATORS
from keras_resnet.export.checking import check_file
from keras_resnet.export.formats import FORMATS
from keras_resnet.export.serving import serving_network
from keras_resnet.export.tflite import convert
from keras_resnet.export.tflite_file import read_operators, unpack
from keras_resnet.export.tflite_metadata import add_metadata

DOCS = Path(__file__).parents[2] / "docs"
KINDS = {"Int": int, "String": str, "Double": float}


# Which of a file's operators are refused, with the heat map of the class that an input names (int16x8: of the top one).
CHOICE = ({"ARG_MAX", "LESS", "SELECT"}, {"BATCH_MATMUL"})
REFUSED = {**dict.fromkeys(("float32", "float16", "dynamic", "int8"), CHOICE), "int16x8": (None, None)}


@pytest.fixture(scope="module")
def files(model, preprocessing, pixels, tmp_path_factory):
    """The network with a heat map as .tflite files."""
    folder = tmp_path_factory.mktemp("files")
    for name, variant, batch in (*((name, name, 1) for name in REFUSED), ("open", "float32", None)):
        heatmap = "top" if name == "int16x8" else "input"
        network = serving_network(model, preprocessing, heatmap=heatmap, classes=FORMATS[variant].reads_head_by)
        calibration = pixels[0][:24].astype(np.float32)
        contents = convert(network, variant, batch=batch, calibration=calibration)
        (folder / f"{name}.tflite").write_bytes(add_metadata(contents, preprocessing, preprocessing.labels, name=name))
    return folder


def save(model, path):
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_memory_is_what_the_interpreter_plans(files, name):
    """The addresses of the interpreter's own tensors, without the delegate that has memory of its own. What an operator
    needs for itself has no address to be seen, and some operators write over their input: both by a tenth at most.
    """
    path = files / f"{name}.tflite"
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_path=str(path), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    file = unpack(path.read_bytes())
    graph = file.subgraphs[0]
    computed, widened = set(map(int, graph.inputs)), set()
    for operator in graph.operators:
        is_constant = all(file.buffers[graph.tensors[index].buffer].data is not None for index in operator.inputs)
        (widened if is_constant else computed).update(map(int, operator.outputs))
    assert bool(widened) == (name == "float16")
    views = [interpreter.tensor(index)() for index in sorted(computed)]
    starts = [view.__array_interface__["data"][0] for view in views]
    real = max(start + view.nbytes for start, view in zip(starts, views, strict=True)) - min(starts)
    real += sum(interpreter.tensor(index)().nbytes for index in widened)  # in an arena of their own
    planned = check_file(path).activation_bytes
    assert 0.9 * planned <= real <= planned


@pytest.mark.parametrize("name", REFUSED)
def test_what_accelerators_take_of_a_heat_map(files, name):
    """The network itself goes to the accelerator; what chooses the class to explain does not, nor do 16-bit numbers."""
    found = check_file(files / f"{name}.tflite")
    assert found.runtime_error is None
    assert not found.missing_metadata
    assert found.oldest_runtime in ("2.3.0", "2.4.0", "2.5.0")
    assert found.operators == read_operators((files / f"{name}.tflite").read_bytes())
    for accelerator, kinds in zip(("gpu", "nnapi"), REFUSED[name], strict=True):
        found_kinds = {kind for kind, _ in found.accelerators[accelerator].refused}
        taken, operators = found.accelerators[accelerator].taken, found.accelerators[accelerator].operators
        assert taken + sum(found.accelerators[accelerator].refused.values()) == operators
        if kinds is None:
            assert taken <= 1
        else:
            assert found_kinds == kinds


@pytest.mark.parametrize("name", REFUSED)
def test_apps_get_the_answers_of_the_interpreter(files, name):
    """Kotlin's `CompiledModel` calls the same library by the same names: its buffers hold what the interpreter says."""
    path = str(files / f"{name}.tflite")
    runner = Interpreter(model_path=path).get_signature_runner()
    shapes, random = runner.get_input_details(), np.random.default_rng(0)
    feeds = {"images": random.integers(0, 256, shapes["images"]["shape"]).astype(shapes["images"]["dtype"])}
    feeds |= {"target": np.array([2], np.int32)} if "target" in shapes else {}
    compiled = CompiledModel.from_file(path)
    (key,) = compiled.get_signature_list()
    buffers = {name: compiled.create_input_buffer_by_name(key, name) for name in feeds}
    answers = {name: compiled.create_output_buffer_by_name(key, name) for name in ("probabilities", "heatmap")}
    for name, buffer in buffers.items():
        buffer.write(feeds[name].reshape(-1))
    compiled.run_by_name(key, buffers, answers)
    for name, expected in runner(**feeds).items():
        np.testing.assert_array_equal(answers[name].read(expected.size, expected.dtype), expected.reshape(-1))


def test_without_a_heat_map_accelerators_take_everything(model, preprocessing, tmp_path):
    path = tmp_path / "plain.tflite"
    path.write_bytes(convert(serving_network(model, preprocessing), "float32", batch=1))
    for found in check_file(path).accelerators.values():
        assert (found.taken, found.parts, found.refused) == (found.operators, 1, {})


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
    found, archive = check_file(path), zipfile.ZipFile(path)
    for name in (*found.inputs, *found.outputs):
        assert f'"{name}"' in code
    assert set(re.findall(r'entry\("(.+?)"', code)) == set(archive.namelist())
    settings = json.loads(archive.read("preprocessing.json"))
    if page == "android.md":
        assert set(re.findall(r'create(?:In|Out)putBuffer\("(.+?)"\)', code)) == {*found.inputs, *found.outputs}
        keys = {key: KINDS[kind] for kind, key in re.findall(r'settings\.get(\w+)\("(\w+)"\)', code)}
    else:
        interpreter = Interpreter(model_path=str(path))
        assert set(re.findall(r'signatureRunner\(with: "(.+?)"\)', code)) == set(interpreter.get_signature_list())
        members = re.search(r"struct Preprocessing: Decodable \{(.*?)\}", code, re.DOTALL).group(1)
        keys = {
            re.sub("[A-Z]", lambda letter: f"_{letter.group().lower()}", key): KINDS[kind]
            for key, kind in re.findall(r"let (\w+): (\w+)", members)
        }
    assert set(keys) == {"height", "width", "channels", "resize", "crop_fraction"}
    assert all(type(settings[key]) is kind for key, kind in keys.items())
    # One way of resizing is asked for, the other is what is left.
    assert '"crop"' in code
    assert set(RESIZES) == {"squash", "crop"}


def test_packed_files_lie_as_the_swift_code_reads_them(files):
    """From the end of the file on: a header of 30 bytes with the size at 18, the name, and the contents as they are."""
    path = files / "float32.tflite"
    contents, archive = path.read_bytes(), zipfile.ZipFile(path)
    for name in archive.namelist():
        start = len(contents)
        while contents[start + 30 : start + 30 + len(name)] != name.encode():
            start = contents.rindex(b"PK\3\4", 0, start)
        size = int.from_bytes(contents[start + 18 : start + 22], "little")
        begin = start + 30 + len(name)
        assert contents[begin : begin + size] == archive.read(name)
