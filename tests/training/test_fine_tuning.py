import csv
import dataclasses

import keras
import numpy as np
import pytest

from keras_resnet.errors import UserError
from keras_resnet.models.registry import get_config
from keras_resnet.models.resnet import build_model
from keras_resnet.storage import load_model
from keras_resnet.training import checkpoints
from keras_resnet.training.fine_tuning import Freezing, layer_groups, rate_factors
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.trainer import train

pytestmark = pytest.mark.usefixtures("bare_runs")


@pytest.fixture(scope="module")
def model():
    return build_model("resnet8", num_classes=3, input_shape=(8, 8, 1))


@pytest.mark.parametrize("name", ["resnet8", "resnetv2_110", "resnet18d"])
def test_every_layer_is_in_one_group_and_groups_go_from_the_input_to_the_head(name):
    model = build_model(name, num_classes=3, input_shape=(64, 64, 3))
    groups = layer_groups(model)
    names = list(groups)
    assert names[0] == "stem"
    assert names[-1] == "head"
    assert names[1:-1] == [
        f"stage{s + 1}_block{b + 1}" for s, d in enumerate(get_config(name).depths) for b in range(d)
    ]
    assert sorted(layer.name for layers in groups.values() for layer in layers) == sorted(
        layer.name for layer in model.layers
    )
    assert "logits" in {layer.name for layer in groups["head"]}
    assert {layer.name.split("_")[0] for layer in groups["stem"]} == {"images", "stem"}


def test_rates_fall_from_block_to_block(model):
    factors = {variable.path: factor for variable, factor in rate_factors(model, 0.5)}
    assert len(factors) == len(model.trainable_variables)
    assert factors["logits/kernel"] == 1.0
    assert factors["stage3_block1_conv1/kernel"] == 0.5
    assert factors["stage1_block1_conv1/kernel"] == 0.125
    assert factors["stem_conv/kernel"] == 0.0625


def test_stages_join_from_the_top(model):
    freezing = Freezing(model, head_epochs=2, unfreeze_epochs=3, freeze_until="stage2")
    # Stages: 0 stem, 1-3, 4 head. Stage 1 never trains.
    assert [freezing.first_trained(epoch) for epoch in range(12)] == [4, 4, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert Freezing(model, head_epochs=1).first_trained(1) == 0
    assert Freezing(model, freeze_until="head").first_trained(99) == 4
    with pytest.raises(UserError, match=r"Unknown stage 'stage4'\. Closest: 'stage"):
        Freezing(model, freeze_until="stage4")


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("backbone")
    folders = {"runs": root / "runs", "saved_models": root / "saved_models", "report": lambda line: None}
    folders["report_page"] = False
    return train(Recipe(dataset=tiny_data, epochs=1, batch_size=32), name="backbone", **folders), folders


def test_a_frozen_backbone_stays_as_it_was_and_thaws_from_the_top(trained, tiny_data, monkeypatch):
    monkeypatch.setattr(checkpoints, "KEPT", 3)
    result, folders = trained
    recipe = Recipe(
        dataset=tiny_data,
        weights=str(result.path),
        epochs=3,
        batch_size=32,
        head_epochs=1,
        unfreeze_epochs=1,
        layer_decay=0.7,
        learning_rate=0.01,
        ema_decay=0.5,
    )
    tuned = train(recipe, name="tuned", **folders)
    before, _ = load_model(result.path / "model.keras")
    before = {v.path: np.asarray(v) for v in before.weights}
    order = [path for path in before]
    changed = {}
    for epoch in (1, 2, 3):
        with np.load(tuned.path / "checkpoints" / f"epoch-{epoch:05d}.npz") as stored:
            weights = [stored[f"model_{n:05d}"] for n in range(len(stored.files)) if f"model_{n:05d}" in stored.files]
        weights = [w for w in weights if w.dtype == np.float32]
        changed[epoch] = {
            path.split("_")[0] for path, w in zip(order, weights, strict=True) if not np.array_equal(before[path], w)
        }
    assert changed == {
        1: {"logits/kernel", "logits/bias"},
        2: {"logits/kernel", "logits/bias", "stage3"},
        3: {"logits/kernel", "logits/bias", "stage3", "stage2"},
    }


def test_an_interrupted_fine_tuning_resumes_bit_for_bit(trained, tiny_data, monkeypatch):
    result, folders = trained
    recipe = Recipe(
        dataset=tiny_data,
        weights=str(result.path),
        epochs=3,
        batch_size=32,
        head_epochs=1,
        layer_decay=0.5,
        optimizer="adamw",
        clip_factor=0.1,
        class_balance="sampler",
        validation=0.3,
        teacher=str(result.path),
        teacher_temperature=2.0,
    )
    whole = train(recipe, name="whole", **folders)
    save, stops = keras.callbacks.TensorBoard.on_epoch_end, [KeyboardInterrupt]

    def stop_once(self, epoch, logs=None):
        save(self, epoch, logs)
        if epoch == 1 and stops:
            raise stops.pop()

    monkeypatch.setattr(keras.callbacks.TensorBoard, "on_epoch_end", stop_once)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, name="parts", **folders)
    parts = train(recipe, name="parts", resume=True, **folders)
    with (
        np.load(whole.path / "checkpoints" / "epoch-00003.npz") as a,
        np.load(parts.path / "checkpoints" / "epoch-00003.npz") as b,
    ):
        for name in set(a.files) - {"progress"}:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert whole.test == parts.test


