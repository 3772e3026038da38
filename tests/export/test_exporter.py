import dataclasses
import errno
import importlib.util
import json
import os
import re
import sys
import types

import keras
import numpy as np
import pytest

from keras_resnet.artifact import artifact_of, load_artifact
from keras_resnet.distribution import processor_has_bfloat16
from keras_resnet.errors import UserError
from keras_resnet.export import exporter, writers
from keras_resnet.export.exporter import export
from keras_resnet.export.formats import EXACT, FORMATS, ExportSettings, Format
from keras_resnet.export.tflite import convert
from keras_resnet.models.resnet import build_model

HEATMAP = ExportSettings(heatmap="top")
PHONES = ("float32", "float16", "int8")


def given(pixels, count=30):
    images, labels = pixels
    return {"calibration": (images[:count], labels[:count]), "parity": (images, labels)}


@pytest.fixture(scope="module")
def exported(artifact, pixels, tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved_models") / "colours"
    formats = ("saved_model", "saved_model_bfloat16", "float32", "int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)  # every artifact is started once, not twice
        return export(artifact, directory, formats=formats, settings=HEATMAP, **given(pixels))


def test_the_folder_holds_every_artifact_and_its_ledger(exported, artifact, pixels):
    assert exported.rejected == ()
    names = {path.name for path in exported.directory.iterdir()}
    assert names == {
        "1", "bfloat16", "float32.tflite", "int8.tflite", "model.keras", "labels.txt", "preprocessing.json",
        "parity.json", "README.md",
    }  # fmt: skip
    ledger = json.loads((exported.directory / "parity.json").read_text())
    assert ledger["preprocessing_fingerprint"] == artifact.preprocessing.fingerprint()
    for row in ledger["rows"][1:]:
        assert row["images"] == len(pixels[0])
        assert row["agreement"] >= 0.98
        assert row["heatmap_correlation"] > 0.95
        assert row["operators"]
    for row in ledger["rows"]:
        assert row["peak_memory_bytes"] > 1e6
        assert "1 thread" in row["latency_ms"]
        assert all(timed["p90"] >= timed["median"] > 0 for timed in row["latency_ms"].values())
    assert "| int8" in (exported.directory / "README.md").read_text()
    expected = artifact.probabilities(pixels[0].astype(np.float32))
    for path in (exported.directory, exported.directory / "float32.tflite", exported.directory / "model.keras"):
        found = load_artifact(path).probabilities(pixels[0].astype(np.float32))
        np.testing.assert_allclose(found, expected, atol=1e-4)  # the limit of exact formats


@pytest.mark.usefixtures("untimed")
def test_the_model_is_left_as_it_was(model, artifact, pixels, tmp_path):
    before, layers = [weight.numpy() for weight in model.weights], model.get_config()
    export(artifact, tmp_path / "out", formats=("saved_model_bfloat16", "float16"), settings=HEATMAP, **given(pixels))
    assert model.get_config() == layers
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, weight.numpy())


@pytest.mark.usefixtures("untimed")
def test_a_new_format_is_one_row_and_one_writer(artifact, pixels, tmp_path, monkeypatch):
    def write(writing, row, path):
        path.write_bytes(convert(writing.network(row), "float32"))

    module = types.ModuleType("plain_tflite")
    module.write = write
    monkeypatch.setitem(sys.modules, "plain_tflite", module)
    row = Format("plain", "plain/model.tflite", "tflite", "plain_tflite:write", EXACT)
    monkeypatch.setitem(FORMATS, "plain", row)
    report = export(artifact, tmp_path / "out", formats=("plain",), settings=HEATMAP, **given(pixels))
    assert report.rejected == ()
    assert report.rows[1].agreement == 1.0
    assert report.rows[1].heatmap_correlation > 0.999
    assert report.rows[1].operators["CONV_2D"]
    assert (tmp_path / "out" / "plain" / "model.tflite").is_file()
    from keras_resnet.cli.export import build_parser

    assert "plain" in build_parser().format_help()


def test_an_existing_folder_stays_unless_told(exported, artifact, pixels):
    before = {path: path.stat().st_mtime_ns for path in exported.directory.rglob("*")}
    with pytest.raises(UserError, match="exists already"):
        export(artifact, exported.directory, **given(pixels))
    assert {path: path.stat().st_mtime_ns for path in exported.directory.rglob("*")} == before


@pytest.mark.usefixtures("untimed")
def test_an_artifact_beyond_its_limit_is_not_kept_unless_allowed(artifact, pixels, tmp_path, monkeypatch):
    for name in ("float32", "saved_model_bfloat16"):
        strict = dataclasses.replace(FORMATS[name].limit, difference=-1.0)
        monkeypatch.setitem(FORMATS, name, dataclasses.replace(FORMATS[name], limit=strict))
    report = export(artifact, tmp_path / "strict", formats=("float32", "saved_model_bfloat16"), **given(pixels))
    assert "float32: largest probability difference" in report.rejected[0]
    assert "saved_model_bfloat16: largest probability difference" in report.rejected[1]
    assert not (tmp_path / "strict" / "float32.tflite").exists()
    assert not (tmp_path / "strict" / "bfloat16").exists()
    assert "Not kept" in (tmp_path / "strict" / "README.md").read_text()
    report = export(artifact, tmp_path / "allowed", formats=("float32",), allow_drop=True, **given(pixels))
    assert report.rejected == ()
    assert report.rows[1].beyond
    assert (tmp_path / "allowed" / "float32.tflite").exists()


def test_a_disk_that_fills_up_leaves_the_folder_as_it_was(artifact, pixels, tmp_path, monkeypatch):
    directory = tmp_path / "colours"
    directory.mkdir()
    (directory / "precious").write_text("old")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("write_saved_model", "write_json", "write_interchange"):
        with monkeypatch.context() as patch:
            patch.setattr(exporter if place == "write_json" else writers, place, full)
            formats = ("saved_model",) if place != "write_interchange" else ("openvino",)
            if place == "write_interchange":
                patch.setattr(importlib.util, "find_spec", lambda name: True)
            with pytest.raises(UserError, match="No space left"):
                export(artifact, directory, formats=formats, overwrite=True, **given(pixels))
    assert [path.name for path in tmp_path.iterdir()] == ["colours"]
    assert [path.name for path in directory.iterdir()] == ["precious"]


def classifier(shape=(16, 16, 3), classes=3):
    return build_model("resnet8", num_classes=classes, input_shape=shape)


def two_inputs():
    a, b = keras.Input((16, 16, 3), name="a"), keras.Input((16, 16, 3), name="b")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([a, b]))
    return keras.Model([a, b], keras.layers.Dense(3)(x))


