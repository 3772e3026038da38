import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet.artifact import load_artifact
from keras_resnet.errors import UserError
from keras_resnet.storage import load_model
from keras_resnet.training import callbacks, setup, trainer
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.trainer import train

EPOCHS, STEPS = 4, 3
# `finished`, which belongs to the module, is made before it.
pytestmark = pytest.mark.usefixtures("bare_runs")


@pytest.fixture(scope="module")
def recipe(tiny_data, tmp_path_factory):
    network = tmp_path_factory.mktemp("network") / "small.json"
    network.write_text(json.dumps({"base": "resnet8", "depths": [1, 1], "widths": [16, 32], "strides": [1, 2]}))
    # Everything that has a state: dropout's and stochastic depth's generators, both moments of the optimizer, gradients
    # that wait for the next epoch (three steps each, two to an update), averages, a schedule.
    return Recipe(
        dataset=tiny_data,
        model=str(network),
        epochs=EPOCHS,
        batch_size=32,
        warmup_epochs=1,
        learning_rate=0.05,
        drop_rate=0.3,
        stochastic_depth_rate=0.3,
        ema_decay=0.5,
        label_smoothing=0.1,
        optimizer="adamw",
        accumulate=2,
        clip_norm=1.0,
        augmentation="crop,mixup:0.4",
        seed=3,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    return {
        "runs": root / "runs",
        "saved_models": root / "saved_models",
        "name": "r",
        "report": lambda line: None,
        "report_page": False,
    }


@pytest.fixture(scope="module")
def finished(recipe, folders):
    return train(recipe, **folders)


def interrupt_at(monkeypatch, step, error=KeyboardInterrupt):
    """Makes the training raise `error` at a step, counted over all epochs from the start of this session."""
    steps = iter(range(step))
    check = callbacks.StopOnLostLoss.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        check(self, batch, logs)
        if next(steps, None) is None:
            raise error

    monkeypatch.setattr(callbacks.StopOnLostLoss, "on_train_batch_end", on_train_batch_end)


def metrics(run):
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    for row in rows:  # times differ between any two runs
        del row["seconds"], row["images_per_second"]
    return rows


def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(recipe, finished, folders, tmp_path, monkeypatch):
    again = {**folders, "runs": tmp_path / "runs", "saved_models": tmp_path / "saved_models"}
    for step in (2 * STEPS + 1, STEPS):  # in the middle of the third epoch, then after the fourth's first steps
        with monkeypatch.context() as patch:
            interrupt_at(patch, step)
            with pytest.raises(KeyboardInterrupt):
                train(recipe, **again)
        assert not (tmp_path / "runs" / "r" / "test_metrics.json").exists()
    lines = []
    resumed = train(recipe, **{**again, "report": lines.append}, resume=True)
    assert any("Resuming after epoch 3 of 4" in line for line in lines)

    expected = np.load(finished.path / "checkpoints" / f"epoch-{EPOCHS:05d}.npz")
    got = np.load(resumed.path / "checkpoints" / f"epoch-{EPOCHS:05d}.npz")
    assert expected.files == got.files
    for name in expected.files:
        if name != "progress":  # it holds times
            np.testing.assert_array_equal(got[name], expected[name])
    first, _ = load_model(finished.path / "model.keras")
    second, _ = load_model(resumed.path / "model.keras")
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert metrics(resumed.path) == metrics(finished.path)
    assert resumed.test == finished.test


def test_a_run_directory_has_everything(finished, recipe):
    assert {path.name for path in finished.path.iterdir()} == {
        "recipe.json",
        "metrics.csv",
        "tensorboard",
        "checkpoints",
        "model.keras",
        "test_metrics.json",
    }
    record = json.loads((finished.path / "recipe.json").read_text())
    assert Recipe.from_dict(record["settings"]) == recipe
    assert len(record["dataset"]["fingerprint"]) == 64
    assert {"tensorflow", "keras", "python"} <= record["versions"].keys()
    assert [int(row["epoch"]) for row in metrics(finished.path)] == [1, 2, 3, 4]
    test = json.loads((finished.path / "test_metrics.json").read_text())
    assert test["count"] == 31  # no batch is dropped
    assert test["top1"] == finished.test.top1
    best = max(metrics(finished.path), key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    assert int(best["epoch"]) == finished.best_epoch


def test_the_stored_model_is_of_built_in_float32_layers(finished):
    model = keras.saving.load_model(finished.path / "model.keras")
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    assert all(layer.compute_dtype == "float32" for layer in model.layers)


def test_the_saved_model_needs_tensorflow_alone(finished, tmp_path):
    predictor = load_artifact(finished.path)
    images = np.random.default_rng(0).uniform(0, 255, (5, 8, 8, 1)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    code = """
import sys
sys.modules["keras"] = sys.modules["keras_resnet"] = None  # an import of either fails
import numpy as np, tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
images = np.load(sys.argv[2])
probabilities = serve(tf.constant(images))["probabilities"].numpy()
np.testing.assert_allclose(serve(images=tf.constant(images[:1]))["probabilities"], probabilities[:1], atol=1e-5)
np.save(sys.argv[3], probabilities)
"""
    subprocess.run(
        [sys.executable, "-c", code, finished.saved_model, tmp_path / "images.npy", tmp_path / "out.npy"],
        check=True,
        cwd=tmp_path,
    )
    # The same operators with the same weights; the batch may be cut differently among threads.
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), predictor.probabilities(images), atol=1e-5)
    served = finished.saved_model.parent
    assert sorted(os.listdir(served)) == ["1", "labels.txt", "model.keras", "preprocessing.json"]
    assert (served / "labels.txt").read_text().split() == list(predictor.labels)
    # One copy of the weights: float32, and some indices.
    variables = sum(file.stat().st_size for file in (finished.saved_model / "variables").iterdir())
    weights = 4 * keras.saving.load_model(finished.path / "model.keras").count_params()
    assert variables < 1.2 * weights
    for artifact in (served, finished.saved_model, served / "model.keras"):
        np.testing.assert_allclose(
            load_artifact(artifact).probabilities(images), predictor.probabilities(images), atol=1e-5
        )


def test_a_finished_run_is_not_overwritten_unasked(recipe, finished, folders):
    for resume in (False, True):
        with pytest.raises(UserError, match="is finished"):
            train(recipe, **folders, resume=resume)
    with pytest.raises(UserError, match="exclude each other"):
        train(recipe, **folders, resume=True, overwrite=True)


def test_another_models_folder_is_not_overwritten_unasked(recipe, finished, folders, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        train(recipe, **{**folders, "runs": tmp_path})


def test_what_is_no_run_is_not_written_into(recipe, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="is not a run and not empty"):
        train(recipe, name="r", runs=tmp_path, saved_models=tmp_path / "s")
    with pytest.raises(UserError, match="no run to resume"):
        train(recipe, name="other", runs=tmp_path, saved_models=tmp_path / "s", resume=True)


@pytest.fixture(scope="module")
def half_way(recipe, tmp_path_factory):
    """The folder of a run that was interrupted behind its second epoch."""
    root = tmp_path_factory.mktemp("half_way")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2 * STEPS)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, name="r", runs=root / "runs", saved_models=root / "s", report=lambda line: None)
    return root / "runs"