def test_a_head_for_other_classes_is_new(trained, tmp_path):
    result, folders = trained
    rng = np.random.default_rng(0)
    arrays = {
        f"{kind}_{part}": rng.integers(0, 256, (30, 8, 8, 1), np.uint8) if kind == "x" else np.arange(30) % 3
        for kind in "xy"
        for part in ("train", "test")
    }
    for file, labels in (("first", "abc"), ("other", "xyz")):
        np.savez(tmp_path / f"{file}.npz", labels=np.array(list(labels)), **arrays)
    first = Recipe(dataset=f"npz:{tmp_path / 'first.npz'}", weights=str(result.path), epochs=1, batch_size=9)
    source = train(first, name="first", **folders)  # numbered classes may be any
    with pytest.warns(UserWarning, match="The head is new"):
        train(
            dataclasses.replace(first, dataset=f"npz:{tmp_path / 'other.npz'}", weights=str(source.path)),
            name="other",
            **folders,
        )


def test_patience_stops_and_a_resumed_run_agrees(trained, tiny_data, monkeypatch):
    _, folders = trained
    lines = []
    # A rate of nothing: no epoch is better than the first.
    recipe = Recipe(dataset=tiny_data, epochs=9, batch_size=32, learning_rate=1e-12, patience=2)
    run = train(recipe, name="patient", **{**folders, "report": lines.append})
    with open(run.path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == run.best_epoch + 2 < 9
    assert any("has been the best one for 2 epochs" in line for line in lines)
    (run.path / "test_metrics.json").unlink()  # as if it had been interrupted before the test
    again = train(recipe, name="patient", resume=True, **folders)
    assert again.test == run.test
    with open(run.path / "metrics.csv") as file:
        assert list(csv.DictReader(file)) == rows


def test_training_at_another_size_than_the_stored_one(trained, tiny_data):
    _, folders = trained
    recipe = Recipe(dataset=tiny_data, epochs=1, batch_size=32, image_size=16, train_image_size=8)
    run = train(recipe, name="sizes", **folders)
    model, preprocessing = load_model(run.path / "model.keras")
    assert model.input_shape == (None, 16, 16, 1)
    assert (preprocessing.height, preprocessing.width) == (16, 16)
    other = train(dataclasses.replace(recipe, train_image_size=None), name="one-size", **folders)
    assert run.test != other.test


def test_head_epochs_end_before_the_run():
    with pytest.raises(UserError, match="head_epochs must be below epochs"):
        Recipe(epochs=2, head_epochs=2)
