"""Training within a budget: what the contestants have in common, and PyTorch's against ours step by step."""

import numpy as np
import pytest

from keras_resnet.benchmarks import budget, budget_keras
from keras_resnet.benchmarks.clock import BudgetClock
from keras_resnet.benchmarks.training import compiled_twin
from keras_resnet.benchmarks.turns import Seconds
from keras_resnet.data.dataset import DatasetSpec
from keras_resnet.data.sources import load_source
from keras_resnet.errors import UserError
from keras_resnet.models.registry import get_config
from keras_resnet.progress import ProgressBar
from keras_resnet.training.fused_normalization import copy_weights
from keras_resnet.training.named_recipes import RECIPES
from keras_resnet.training.networks import create_network
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.schedules import Schedule
from keras_resnet.weights.pytorch import to_state_dict

torch = pytest.importorskip("torch")
budget_torch = pytest.importorskip("keras_resnet.benchmarks.budget_torch")
torch_networks = pytest.importorskip("keras_resnet.benchmarks.torch_networks")


@pytest.fixture(scope="module")
def he2015():
    return Recipe.from_dict({**RECIPES["he2015"].settings, "model": "resnet8", "batch_size": 16})


def test_torch_takes_the_same_steps(he2015):
    """The same weights and batches give the same losses and weights, step after step."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (48, 16, 16, 3), np.uint8)
    labels = random.integers(0, 10, 48).astype(np.int32)
    data = DatasetSpec.from_arrays(images, labels, images, labels, x_validation=images, y_validation=labels)
    twin, preprocessing = compiled_twin(he2015, data)
    model, _ = create_network(he2015, data)
    copy_weights(twin, model)
    network = torch_networks.Network(get_config("resnet8"), 3, 10)
    state = {name: torch.tensor(value) for name, value in to_state_dict(model, "cifar").items()}
    network.load_state_dict(state)
    optimizer = torch_networks.create_optimizer(network, he2015)
    as_input = budget_torch.Normalize(preprocessing.mean, preprocessing.std)

    for start in range(0, 48, 16):
        batch = as_input(torch.from_numpy(images[start : start + 16]))
        loss = budget_torch.train_step(network, optimizer, batch, torch.from_numpy(labels[start : start + 16]).long())
        pixels = ((images[start : start + 16] / 255 - preprocessing.mean) / preprocessing.std).astype(np.float32)
        np.testing.assert_allclose(batch.permute(0, 2, 3, 1).numpy(), pixels, atol=1e-5)
        twin.reset_metrics()
        ours = twin.train_on_batch(pixels, labels[start : start + 16])[0]
        # float32, added up in another order, and a rate of 0.1 makes small differences larger from step to step.
        assert loss == pytest.approx(float(ours), rel=1e-3)
    copy_weights(twin, model)
    ours, theirs = to_state_dict(model, "cifar"), network.state_dict()
    moved = 0
    for name, value in ours.items():
        if name.endswith(("weight", "bias")):
            found = theirs[name].numpy()
            step = np.abs(found - state[name].numpy()).max()
            assert np.abs(value - found).max() < 1e-2 * step, name  # a wrong decay or momentum changes a tenth and more
            moved += 1
    assert moved == 7 * 3 + 2


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.4999, 0.5, 0.6, 0.75, 0.9, 0.999])
def test_torch_has_the_same_rate(he2015, progress):
    schedule = Schedule(name="step", learning_rate=0.1, steps=10_000)
    assert budget_torch.learning_rate(he2015, progress) == pytest.approx(float(schedule(progress * 10_000)), rel=1e-6)


def test_torch_cuts_and_mirrors_as_the_publication():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (400, 32, 32, 3), generator=generator, dtype=torch.uint8)
    changed = budget_torch.crop_flip(images, generator)
    assert changed.dtype == torch.uint8
    shifts, mirrored = set(), 0
    padded = torch.nn.functional.pad(images, (0, 0, 4, 4, 4, 4))
    for image, result in zip(padded, changed, strict=True):
        # Every result is a window of the padded image, as it is or mirrored.
        found = [
            (y, x, flip)
            for y in range(9)
            for x in range(9)
            for flip in (False, True)
            if torch.equal(result.flip(1) if flip else result, image[y : y + 32, x : x + 32])
        ]
        assert len(found) == 1
        shifts.add(found[0][:2])
        mirrored += found[0][2]
    assert len(shifts) > 75  # of 81; all but about 0.6 of them are drawn in 400 times
    assert 150 < mirrored < 250  # five standard deviations


def test_arrays_are_the_images_of_the_files(tmp_path, tiny_data):
    data = budget.decode(tiny_data, tmp_path)
    assignment = budget.Assignment(Recipe(), 1.0, 1, tmp_path, data.labels)
    loaded, source = budget.load_arrays(assignment), load_source(tiny_data)
    np.testing.assert_array_equal(loaded.test.images, source.test.images)
    np.testing.assert_array_equal(loaded.train.images[: len(source.train)], source.train.images)
    assert len(loaded.train) == len(source.train) + len(source.validation)
    np.testing.assert_array_equal(loaded.train.labels[len(source.train) :], source.validation.labels)


@pytest.mark.slow
def test_tests_do_not_change_a_training(tmp_path, tiny_data, monkeypatch):
    """However often averaged weights are tested on the way, the training is the same."""
    trained = []

    def compiled(*arguments):
        trained.append(compiled_twin(*arguments))
        return trained[-1]

    monkeypatch.setattr(budget_keras, "compiled_twin", compiled)
    # Time that passes by images, so that two trainings have the same steps and rates.
    monkeypatch.setattr(BudgetClock, "_now", lambda clock: Seconds(float(clock.images_seen), 0.0))
    data = budget.decode(tiny_data, tmp_path)
    settings = {**RECIPES["fast_cifar"].settings, "model": "resnet8", "batch_size": 32, "precision": "float32"}
    found = []
    for marks in (1, 6):
        assignment = budget.Assignment(Recipe.from_dict(settings), 640.0, marks, tmp_path, data.labels)
        found.append([])
        budget_keras.train_recipe(assignment, {"record": found[-1].append})
    assert [len(marks) for marks in found] == [1, 6]
    (once, _), (often, _) = trained
    variables = (network.variables + network.optimizer.variables for network in (once, often))
    for one, other in zip(*variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(once.optimizer.iterations) == 640 // 32
    # The schedule ends with the budget.
    assert float(once.optimizer.learning_rate) < 0.01 * settings["learning_rate"]


def test_a_framework_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(budget.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-torch\.txt"):
        budget.get_contestant("pytorch")


def test_a_contestant_that_dies_is_not_waited_for():
    progress = ProgressBar(show=False)
    progress.begin("dies", None)
    with pytest.raises(RuntimeError, match="ended with exit code 1"):
        budget.run_contestant("keras_resnet.benchmarks.budget:load_arrays", None, progress)