def several_labels():
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, activation="sigmoid")(x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_model("resnet8", input_shape=(16, 16, 3), include_top=False), "no classification head"),
        (two_inputs, "2 inputs"),
        (several_labels, "sigmoid"),
        (lambda: classifier((32, 32, 3)), "takes"),
        (lambda: classifier(classes=4), "4 outputs, its preprocessing names 3"),
        (lambda: classifier(classes=1), "no classification head"),
        (lambda: "a string", "Keras model"),
    ],
)
def test_what_is_no_fitting_classifier_is_refused(build, message, preprocessing, pixels, tmp_path):
    with pytest.raises(UserError, match=message):
        export(artifact_of(build(), preprocessing), tmp_path / "out", **given(pixels))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, labels: {"calibration": (images[:0], None)}, "got none"),
        (lambda images, labels: {"calibration": (np.full_like(images, 7), None)}, "constant"),
        (lambda images, labels: {"calibration": (images[:1].repeat(5, axis=0), None)}, "the same"),
        (lambda images, labels: {"calibration": (images[::3], labels[::3])}, "one class"),
        (lambda images, labels: {"calibration": (images / 255.0, None)}, "from 0 to 255"),
        (lambda images, labels: {"calibration": ((images / 255.0 - 0.5) / 0.2, None)}, "from 0 to 255"),
        (lambda images, labels: {"calibration": None}, "needs calibration"),
        (lambda images, labels: {"parity": (images, labels[:5])}, "5 labels"),
        (lambda images, labels: {"parity": (images[:0], None)}, "got none"),
        (lambda images, labels: {"formats": ("int8", "pickle")}, "Unknown format 'pickle'"),
        (lambda images, labels: {"formats": ()}, "at least one"),
    ],
)
def test_wrong_images_are_refused(change, message, artifact, pixels, tmp_path):
    with pytest.raises(UserError, match=message):
        export(artifact, tmp_path / "out", **{**given(pixels), **change(*pixels)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"quantizer": "best"}, "Unknown quantizer"),
        ({"io_type": "int4"}, "Unknown input"),
        ({"batch": 0}, "at least 1"),
        ({"heatmap": "all"}, "Unknown heat map"),
    ],
)
def test_wrong_settings_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        ExportSettings(**setting)