@pytest.fixture
def interrupted(half_way, tmp_path):
    """Where a copy of that run is."""
    runs = shutil.copytree(half_way, tmp_path / "runs")
    return {"runs": runs, "saved_models": tmp_path / "s", "name": "r", "report": lambda line: None}


def test_resuming_with_other_settings_or_data_names_them(recipe, interrupted, tmp_path):
    changed = Recipe.from_dict({**recipe.to_dict(), "learning_rate": 0.2, "batch_size": 16})
    with pytest.raises(UserError, match=r"batch_size was 32, is 16; learning_rate was 0\.05, is 0\.2"):
        train(changed, **interrupted)
    path = recipe.dataset.removeprefix("npz:")
    arrays = dict(np.load(path))
    arrays["x_train"][0, 0, 0, 0] ^= 1
    original = Path(path).read_bytes()
    try:
        np.savez(path, **arrays)
        with pytest.raises(UserError, match="fingerprint differs"):
            train(recipe, **interrupted)
    finally:
        Path(path).write_bytes(original)


def test_a_damaged_checkpoint_costs_an_epoch_and_nothing_else(recipe, interrupted, finished):
    newest = interrupted["runs"] / "r" / "checkpoints" / "epoch-00002.npz"
    newest.write_bytes(newest.read_bytes()[:1000])
    lines = []
    result = train(recipe, **{**interrupted, "report": lines.append})
    assert any("epoch-00002.npz is damaged" in line for line in lines)
    assert any("Resuming after epoch 1 of 4" in line for line in lines)
    assert result.test == finished.test
    assert metrics(result.path) == metrics(finished.path)


