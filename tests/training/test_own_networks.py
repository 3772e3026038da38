"""Trainings of a network from a file: the run keeps the network, whatever becomes of the file."""

import dataclasses
import json

import pytest

from keras_resnet.applications import create_model
from keras_resnet.artifact import load_artifact
from keras_resnet.cli import train as train_script
from keras_resnet.errors import UserError
from keras_resnet.models.config_files import config_from_dict, load_config
from keras_resnet.models.registry import REGISTRY
from keras_resnet.storage import read_config
from keras_resnet.training import callbacks
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.runs import RunDirectory, default_name, find_network
from keras_resnet.training.trainer import train

FIELDS = {"base": "resnet8", "attention": "se", "stem_width": 8, "widths": [8, 16, 32]}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "narrow.json"
    path.write_text(json.dumps(FIELDS))
    return path


@pytest.fixture
def recipe(file, tiny_data):
    options = {"batch_size": 32, "warmup_epochs": 1.0, "augmentation": "none"}
    return Recipe(dataset=tiny_data, model=str(file), epochs=2, **options)


@pytest.fixture
def places(tmp_path):
    return {"runs": tmp_path / "runs", "saved_models": tmp_path / "served", "report_page": False}


def interrupt_in_the_second_epoch(monkeypatch):
    steps = iter(range(4))
    check = callbacks.StopOnLostLoss.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        check(self, batch, logs)
        if next(steps, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.StopOnLostLoss, "on_train_batch_end", on_train_batch_end)


@pytest.mark.slow
def test_a_run_keeps_its_network_when_the_file_changes_or_goes(recipe, file, places, monkeypatch):
    lines, expected = [], load_config(file)
    options = {**places, "report": lines.append}
    with monkeypatch.context() as patch:
        interrupt_in_the_second_epoch(patch)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, **options)
    (folder,) = places["runs"].iterdir()
    assert folder.name == "tiny-narrow-seed0"
    stored = json.loads((folder / "recipe.json").read_text())
    assert config_from_dict(stored["network"]) == expected

    file.write_text(json.dumps({**FIELDS, "attention": "eca"}))
    with pytest.raises(UserError, match=r"begun with another network .*: attention was 'se', is 'eca'"):
        train(recipe, **options)
    file.write_text(json.dumps({**FIELDS, "paper": "Mine 2026"}))  # which changes nothing in the graph
    assert find_network(recipe, RunDirectory(folder)).paper == "Mine 2026"

    file.unlink()
    result = train(recipe, **options)
    assert any("no file" in line and "has a copy" in line for line in lines)
    assert any("Resuming after epoch 1 of 2" in line for line in lines)

    # The run, the served folder and whoever loads them know what it was built from.
    artifact = load_artifact(result.path)
    assert artifact.config == expected
    assert read_config(result.saved_model.parent / "model.keras") == expected
    again = create_model(result.path / "recipe.json", num_classes=3, input_shape=(8, 8, 1))
    assert [weight.path for weight in again.weights] == [weight.path for weight in artifact.model.weights]
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in artifact.model.weights]
    with pytest.raises(UserError, match=r"Cannot read the network .*narrow\.json: No such file"):
        train(recipe, **{**options, "name": "other"})


def test_a_row_of_the_table_is_kept_as_well(recipe, tmp_path):
    run = RunDirectory(tmp_path)
    run.recipe.write_text(json.dumps({"settings": {"model": "resnet8"}, "network": {}}))
    assert find_network(Recipe(model="resnet8"), run) == REGISTRY["resnet8"]
    with pytest.raises(UserError, match="Unknown model 'resnt8'"):
        find_network(Recipe(model="resnt8"), run)
    run.recipe.write_text(json.dumps({"settings": [], "network": {}}))
    with pytest.raises(UserError, match="is not a run's recipe"):
        find_network(Recipe(model="gone.json"), run)


def test_runs_are_called_by_the_network_not_by_the_path(recipe, file):
    assert default_name(recipe) == "tiny-narrow-seed0"
    file.unlink()
    assert default_name(recipe) == "tiny-narrow-seed0"
    for place in ("tiny", "/data/tiny/", "gs://bucket/tiny", "http://127.0.0.1:8000/tiny"):
        assert default_name(dataclasses.replace(recipe, dataset=f"records:{place}")) == "tiny-narrow-seed0"


def test_the_script_refuses_a_wrong_file_before_it_loads_tensorflow(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file.write_text('{"base": "resnet8", "atention": "se"}')
    assert train_script.main(["--model", str(file)]) == 2
    assert "Unknown network field 'atention'. Closest: 'attention'" in capsys.readouterr().err
    assert train_script.main(["--model", "absent.json"]) == 2
    error = capsys.readouterr().err
    assert "Cannot read the network absent.json: No such file" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