def test_an_exported_file_is_not_exported_again(exported, pixels, tmp_path):
    with pytest.raises(UserError, match=r"is an exported file. Give the run or .keras file"):
        export(load_artifact(exported.directory), tmp_path / "out", **given(pixels))


@pytest.mark.usefixtures("untimed")
def test_a_heat_map_needs_its_head(preprocessing, pixels, tmp_path):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, strides=2)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    artifact = artifact_of(model, preprocessing)
    with pytest.raises(UserError, match="global average pooling"):
        export(artifact, tmp_path / "a", formats=("float32",), settings=HEATMAP, **given(pixels))
    report = export(artifact, tmp_path / "b", formats=("saved_model",), **given(pixels))
    assert report.rejected == ()


@pytest.mark.slow
@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_servers_without_tensorflow(name, model, artifact, pixels, tmp_path):
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    report = export(artifact, tmp_path / "out", formats=(name,), settings=HEATMAP, **given(pixels))
    assert report.rejected == ()
    assert report.rows[1].agreement == 1.0
    assert report.rows[1].heatmap_correlation > 0.999
    head = 4 * model.get_layer("logits").kernel.shape[0] * 3
    path = report.directory / report.rows[1].file
    if name == "onnx":
        import onnx

        sizes = [len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer]
    else:
        places = set(re.findall(r'offset="(\d+)" size="(\d+)"', path.read_text()))
        sizes = [int(size) for _, size in places]
    assert sizes.count(head) == 1  # the heat map reads the weights that give the scores


@pytest.mark.slow
@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(
    ("name", "weights", "right", "formats"),
    [
        ("resnet20", "resnet20-12fca82f.th", 932, ("saved_model", "saved_model_bfloat16", *PHONES)),
        ("resnet32", "resnet32-d509ac18.th", 944, ("saved_model_bfloat16", *PHONES)),
    ],
)
def test_real_weights_lose_at_most_half_a_point(name, weights, right, formats, shared, tmp_path):
    from keras_resnet.applications import create_model
    from keras_resnet.data.reading import sample_images
    from keras_resnet.data.sources import load_source
    from keras_resnet.weights.loading import learnt_preprocessing

    pytest.importorskip("torch")
    model = create_model(name, weights=shared / "weights" / weights)
    data = load_source(f"npz:{shared / 'data' / 'cifar10_subset.npz'}")
    artifact = artifact_of(model, learnt_preprocessing(model, shared / "weights" / weights))
    report = export(
        artifact,
        tmp_path / name,
        formats=formats,
        calibration=sample_images(data.train, artifact.preprocessing, 200),
        parity=(data.test.images, data.test.labels),
        settings=HEATMAP,
    )
    assert report.rejected == ()
    source, *others = report.rows
    assert source.images == 1017
    assert round(source.top1 * 1017) == right  # as measured in PyTorch
    rows = {row.name: row for row in others}
    assert tuple(rows) == formats
    for name in rows.keys() & {"saved_model", "float32"}:
        assert rows[name].agreement == 1.0
        assert rows[name].largest_difference <= 1e-4
        assert rows[name].heatmap_correlation >= 0.999
    assert rows["float16"].largest_difference <= 1e-2
    assert rows["float16"].agreement >= 0.995
    if bfloat16 := rows.get("saved_model_bfloat16"):
        assert bfloat16.agreement >= 0.99
        assert bfloat16.drop_points <= 0.5
        # Without instructions for bfloat16 operators round at other places: 0.99897 at worst was measured there.
        assert bfloat16.heatmap_correlation >= (0.999 if processor_has_bfloat16() else 0.998)
    assert rows["int8"].agreement >= 0.98
    assert rows["int8"].drop_points <= 0.5
    assert rows["int8"].heatmap_correlation >= 0.95


def test_a_class_name_cannot_format_the_model_card(model, pixels, preprocessing, tmp_path, untimed):
    renamed = keras.models.clone_model(model)
    renamed.set_weights(model.get_weights())
    names = ("*red*", "<b>green</b>", "a|b_c [x](y)")
    artifact = artifact_of(renamed, dataclasses.replace(preprocessing, labels=names))
    export(artifact, tmp_path / "m", formats=("float32",), **given(pixels))
    card = (tmp_path / "m" / "README.md").read_text()
    assert r"\*red\*, \<b\>green\</b\>, a\|b\_c \[x\](y)" in card