def test_a_second_process_is_kept_out(recipe, interrupted):
    fcntl = pytest.importorskip("fcntl")
    with open(interrupted["runs"] / "r" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another process"):
            train(recipe, **interrupted)


def test_a_lost_loss_stops_and_says_where(recipe, tmp_path):
    wild = Recipe.from_dict(
        {**recipe.to_dict(), "learning_rate": 1e30, "warmup_epochs": 0, "ema_decay": 0.0, "schedule": "constant"}
    )
    with pytest.raises(UserError, match=r"loss became (nan|inf) in epoch \d, step \d \(learning rate 1e\+30\)"):
        train(wild, name="w", runs=tmp_path, saved_models=tmp_path / "s", report=lambda line: None, report_page=False)
    assert not (tmp_path / "w" / "model.keras").exists()


def test_a_lost_loss_leaves_the_best_checkpoint(recipe, tmp_path, monkeypatch):
    lost = UserError("lost")
    interrupt_at(monkeypatch, STEPS, lost)
    with pytest.raises(UserError, match="lost"):
        train(recipe, name="w", runs=tmp_path, saved_models=tmp_path / "s", report=lambda line: None, report_page=False)
    assert [path.name for path in (tmp_path / "w" / "checkpoints").iterdir()] == ["epoch-00001.npz"]


def test_settings_may_change_while_no_epoch_is_complete(recipe, tmp_path, monkeypatch):
    places = {"name": "w", "runs": tmp_path, "saved_models": tmp_path / "s", "report": lambda line: None}
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, **places)
    lower = Recipe.from_dict({**recipe.to_dict(), "learning_rate": 0.01})
    with pytest.raises(UserError, match=r"learning_rate was 0\.05, is 0\.01"):
        train(lower, **places, resume=True)
    with pytest.raises(KeyboardInterrupt):
        train(lower, **places)
    assert json.loads((tmp_path / "w" / "recipe.json").read_text())["settings"]["learning_rate"] == 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "lamb", "loss": "bce", "target_threshold": 0.2},
        {"optimizer": "lion", "learning_rate": 1e-3, "augmentation": "none"},
        {"optimizer": "sgd", "precision": "mixed_float16"},
    ],
)
def test_other_optimizers_and_losses_train(recipe, tmp_path, options):
    chosen = dataclasses.replace(recipe, **{"epochs": 2, **options})
    result = train(
        chosen, runs=tmp_path, saved_models=tmp_path / "s", name="o", report=lambda line: None, report_page=False
    )
    rows = metrics(result.path)
    assert len(rows) == 2
    assert all(np.isfinite(float(row["loss"])) for row in rows)


def test_more_steps_cannot_be_accumulated_than_there_are(recipe, tmp_path):
    with pytest.raises(UserError, match=r"accumulate must be at most the steps of the training \(12\), got 13"):
        train(dataclasses.replace(recipe, accumulate=13), runs=tmp_path, saved_models=tmp_path, name="x")


