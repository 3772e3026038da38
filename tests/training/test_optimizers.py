import keras
import numpy as np
import pytest
import torch

from keras_resnet.choices import OPTIMIZERS
from keras_resnet.errors import UserError
from keras_resnet.models.resnet import build_model
from keras_resnet.training.optimizers import ADAPTIVE, clip_adaptively, create_optimizer, decays


@pytest.fixture(scope="module")
def model():
    return build_model("resnet8", num_classes=3, input_shape=(8, 8, 1))


def one_step(model, *, gradient, **options):
    """Returns variable name → (before, after) of one step from weights of 1 with equal gradients everywhere."""
    model.set_weights([np.ones(w.shape, "float32") for w in model.get_weights()])
    optimizer = create_optimizer(model, learning_rate=0.1, **options)
    optimizer.build(model.trainable_variables)
    optimizer.apply([keras.ops.ones_like(v) * gradient for v in model.trainable_variables])
    return {v.path: np.asarray(v) for v in model.trainable_variables}


@pytest.mark.parametrize("decay_form", ["l2", "decoupled"])
def test_decay_moves_kernels_and_leaves_normalization_and_biases_alone(model, decay_form):
    after = one_step(model, gradient=0.0, weight_decay=0.5, decay_form=decay_form, momentum_form="classical")
    kernels = [path for path in after if path.endswith("kernel")]
    spared = [path for path in after if path.split("/")[-1] in ("gamma", "beta", "bias")]
    assert len(kernels) + len(spared) == len(after)
    assert {v.path for v in model.trainable_variables if decays(v)} == set(kernels)
    for path in kernels:  # 1 - 0.1 · 0.5 · 1; float32
        np.testing.assert_allclose(after[path], 0.95, rtol=1e-6)
    for path in spared:
        np.testing.assert_array_equal(after[path], 1.0)


def test_l2_passes_through_the_momentum_and_decoupled_does_not():
    moved = {}
    for decay_form in ("l2", "decoupled"):
        toy = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, use_bias=False)])
        toy.layers[0].kernel.assign(np.ones((1, 2), "float32"))
        optimizer = create_optimizer(
            toy, learning_rate=0.1, weight_decay=0.5, decay_form=decay_form, momentum_form="classical"
        )
        optimizer.build(toy.trainable_variables)
        for _ in range(2):
            optimizer.apply([keras.ops.zeros((1, 2))])
        moved[decay_form] = float(np.asarray(toy.layers[0].kernel)[0, 0])
    # l2: v1 = -.05, w = .95; v2 = .9·(-.05) - .1·.5·.95 = -.0925, w = .8575. decoupled: .95² = .9025.
    assert moved["l2"] == pytest.approx(0.8575, rel=1e-6)
    assert moved["decoupled"] == pytest.approx(0.9025, rel=1e-6)


def test_nesterov_looks_ahead(model):
    # First step from rest with gradient 1: classical moves by 0.1, Nesterov by 0.1 · (1 + 0.9).
    classical = one_step(model, gradient=1.0, momentum_form="classical")
    nesterov = one_step(model, gradient=1.0, momentum_form="nesterov")
    np.testing.assert_allclose(next(iter(classical.values())), 0.9, rtol=1e-6)
    np.testing.assert_allclose(next(iter(nesterov.values())), 0.81, rtol=1e-6)


@pytest.mark.parametrize("option", ["momentum_form", "decay_form"])
def test_unknown_forms_are_refused(model, option):
    with pytest.raises(UserError, match="Unknown"):
        create_optimizer(model, learning_rate=0.1, **{option: "nestrov"})


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_optimizers_are_keras_with_decay_on_kernels_alone(model, name):
    after = one_step(model, gradient=0.0, name=name, weight_decay=0.5)
    for path, values in after.items():  # 1 - 0.1 · 0.5 · 1; float32
        np.testing.assert_allclose(values, 0.95 if path.endswith("kernel") else 1.0, rtol=1e-6)
    moved = one_step(model, gradient=0.5, name=name, momentum=0.8)
    reference = ADAPTIVE[name](0.1, beta_1=0.8, weight_decay=0.0)
    model.set_weights([np.ones(w.shape, "float32") for w in model.get_weights()])
    reference.build(model.trainable_variables)
    reference.apply([keras.ops.full(v.shape, 0.5) for v in model.trainable_variables])
    for variable in model.trainable_variables:
        np.testing.assert_array_equal(moved[variable.path], np.asarray(variable))


