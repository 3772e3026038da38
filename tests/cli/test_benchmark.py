import csv
import json

import numpy as np
import pytest

from keras_resnet.cli import benchmark


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "Closest: 'train'"),
        (["train", "--model", "resnet21"], "Unknown model 'resnet21'"),
        (["train", "--steps", "2"], "--steps must be at least 3"),
        (["train", "--rounds", "0"], "--rounds must be at least 1"),
        (["train", "--batchsize", "4"], "Closest: '--batch-size'"),
        (["input", "--seconds", "0"], "--seconds must be above 0"),
        (["budget", "--contestants", "he2016", "pytorhc"], "Unknown contestant 'pytorhc'. Closest: 'pytorch'"),
        (["budget", "--minutes", "0"], "--minutes must be a number above 0"),
        (["budget", "--model", "resnet21"], "Unknown model 'resnet21'"),
        (["serve", "--model", "resnet21"], "Unknown model 'resnet21'"),
        (["serve", "--backend", "int9"], "Closest: 'int8'"),
        (["serve", "--clients", "0"], "--clients must be at least 1"),
        (["pieces", "--seeds", "0"], "--seeds must be at least 1"),
        (["pieces", "--pieces", "crop_flip", "cropflip"], "got 'cropflip'. Unknown augmentation 'cropflip'"),
        (["gpu"], "This benchmark runs on JAX, got the backend 'tensorflow'. Set KERAS_BACKEND=jax."),
        (["gpu", "--seconds", "0"], "--seconds must be a number above 0"),
        (["input", "--small-folder", "absent", "--seconds", "0.01"], "absent"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_2(argv, message, capsys):
    assert benchmark.main(argv) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_training_is_measured_beside_others(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    # What is compiled here runs for a moment.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
    argv = ["--model", "resnet8", "--batch-size", "8", "--steps", "3", "--rounds", "1", "--image-size", "16"]
    argv += ["--contestants", "plain Keras", "ours on JAX", "PyTorch"]
    assert benchmark.main(["train", *argv, "--json", "--results", str(tmp_path / "r.csv")]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["contestant"] for row in rows] == ["ours", "plain Keras", "ours on JAX", "PyTorch"]
    for row in rows:
        assert row["ours_times_as_fast"] == pytest.approx(
            rows[0]["images_per_second"] / row["images_per_second"], rel=1e-2
        )
    with open(tmp_path / "r.csv") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 4
    assert written[0]["command"].startswith("python benchmark.py train --model resnet8")
    assert written[0]["hardware"]


def test_contestants_that_cannot_run_are_refused(capsys):
    assert benchmark.main(["train", "--contestants", "PyTroch"]) == 2
    assert "Closest: 'PyTorch'" in capsys.readouterr().err
    pytest.importorskip("torch")
    assert benchmark.main(["train", "--model", "resnet20_b", "--contestants", "PyTorch"]) == 2
    assert "got resnet20_b" in capsys.readouterr().err


def test_heat_maps_are_measured_beside_the_forward_pass(tmp_path, capsys):
    results = tmp_path / "explain.csv"
    arguments = ["explain", "--model", "resnet8", "--image-size", "16", "--batch-size", "2", "--rounds", "1"]
    assert benchmark.main([*arguments, "--json", "--results", str(results)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["method"] for row in rows] == [
        "forward pass", "gradcam_closed_form", "gradcam_gradient", "gradcam_tf_keras_vis"
    ]  # fmt: skip
    assert {row["traced_again"] for row in rows} == {0}
    assert rows[0]["times_the_forward_pass"] == 1
    assert rows[-1]["times_tf_keras_vis_images_per_second"] == 1
    assert len(list(csv.DictReader(results.open()))) == 4
    assert benchmark.main(["explain", "--model", "resnet9"]) == 2
    assert benchmark.main(["explain", "--rounds", "0"]) == 2


@pytest.mark.slow
def test_predictions_are_measured_from_files_to_labels(tmp_path, capsys):
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(3):  # they come again: six are asked for
        Image.fromarray(random.integers(0, 256, (20, 30 + number, 3), np.uint8)).save(tmp_path / f"{number}.png")
    argv = ["predict", str(tmp_path), "--model", "resnet8", "--images", "6", "--rounds", "1", "--json"]
    assert benchmark.main(argv) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["contestant"] for row in rows] == ["predict_images", "SavedModel alone", "model.predict"]
    bare = rows[1]["images_per_second"]
    for row in rows:
        assert row["images"] == 6
        assert row["share"] == pytest.approx(row["images_per_second"] / bare, rel=0.02)  # rounded
    (tmp_path / "3.png").write_bytes(b"none")
    assert benchmark.main(argv) == 2
    assert "3.png" in capsys.readouterr().err


@pytest.mark.slow
def test_every_export_is_measured_beside_its_plain_one(tmp_path, capsys):
    argv = [
        "--models",
        "resnet8",
        "--batches",
        "1",
        "2",
        "--turns",
        "1",
        "--json",
        "--results",
        str(tmp_path / "r.csv"),
    ]
    assert benchmark.main(["export", *argv]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    with open(tmp_path / "r.csv") as file:
        assert [row["contestant"] for row in csv.DictReader(file)] == [row["contestant"] for row in rows]
    servers = [row["contestant"] for row in rows if not row["contestant"].startswith("tflite")]
    phones = [row["contestant"] for row in rows if row["contestant"].startswith("tflite")]
    assert len(servers) == 2 * len(set(servers))  # both batches
    assert {"plain model.export", "SavedModel", "keras predict", "SavedModel with heat map"} <= set(servers)
    assert len(phones) == len(set(phones)) == 5  # the plain one; float32 and int8, each with and without a heat map
    for row in rows:
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["median_ms"] * 1e3, rel=0.02)  # rounded
        if row["contestant"] == row["against"]:
            assert row["speedup"] == 1


@pytest.fixture
def few_drawn(monkeypatch):
    """Of what the input's benchmark draws, a few images suffice."""
    from keras_resnet.benchmarks import inputs

    draw = inputs._draw_folder
    monkeypatch.setattr(inputs, "_draw_folder", lambda folder, count, size: draw(folder, 30, size))


@pytest.mark.slow
@pytest.mark.usefixtures("few_drawn")
def test_the_input_is_measured_beside_the_step(capsys):
    argv = ["--small-model", "resnet8", "--photo-model", "resnet8", "--seconds", "0.01", "--json"]
    assert benchmark.main(["input", *argv]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["image_size"] for row in rows] == [32, 32, 224]
    assert all(row["pipeline_images_per_second"] > 0 for row in rows)
    assert all(row["training_step_images_per_second"] > 0 for row in rows)


@pytest.mark.slow
def test_contestants_train_within_the_same_time_and_a_sitting_is_resumed(tmp_path, capsys, tiny_data):
    pytest.importorskip("torch")
    results = tmp_path / "budget.csv"
    argv = ["budget", "--dataset", tiny_data, "--model", "resnet8", "--minutes", "0.1", "--marks", "3"]
    argv += ["--results", str(results), "--json", "--contestants"]
    assert benchmark.main([*argv, "fast_cifar", "pytorch"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["contestant"], row["mark_seconds"]) for row in rows] == [
        (name, mark) for name in ("fast_cifar", "pytorch") for mark in (2, 4, 6)
    ]
    for row in rows:
        # The batch of 128 is all 110 images, those for validation among them.
        assert row["images_seen"] % 110 == 0
        assert row["epochs"] == row["images_seen"] / 110
        assert row["seconds"] <= row["mark_seconds"] + 0.1  # a hundredth of the budget, and the rounding
    assert float(rows[5]["test_accuracy"]) > 0.5  # one of three, had it learnt nothing
    # The next sitting trains the new contestant alone.
    assert benchmark.main([*argv, "fast_cifar", "plain_keras", "pytorch"]) == 0
    out, err = capsys.readouterr()
    assert {row["contestant"] for row in json.loads(out)["rows"]} == {"plain_keras"}
    assert err.count("has it already") == 2
    with open(results) as file:
        written = list(csv.DictReader(file))
    assert [row["contestant"] for row in written] == ["fast_cifar"] * 3 + ["pytorch"] * 3 + ["plain_keras"] * 3
    assert {row["framework"].split()[0] for row in written} == {"tensorflow", "torch"}


@pytest.mark.slow
@pytest.mark.usefixtures("bare_runs")
def test_pieces_are_trained_once_each(tmp_path, capsys, tiny_data):
    results = tmp_path / "pieces.csv"
    argv = [
        "pieces",
        "--dataset",
        tiny_data,
        "--model",
        "resnet8",
        "--epochs",
        "1",
        "--results",
        str(results),
        "--json",
    ]
    assert benchmark.main([*argv, "--seeds", "1", "--pieces", "crop,cutmix:0.5"]) == 0
    (first,) = json.loads(capsys.readouterr().out)["rows"]
    assert (first["piece"], first["augmentation"], first["test_images"]) == ("crop,cutmix:0.5", "crop,cutmix:0.5", 31)
    assert benchmark.main([*argv, "--seeds", "2", "--pieces", "crop,cutmix:0.5"]) == 0
    (second,) = json.loads(capsys.readouterr().out)["rows"]
    assert second["seed"] == 1
    with open(results) as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["0", "1"]
    assert benchmark.main([*argv, "--seeds", "2", "--pieces", "crop,cutmix:0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == []


def test_every_piece_differs_from_crop_flip_in_one_thing():
    from keras_resnet.benchmarks.pieces import PIECES

    base = PIECES["crop_flip"]
    for name in PIECES.keys() - {"none", "crop_flip"}:
        changed = {key for key, value in PIECES[name].items() if base.get(key) != value}
        assert len(changed) == 1, name
        assert PIECES[name]["augmentation"].startswith("crop_flip")


def test_an_interrupted_sitting_says_that_it_continues(monkeypatch, capsys, tmp_path):
    from keras_resnet.benchmarks import budget

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(budget, "benchmark_budget", interrupted)
    assert benchmark.main(["budget", "--results", str(tmp_path / "r.csv")]) == 130
    assert "r.csv has is not measured anew" in capsys.readouterr().err
    assert benchmark.main(["budget"]) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"


@pytest.mark.slow
@pytest.mark.usefixtures("few_drawn")
def test_augmentations_are_measured_beside_the_bare_work(capsys):
    augmentations = ["flip", "inception_crop_flip"]
    assert benchmark.main(["input", "--seconds", "0.01", "--json", "--augmentation", *augmentations]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["augmentation"] for row in rows] == 2 * augmentations
    assert [row["beside"] for row in rows] == 2 * ["no augmentation"] + 2 * ["decoding alone"]
    for row in rows:
        assert row["images_per_second"] > 0
        assert row["share"] > 0
    assert benchmark.main(["input", "--augmentation", "flp"]) == 2
    assert "'flip'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_step_is_taken_apart_into_its_operators(capsys):
    argv = ["--model", "resnet8", "--batch-size", "8", "--image-size", "16", "--steps", "2", "--json"]
    assert benchmark.main(["operators", *argv]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    calls = {row["operator"]: row["calls"] for row in rows}
    assert not {"Run", "Process"} & set(calls)  # TensorFlow's executor, which the operators are in
    # ResNet-8 has seven 3×3 convolutions; the first one's input needs no gradient.
    assert {name: calls[name] for name in calls if name.endswith(("Conv2DBackpropFilter", "Conv2DBackpropInput"))} in (
        {"Conv2DBackpropFilter": 7, "Conv2DBackpropInput": 6},
        {"_MklNativeConv2DBackpropFilter": 7, "_MklNativeConv2DBackpropInput": 6},
    )
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-3 * len(rows))  # each is rounded
    assert [row["share"] for row in rows[:-1]] == sorted((row["share"] for row in rows[:-1]), reverse=True)


@pytest.mark.slow
def test_the_server_is_measured_beside_a_plain_handler(capsys, tmp_path):
    pytest.importorskip("fastapi")
    argv = ["serve", "--model", "resnet8", "--clients", "1", "4", "--seconds", "0.5", "--backend", "float32", "--json"]
    assert benchmark.main([*argv, "--results", str(tmp_path / "r.csv")]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    names = ["batched", "one at a time", "FastAPI with model.predict"]
    assert [(row["contestant"], row["clients"]) for row in rows] == [(name, n) for name in names for n in (1, 4)]
    for row in rows:
        assert (row["wrong"], row["lost"]) == (0, 0)
        assert row["requests"] > 0
        assert row["p50_ms"] <= row["p99_ms"]
    assert rows[-1]["speedup"] == 1
    assert rows[0]["overhead_ms"] == pytest.approx(rows[0]["p50_ms"] - rows[0]["runtime_ms"], abs=0.02)


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own(tmp_path, capsys):
    assert benchmark.main(["memory", "shapes:count=1024,size=32", "--json"]) == 0
    alone, more = json.loads(capsys.readouterr().out)["rows"]
    assert (alone["training_images"], more["training_images"]) == (512, 1024)
    assert alone["more_than_the_network_mib"] == 0
    assert alone["peak_mib"] > 100
    assert more["more_than_the_network_mib"] == round(more["peak_mib"] - alone["peak_mib"], 1)