def test_a_batch_larger_than_the_data_is_lowered_and_said(recipe, tmp_path):
    lines = []
    large = dataclasses.replace(recipe, batch_size=10**6, epochs=1, accumulate=1)
    result = train(
        large, runs=tmp_path, saved_models=tmp_path / "s", name="large", report=lines.append, report_page=False
    )
    said = next(line for line in lines if "lowered" in line)
    stored = json.loads((result.path / "recipe.json").read_text())
    assert stored["settings"]["batch_size"] == stored["dataset"]["training_images"]
    assert said.startswith("batch_size 1,000,000 is lowered to ")


def test_a_full_disk_is_noticed_before_training(recipe, tmp_path, monkeypatch):
    usage = type(os)("usage")
    usage.free = 1000
    monkeypatch.setattr("keras_resnet.storage.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="disk space"):
        train(recipe, runs=tmp_path, saved_models=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_and_stores_float32(recipe, tmp_path, precision):
    mixed = Recipe.from_dict({**recipe.to_dict(), "precision": precision, "epochs": 2})
    result = train(mixed, runs=tmp_path, saved_models=tmp_path / "s", report=lambda line: None, report_page=False)
    model, _ = load_model(result.path / "model.keras")
    assert all(layer.compute_dtype == "float32" for layer in model.layers)


def test_a_run_killed_before_it_had_a_recipe_is_started_over(recipe, tmp_path):
    from keras_resnet.training.runs import RunDirectory, check_run

    run = RunDirectory(tmp_path / "r")
    run.path.mkdir()
    for name in (".lock", ".0a1b2c-999999999-01234567.tmp-recipe.json"):
        (run.path / name).touch()
    check_run(run, tmp_path / "s", resume=False, overwrite=False)
    (run.path / "thesis.txt").touch()
    with pytest.raises(UserError, match="is not a run and not empty"):
        check_run(run, tmp_path / "s", resume=False, overwrite=False)


@pytest.mark.parametrize("damage", ["junk", "deleted"])
def test_metrics_are_written_anew_from_the_checkpoint(recipe, finished, interrupted, damage):
    path = interrupted["runs"] / "r" / "metrics.csv"
    path.write_bytes(b"\xff\x00junk,\n,,,") if damage == "junk" else path.unlink()
    assert metrics(train(recipe, **interrupted).path) == metrics(finished.path)


def test_a_worker_that_is_not_the_chief_trains_alike_and_writes_nothing(
    recipe, finished, folders, tmp_path, monkeypatch
):
    # It reads the chief's checkpoints; here those of a run that the chief has trained already.
    runs = shutil.copytree(folders["runs"], tmp_path / "runs")
    (runs / "r" / "test_metrics.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    monkeypatch.setattr(trainer, "is_chief", lambda strategy: False)
    result = train(recipe, runs=runs, saved_models=tmp_path / "saved_models", name="r", report=pytest.fail)
    assert result.test.to_dict() == finished.test.to_dict()
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before
    assert not (tmp_path / "saved_models").exists()


def test_devices_are_chosen_before_data_is_read(recipe, tmp_path, monkeypatch):
    order = []
    for module, name in ((trainer, "create_strategy"), (setup, "load_source")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, f=original, **k: order.append(name) or f(*a, **k))
    with pytest.raises(UserError, match="accumulate must be at most"):
        train(dataclasses.replace(recipe, accumulate=10**6), runs=tmp_path, saved_models=tmp_path, name="x")
    assert order == ["create_strategy", "load_source"]


def test_a_run_from_before_a_setting_was_there_resumes(recipe, finished, folders, tmp_path):
    runs = shutil.copytree(folders["runs"], tmp_path / "runs")
    (runs / "r" / "test_metrics.json").unlink()  # nothing but the test is left to be done
    stored = json.loads((runs / "r" / "recipe.json").read_text())
    for name in ("final_learning_rate", "milestones"):
        assert stored["settings"].pop(name) == getattr(Recipe(), name)
    (runs / "r" / "recipe.json").write_text(json.dumps(stored))
    resumed = train(recipe, **{**folders, "runs": runs, "saved_models": tmp_path / "s"}, resume=True)
    assert resumed.test == finished.test