def test_muon_is_pytorchs_with_kernels_as_matrices():
    rng = np.random.default_rng(0)
    kernel, logits = keras.layers.Conv2D(8, 3, name="kernel"), keras.layers.Dense(5, name="logits")
    network = keras.Sequential([keras.Input((4, 4, 6)), kernel, keras.layers.Flatten(), logits])
    options = {"momentum": 0.9, "weight_decay": 0.1}
    optimizer = create_optimizer(network, learning_rate=0.02, name="muon", **options)
    optimizer.build(network.trainable_variables)
    start = np.asarray(kernel.kernel).reshape(-1, 8)
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    theirs = torch.optim.Muon([parameter], lr=0.02, adjust_lr_fn="match_rms_adamw", **options)
    adamw = keras.optimizers.AdamW(0.02, weight_decay=0.1)
    matrix = keras.Variable(logits.kernel)
    adamw.build([matrix])
    for _ in range(4):
        gradients = [rng.normal(size=v.shape).astype("float32") for v in network.trainable_variables]
        optimizer.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients])
        parameter.grad = torch.from_numpy(gradients[0].reshape(-1, 8))
        theirs.step()
        adamw.apply([keras.ops.convert_to_tensor(gradients[2])])
    moved, expected = np.asarray(kernel.kernel).reshape(-1, 8) - start, parameter.detach().numpy() - start
    # PyTorch iterates in bfloat16, which has 8 bits: a percent or two over five iterations.
    assert np.linalg.norm(moved - expected) < 0.03 * np.linalg.norm(expected)
    np.testing.assert_allclose(np.asarray(logits.kernel), np.asarray(matrix), rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_accumulated_steps_equal_one_step_of_the_large_batch(name):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(24, 5)).astype("float32"), random.integers(0, 3, 24)
    ends = []
    for batch, accumulate in ((24, 1), (6, 4)):
        keras.utils.set_random_seed(0)
        toy = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(3)])
        options = {"weight_decay": 0.1, "clip_norm": 0.5, "accumulate": accumulate, "ema_decay": 0.9}
        optimizer = create_optimizer(toy, learning_rate=0.05, name=name, **options)
        toy.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        toy.fit(x, y, batch_size=batch, epochs=3, shuffle=False, verbose=0)
        assert int(optimizer.iterations) == 3
        ends.append(toy.get_weights())
    for large, small in zip(*ends, strict=True):
        # The same sums in another order; Lion takes the sign of its update, which such an error could turn only at 0.
        np.testing.assert_allclose(small, large, atol=1e-5)


def test_gradients_are_scaled_down_to_their_norm_together(model):
    free = one_step(model, gradient=1.0, momentum_form="classical")
    clipped = one_step(model, gradient=1.0, momentum_form="classical", clip_norm=1.0)
    norm = np.sqrt(sum(values.size for values in free.values()))
    for path, values in clipped.items():
        np.testing.assert_allclose(1 - values, (1 - free[path]) / norm, rtol=1e-3)  # float32 near 1


def test_an_unknown_optimizer_is_refused(model):
    assert set(OPTIMIZERS) == {"sgd", "muon", *ADAPTIVE}
    with pytest.raises(UserError, match=r"Unknown optimizer 'adam'. Closest: 'adamw'"):
        create_optimizer(model, learning_rate=0.1, name="adam")


@pytest.mark.parametrize("gradient", [0.5, 0.0], ids=["gradient", "decay"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slower_variables_move_by_their_part(model, name, gradient):
    factors = [(v, 0.25) for v in model.trainable_variables if v.path.startswith("stage1")]
    decay = 0.0 if gradient else 0.1  # one at a time: together they have a product, in the rate's square
    options = {"gradient": gradient, "name": name, "weight_decay": decay, "decay_form": "decoupled"}
    plain, slowed = one_step(model, **options), one_step(model, **options, rate_factors=factors)
    for path, after in plain.items():
        part = 0.25 if path.startswith("stage1") else 1.0
        # A weight starts at 1, so that float32 rounds its steps to about 1e-7.
        np.testing.assert_allclose(1.0 - slowed[path], part * (1.0 - after), rtol=1e-4, atol=5e-7)


def test_adaptive_clipping_is_the_publications(model):
    rng = np.random.default_rng(0)
    for shape in ((3, 3, 4, 8), (6, 5), (7,)):
        weights = rng.normal(size=shape).astype("float32")
        gradient = (rng.normal(size=shape) * rng.choice([0.001, 10.0], size=shape[-1])).astype("float32")
        if len(shape) == 1:
            gradient *= 10
        clipped = np.asarray(clip_adaptively(keras.ops.convert_to_tensor(gradient), weights, 0.01))
        units = (slice(None),) if len(shape) == 1 else tuple((..., unit) for unit in range(shape[-1]))
        for unit in units:
            limit = 0.01 * max(np.linalg.norm(weights[unit]), 1e-3)
            size = np.linalg.norm(gradient[unit])
            expected = gradient[unit] * min(1.0, limit / size)
            np.testing.assert_allclose(clipped[unit], expected, rtol=1e-5, atol=1e-9)  # float32


def test_adaptive_clipping_spares_the_logits(model):
    before = one_step(model, gradient=100.0)
    after = one_step(model, gradient=100.0, clip_factor=0.01)
    for path, values in after.items():
        assert np.array_equal(values, before[path]) == path.startswith("logits"), path


def test_a_schedule_counts_updates_not_steps():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [1.0, 0.5, 0.25])  # of updates 0, 1 and 2
    variable = keras.Variable([0.0])
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    optimizer = create_optimizer(model, learning_rate=schedule, momentum=0.0, accumulate=3)
    optimizer.build([variable])
    values = []
    for _ in range(9):
        optimizer.apply([keras.ops.ones([1])], [variable])
        values.append(float(variable[0]))
    # Each update takes the rate times the mean gradient of its three steps, 1, off the variable; exact in binary.
    assert values == [0, 0, -1, -1, -1, -1.5, -1.5, -1.5, -1.75]
