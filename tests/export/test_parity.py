import sys
from pathlib import Path

import numpy as np
import pytest

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.export.parity import compare, kl_divergence, mean_correlation, run_artifact
from keras_resnet.models.resnet import build_model
from keras_resnet.storage import save_model


def distributions(count=200, classes=5, seed=0):
    scores = np.random.default_rng(seed).normal(size=(count, classes)) * 3
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


def test_an_equal_artifact_is_within_every_limit():
    source = distributions()
    labels = source.argmax(axis=1)
    found = compare("float32", source, source.copy(), labels=labels)
    assert found["beyond"] == ()
    assert found["agreement"] == found["top1"] == 1.0
    assert found["drop_points"] == found["largest_difference"] == 0.0
    assert found["kl_divergence"] < 1e-6


def test_each_figure_beyond_its_limit_is_named():
    source = distributions()
    labels = source.argmax(axis=1)
    swapped = source.copy()
    swapped[:10] = swapped[:10, ::-1]  # mirrors the classes: most of the ten change their best one
    found = compare("int8", source, swapped, labels=labels)
    assert found["drop_points"] == pytest.approx(100 * (1 - found["agreement"]))
    assert len(found["beyond"]) == 2
    assert "agreement" in found["beyond"][0]
    assert "accuracy drop" in found["beyond"][1]
    assert "probability difference" in compare("float32", source, source + 2e-4)["beyond"][0]
    maps = np.random.default_rng(0).uniform(size=(200, 4, 4))
    found = compare("int8", source, source, source_heatmaps=maps, heatmaps=maps[::-1])
    assert "heat-map correlation" in found["beyond"][0]


def test_not_a_number_is_beyond_every_limit():
    source = distributions()
    assert compare("float32", source, source * np.nan)["beyond"]


def test_two_classes_as_close_as_the_limit_may_change_places():
    source = np.array([[0.50001, 0.49999], [0.9, 0.1]])
    own = np.array([[0.49999, 0.50001], [0.9, 0.1]])
    found = compare("float32", source, own)
    assert found["agreement"] == 0.5
    assert found["beyond"] == ()


def test_few_images_are_no_proof_when_time_cut_them_short():
    source = np.tile([[0.9, 0.1]], (30, 1))
    own = source.copy()
    own[0] = [0.1, 0.9]
    assert compare("int16x8", source, own)["beyond"]
    assert compare("int16x8", source, own, cut_short=True)["beyond"] == ()
    own[:5] = [0.1, 0.9]
    assert compare("int16x8", source, own, cut_short=True)["beyond"]


def test_divergence_and_correlation():
    p, q = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
    assert kl_divergence(p, q) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    maps = np.random.default_rng(0).uniform(size=(3, 4, 4))
    assert mean_correlation(maps, 3 * maps + 1) == pytest.approx(1)
    assert mean_correlation(maps, np.zeros_like(maps)) == 0
    assert mean_correlation(np.zeros_like(maps), np.zeros_like(maps)) == 1


def test_an_artifact_that_does_not_run_is_named(tmp_path):
    (tmp_path / "broken.tflite").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match=r"broken\.tflite does not run"):
        run_artifact("int8", tmp_path / "broken.tflite", np.zeros((1, 4, 4, 3), np.uint8), threads=1)


def test_the_source_runs_from_an_interactive_session_in_the_checkout(tmp_path, monkeypatch):
    root = Path(__file__).parents[2]
    settings = Preprocessing(16, 16, 3, (0.5,) * 3, (0.2,) * 3)
    save_model(build_model("resnet8", num_classes=3, input_shape=(16, 16, 3)), tmp_path / "model.keras", settings)
    monkeypatch.chdir(root)
    # As a notebook's: "" in place of the folder that the package lies in.
    monkeypatch.setattr(sys, "path", ["", *(entry for entry in sys.path if entry and Path(entry).resolve() != root)])
    found = run_artifact("source", tmp_path / "model.keras", np.zeros((2, 16, 16, 3), np.uint8), threads=1)
    assert found["peak_bytes"] > 1e6
