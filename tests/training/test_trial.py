import dataclasses
import os

import pytest

from keras_resnet.errors import UserError
from keras_resnet.models.complexity import complexity
from keras_resnet.storage import load_model
from keras_resnet.training import trial
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.trainer import train
from keras_resnet.training.trial import try_training


def silent(line):
    pass


@pytest.fixture(scope="module")
def recipe(tiny_data):
    return Recipe(dataset=tiny_data, epochs=4, batch_size=32, warmup_epochs=1, augmentation="crop", ema_decay=0.5)


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    train(recipe, name="r", runs=root / "runs", saved_models=root / "saved", report=silent, report_page=False)
    return root


def tree(root):
    """Every file and folder below a folder, with its size and time of change."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in (root, *root.rglob("*"))}


def test_a_trial_says_what_the_run_turns_out_to_be(recipe, finished, tmp_path):
    found = try_training(recipe, name="r", runs=tmp_path / "runs", saved_models=tmp_path / "saved", report=silent)
    model, _ = load_model(finished / "runs" / "r" / "model.keras")
    assert found.complexity == complexity(model)
    assert (found.steps, found.epochs_done) == (3, 0)
    assert (found.dataset["training_images"], found.dataset["test_images"]) == (98, 31)
    checkpoints = list((finished / "runs" / "r" / "checkpoints").iterdir())
    # Beside the arrays the archive has a header of some 250 bytes for each, here of small ones.
    for path in checkpoints:
        assert found.checkpoint_bytes < path.stat().st_size < found.checkpoint_bytes + 100_000
    assert found.disk_bytes >= len(checkpoints) * found.checkpoint_bytes + 3 * 4 * model.count_params()
    # Four epochs of three steps, each with a validation of one batch, and one of the test.
    assert found.training_seconds == pytest.approx(4 * 3 * found.step_seconds)
    assert found.evaluation_seconds == pytest.approx((4 * 1 + 1) * found.validation_seconds)
    assert min(found.step_seconds, found.input_seconds, found.validation_seconds, found.start_seconds) > 0
    assert found.measured_steps >= trial.MIN_STEPS
    assert list(tmp_path.iterdir()) == []


def test_a_begun_run_is_counted_and_left_as_it_is(recipe, finished):
    run = finished / "runs" / "r"
    metrics = (run / "test_metrics.json").read_bytes()
    places = {"name": "r", "runs": finished / "runs", "saved_models": finished / "saved", "report": silent}
    with pytest.raises(UserError, match="is finished"):
        try_training(recipe, **places)
    (run / "test_metrics.json").unlink()
    try:
        before = tree(finished)
        with pytest.raises(UserError, match=r"learning_rate was 0\.1, is 0\.2"):
            try_training(dataclasses.replace(recipe, learning_rate=0.2), **places)
        found = try_training(recipe, **places, resume=True)
        assert (found.epochs_done, found.training_seconds) == (4, 0)
        assert try_training(recipe, **places, overwrite=True).epochs_done == 0
        assert tree(finished) == before
    finally:
        (run / "test_metrics.json").write_bytes(metrics)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 13}, "accumulate must be at most the steps of the training"),
        ({"augmentation": "crp"}, "'crp'"),
        ({"image_size": 9000}, "The image size must be"),
        ({"resize": "crop", "crop_fraction": 0.0005}, "before the crop"),
        ({"weights": "timm:a1_in1k"}, "There are no published weights for 'resnet8'"),
        ({"learning_rate": 1e30, "warmup_epochs": 0.0, "schedule": "constant"}, "The loss became"),
    ],
)
def test_what_training_refuses_is_refused(recipe, tmp_path, changes, message):
    wrong = dataclasses.replace(recipe, **changes)
    for start in (try_training, train):
        places = {"runs": tmp_path / start.__name__, "saved_models": tmp_path / f"s_{start.__name__}"}
        with pytest.raises(UserError, match=message):
            start(wrong, name="r", report=silent, **places)
    assert not (tmp_path / "try_training").exists()


def test_places_that_cannot_be_written_are_refused(recipe, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        try_training(recipe, runs=tmp_path / "file" / "runs", saved_models=tmp_path, report=silent)
    usage = type(os)("usage")
    usage.free = 1000
    monkeypatch.setattr("keras_resnet.storage.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="disk space"):
        try_training(recipe, runs=tmp_path / "runs", saved_models=tmp_path, report=silent)


def test_a_run_in_which_another_process_trains_is_refused(recipe, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "r").mkdir()
    with open(tmp_path / "r" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another process"):
            try_training(recipe, name="r", runs=tmp_path, saved_models=tmp_path / "s", report=silent)


def test_published_weights_are_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_RESNET_CACHE", str(tmp_path / "cache"))
    lines = []
    recipe = Recipe(model="resnet20", weights="akamaster:cifar10")
    assert trial._without_download(recipe, lines.append).weights is None
    assert "will be downloaded by the training" in lines[0]
    assert not (tmp_path / "cache").exists()
