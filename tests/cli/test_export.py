import json

import numpy as np
import pytest

from keras_resnet.cli.evaluate import main as evaluate
from keras_resnet.cli.export import main
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.sources import load_source
from keras_resnet.data.transforms import normalize
from keras_resnet.models.resnet import build_model
from keras_resnet.storage import save_model


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_data):
    """A run directory with a network that has learned the tiny data."""
    import keras

    keras.utils.set_random_seed(0)
    data = load_source(tiny_data)
    model = build_model("resnet8", num_classes=3, input_shape=(8, 8, 1))
    preprocessing = Preprocessing(8, 8, 1, data.mean, data.std, labels=tuple(data.labels))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(np.asarray(normalize(data.train.images, preprocessing)), data.train.labels, epochs=15, verbose=0)
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    save_model(model, folder / "model.keras", preprocessing)
    settings = {"dataset": tiny_data, "seed": 0, "bad_images": "stop", "data_dir": None}
    (folder / "recipe.json").write_text(json.dumps({"settings": settings}))
    return folder


@pytest.mark.usefixtures("untimed")
def test_a_run_becomes_artifacts_that_evaluate_takes(run, tmp_path, capsys):
    output = tmp_path / "saved_models" / "tiny"
    arguments = [str(run), "--output", str(output), "--formats", "saved_model,float32", "--calibration", "20"]
    assert main([*arguments, "--with-heatmap", "--json"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert [row["name"] for row in report["rows"]] == ["source", "saved_model", "float32"]
    assert "run float32" in printed.err  # a bar for each stage
    dataset = json.loads((run / "recipe.json").read_text())["settings"]["dataset"]
    accuracy = []
    for artifact in (run, output, output / "float32.tflite"):
        assert evaluate([str(artifact), "--dataset", dataset, "--output", str(tmp_path / "e.json"), "--json"]) == 0
        accuracy.append(json.loads(capsys.readouterr().out)["top1"])
    assert accuracy[0] == accuracy[1] == accuracy[2] > 0.9
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.usefixtures("untimed")
def test_an_artifact_beyond_its_limit_ends_in_exit_code_1(run, tmp_path, capsys, monkeypatch):
    import dataclasses

    from keras_resnet.export.formats import FORMATS

    strict = dataclasses.replace(FORMATS["float32"].limit, difference=-1.0)
    monkeypatch.setitem(FORMATS, "float32", dataclasses.replace(FORMATS["float32"], limit=strict))
    arguments = [str(run), "--output", str(tmp_path / "out"), "--formats", "float32"]
    assert main(arguments) == 1
    assert "error: Not kept: float32: largest probability difference" in capsys.readouterr().err
    assert not (tmp_path / "out" / "float32.tflite").exists()
    assert main([*arguments, "--overwrite", "--allow-drop"]) == 0
    assert (tmp_path / "out" / "float32.tflite").exists()


def refused(arguments, capsys, tmp_path):
    """Runs what must be refused; returns the one line it said."""
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main([*map(str, arguments), "--output", str(tmp_path / "out")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formats", "int9"], "Closest: 'int8'"),
        (["--formats", ""], "at least one format"),
        (["--batch", "0"], "--batch"),
        (["--batch", "many"], "--batch"),
        (["--calibration", "0"], "--calibration"),
        (["--quantizer", "convertor"], "Closest: 'converter'"),
        (["--parity-images", "absent"], "must be a folder"),
        (["--dataset", "digitz"], "digits"),
        (["--weights", "imagenet"], "--weights goes with"),
        (["--overwrit"], "--overwrite"),
    ],
)
def test_wrong_flags(arguments, message, run, capsys, tmp_path):
    assert message in refused([run, *arguments], capsys, tmp_path)


def test_wrong_models(run, capsys, tmp_path, tiny_data):
    import keras

    data = ["--dataset", tiny_data, "--formats", "float32"]
    assert "Closest" in refused(["resnet21", *data], capsys, tmp_path)
    assert "--weights" in refused(["resnet20", *data], capsys, tmp_path)
    # What is wrong with the model is said before what else is missing.
    assert "--weights" in refused(["resnet20"], capsys, tmp_path)
    assert "no model file" in refused(["absent.keras"], capsys, tmp_path)
    assert "--dataset" in refused([run / "model.keras"], capsys, tmp_path)
    assert "no model.keras" in refused([run.parent, *data], capsys, tmp_path)
    (tmp_path / "broken.keras").write_bytes(b"no zip")
    assert "not a complete .keras file" in refused([tmp_path / "broken.keras", *data], capsys, tmp_path)

    preprocessing = Preprocessing(8, 8, 1, (0.5,), (0.5,), labels=("0", "1", "2"))
    inputs, other = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([inputs, other]))
    keras.Model([inputs, other], keras.layers.Dense(3)(pooled)).save(tmp_path / "two.keras")
    (tmp_path / "p.json").write_text(json.dumps(preprocessing.to_dict()))
    given = ["--preprocessing", tmp_path / "p.json"]
    assert "one input" in refused([tmp_path / "two.keras", *data, *given], capsys, tmp_path)
    keras.Model(inputs, keras.layers.Conv2D(3, 3)(inputs)).save(tmp_path / "map.keras")
    assert "no classification head" in refused([tmp_path / "map.keras", *data, *given], capsys, tmp_path)
    assert "has no preprocessing" in refused([tmp_path / "map.keras", *data], capsys, tmp_path)
    assert "another preprocessing" in refused([run / "model.keras", *data, *given], capsys, tmp_path)


def test_wrong_calibration_images(run, capsys, tmp_path):
    def data_with(images, labels):
        path = tmp_path / "bad.npz"
        many = np.arange(30) % 3
        test = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8)
        np.savez(path, x_train=images, y_train=labels, x_validation=test, y_validation=many, x_test=test, y_test=many)
        return ["--dataset", f"npz:{path}", "--formats", "int8", "--calibration", "12"]

    constant = np.full((30, 8, 8, 1), 9, np.uint8)
    assert "constant" in refused([run, *data_with(constant, np.arange(30) % 3)], capsys, tmp_path)
    noise = np.random.default_rng(1).integers(0, 256, (30, 8, 8, 1), np.uint8)
    assert "one class" in refused([run, *data_with(noise, np.zeros(30, np.int32))], capsys, tmp_path)


def test_empty_and_corrupt_tflite_files(capsys, tmp_path, tiny_data):
    preprocessing = Preprocessing(8, 8, 1, (0.5,), (0.5,), labels=("0", "1", "2"))
    (tmp_path / "preprocessing.json").write_text(json.dumps(preprocessing.to_dict()))
    for contents in (b"", b"TFL3 but not really"):
        (tmp_path / "broken.tflite").write_bytes(contents)
        assert evaluate([str(tmp_path / "broken.tflite"), "--dataset", tiny_data]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "broken.tflite is not a complete .tflite file" in line
