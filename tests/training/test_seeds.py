import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_resnet.errors import UserError
from keras_resnet.storage import load_model
from keras_resnet.training import seeds
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.seeds import spread, train_seeds

ROOT = Path(__file__).parents[2]


def silent(line):
    pass


@pytest.fixture(scope="module")
def recipe(tiny_data):
    return Recipe(
        dataset=tiny_data,
        image_size=16,
        epochs=1,
        batch_size=32,
        drop_rate=0.3,
        stochastic_depth_rate=0.2,
        augmentation="crop",
        seed=5,
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("seeds")
    return {"name": "s", "runs": root / "runs", "saved_models": root / "saved", "report": silent}


@pytest.fixture(scope="module")
def done(recipe, places, bare_runs_module):
    return train_seeds(recipe, 2, **places)


@pytest.mark.slow
def test_each_run_is_that_of_a_process_of_its_own(recipe, done, tmp_path):
    assert [(run.path.name, run.seed, run.was_finished) for run in done] == [
        ("s-seed5", 5, False),
        ("s-seed6", 6, False),
    ]
    (tmp_path / "r.json").write_text(json.dumps({**recipe.to_dict(), "seed": 6}))
    alone = [sys.executable, str(ROOT / "train.py"), "--recipe", "r.json", "--name", "alone"]
    subprocess.run(alone, cwd=tmp_path, check=True, capture_output=True)
    second, _ = load_model(done[1].path / "model.keras")
    own, _ = load_model(tmp_path / "runs" / "alone" / "model.keras")
    for a, b in zip(second.get_weights(), own.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    metrics = [json.loads((path / "test_metrics.json").read_text()) for path in (done[1].path, tmp_path / "runs/alone")]
    for each in metrics:
        del each["training_seconds"], each["training_cpu_seconds"]
        each.pop("input_images_per_second", None)  # measured for the page
    assert metrics[0] == metrics[1]


def test_finished_runs_are_read_and_the_others_trained(recipe, places, done, monkeypatch):
    trained = []
    original = seeds.train
    monkeypatch.setattr(seeds, "train", lambda r, **options: trained.append(r.seed) or original(r, **options))
    assert train_seeds(recipe, 2, **places) == [dataclasses.replace(run, was_finished=True) for run in done]
    assert trained == []
    # An interrupted one goes on: here it lacks nothing but the end.
    (done[1].path / "test_metrics.json").unlink()
    said, told = [], []
    again = train_seeds(recipe, 2, **{**places, "report": said.append}, finished=told.append)
    assert trained == [6]
    assert told == again
    assert [run.was_finished for run in again] == [True, False]
    assert any("Resuming after epoch 1 of 1" in line for line in said)
    assert again[1].test_accuracy == done[1].test_accuracy


def test_finished_runs_with_other_settings_are_refused_before_any_training(recipe, places, done, monkeypatch):
    monkeypatch.setattr(seeds, "train", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(UserError, match=r"learning_rate was 0\.1, is 0\.2"):
        train_seeds(dataclasses.replace(recipe, learning_rate=0.2), 3, **places)
    with pytest.raises(UserError, match="seed must be at most"):
        train_seeds(dataclasses.replace(recipe, seed=2**31 - 1), 2, **places)


def test_overwriting_removes_all_of_them_first_but_not_for_a_training_that_cannot_begin(
    recipe, places, done, monkeypatch
):
    with pytest.raises(UserError, match="accumulate must be at most"):
        train_seeds(dataclasses.replace(recipe, accumulate=99), 2, **places, overwrite=True)
    assert all((run.path / "test_metrics.json").exists() for run in done)

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(seeds, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_seeds(recipe, 2, **places, overwrite=True)
    assert not any(run.path.exists() for run in done)


def test_the_spread_is_the_samples():
    # Four of the sample whose standard deviation is known: 2, 4, 4, 6 has the variance 8 / 3.
    assert spread([2.0, 4.0, 4.0, 6.0]) == pytest.approx((4.0, (8 / 3) ** 0.5))
