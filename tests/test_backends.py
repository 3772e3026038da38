"""Which backend Keras runs on, what is refused on which, and what is compiled alike on both."""

import json
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import artifact, backends, provenance
from keras_resnet.cli import export, train
from keras_resnet.distribution import create_strategy, jit_compile
from keras_resnet.errors import UserError
from keras_resnet.explanation.methods import METHODS, get_method
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.setup import check_devices


@pytest.fixture
def on(monkeypatch):
    """A function that makes the package believe that Keras runs on another backend."""

    def pretend(name):
        for module in [module for key, module in sys.modules.items() if key.startswith("keras_resnet")]:
            if getattr(module, "backend", None) is not None and module is not keras:
                monkeypatch.setattr(module, "backend", lambda: name)

    return pretend


def test_the_loaded_backend_counts_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert backends.backend() == keras.config.backend() == "tensorflow"


def test_before_keras_is_loaded_the_environment_and_then_its_settings_count(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert backends.backend() == "tensorflow"
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax"}))
    assert backends.backend() == "jax"
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert backends.backend() == "torch"
    (tmp_path / "keras.json").write_text("{")
    monkeypatch.delenv("KERAS_BACKEND")
    assert backends.backend() == "tensorflow"


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("torch", None, "must run on TensorFlow or JAX here, got the backend 'torch'. Set KERAS_BACKEND=tensorflow or"),
        ("jaxx", None, "got the backend 'jaxx'"),
        ("tensorflow", "tensorflow", "TensorFlow is not installed. Set KERAS_BACKEND=jax"),
        ("jax", "jax", "needs JAX, which is not installed: pip install 'keras-resnet"),
    ],
)
def test_a_backend_that_cannot_be_used_is_refused(on, monkeypatch, name, missing, message):
    on(name)
    monkeypatch.setattr(backends, "_is_installed", lambda package: package != missing)
    monkeypatch.setattr(backends, "has_tensorflow", lambda: missing != "tensorflow")
    with pytest.raises(UserError, match=message):
        backends.require_backend()


def test_a_package_whose_import_fails_is_not_installed(monkeypatch):
    class Refusing:
        def find_spec(self, name, path=None, target=None):
            if name == "no_such_package":
                raise ModuleNotFoundError(name)

    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    assert not backends._is_installed("no_such_package")
    assert not backends._is_installed("no_other_package")
    assert backends._is_installed("numpy")


def test_scripts_refuse_what_their_backend_cannot_do(on, tmp_path, capsys):
    on("torch")
    assert train.main(["--runs", str(tmp_path)]) == 2
    assert "Set KERAS_BACKEND=tensorflow" in capsys.readouterr().err
    on("jax")
    (tmp_path / "model.keras").touch()
    output = str(tmp_path / "out")
    assert export.main([str(tmp_path / "model.keras"), "--dataset", "digits", "--output", output]) == 2
    error = capsys.readouterr().err
    assert "An export needs Keras on TensorFlow, got the backend 'jax'. Set KERAS_BACKEND=tensorflow." in error


def test_jax_does_not_run_saved_models_nor_tf_keras_vis(on, tmp_path):
    on("jax")
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(UserError, match="SavedModel, which TensorFlow runs"):
        artifact.load_artifact(tmp_path)
    for name, method in METHODS.items():
        if method.source == "tf-keras-vis":
            with pytest.raises(UserError, match="drawn by tf-keras-vis, which needs Keras on TensorFlow"):
                get_method(name)
        else:
            assert get_method(name) is method


def test_one_device_and_its_compiler_on_jax(on):
    pytest.importorskip("jax")
    on("jax")
    with pytest.raises(UserError, match="On JAX, only training uses several devices"):
        create_strategy("all_gpus")
    with pytest.raises(UserError, match="Unknown devices 'gpu'"):
        create_strategy("gpu")
    strategy = create_strategy("cpu")
    assert strategy.num_replicas_in_sync == 1
    assert jit_compile("auto", strategy) is True
    with pytest.raises(UserError, match="leaves JAX without a compiler"):
        jit_compile("off", strategy)


def test_what_several_devices_cannot_compute_is_refused(on):
    with pytest.raises(UserError, match=r"a multiple of the number of devices \(3\), got 64"):
        check_devices(Recipe(batch_size=64), 3)
    with pytest.raises(UserError, match="accumulate must be 1 on several TensorFlow devices, got 2"):
        check_devices(Recipe(accumulate=2), 2)
    with pytest.raises(UserError, match="xla='on' does not work on several TensorFlow devices"):
        jit_compile("on", SimpleNamespace(num_replicas_in_sync=2))
    assert jit_compile("auto", SimpleNamespace(num_replicas_in_sync=2)) is False
    check_devices(Recipe(accumulate=2), 1)
    on("jax")
    check_devices(Recipe(accumulate=2, batch_norm="per_device"), 2)


def test_results_name_the_backend_where_it_is_not_tensorflow(on):
    assert provenance.command("train.py", ["--seed", "1"]) == "python train.py --seed 1"
    assert "jax" not in provenance.versions()
    on("jax")
    assert provenance.command("train.py", ["--seed", "1"]) == "KERAS_BACKEND=jax python train.py --seed 1"
    versions = provenance.versions()
    assert provenance.result_row()["keras"] == f"{versions['keras']} on JAX {versions['jax']}"


def test_a_compiled_function_reads_the_variables_as_they_are():
    weight = keras.Variable([1.0, 2.0])
    times = backends.compiled(lambda x: x * weight, lambda: [weight], [((None, 2), "float32")])
    np.testing.assert_array_equal(backends.as_array(times(np.ones((3, 2), np.float32))), [[1, 2]] * 3)
    weight.assign([3.0, 4.0])
    np.testing.assert_array_equal(backends.as_array(times(np.ones((1, 2), np.float32))), [[3, 4]])


def test_the_gradient_of_a_sum_of_squares_is_twice_the_place():
    place = tf.constant([1.0, -3.0])
    found = backends.gradient(lambda x: keras.ops.sum(keras.ops.square(x)), place)
    np.testing.assert_array_equal(found, [2.0, -6.0])
