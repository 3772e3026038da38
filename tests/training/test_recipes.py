import dataclasses
import json
import subprocess
import sys

import pytest

from keras_resnet.errors import UserError
from keras_resnet.models.registry import REGISTRY
from keras_resnet.training.named_recipes import RECIPES
from keras_resnet.training.recipes import Recipe, parse_milestones


def test_a_recipe_survives_json():
    recipe = Recipe(epochs=3, image_size=48, data_dir="somewhere", learning_rate=0.3)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_whole_numbers_serve_as_numbers():
    assert Recipe(learning_rate=1) == Recipe(learning_rate=1.0)


def test_learning_rates_grow_with_the_images_of_an_update_where_that_is_asked_for():
    # Goyal et al. 2017, section 2.1: 0.1 for 256 images, 3.2 for 8,192.
    linear = Recipe(learning_rate=0.1, batch_size=2048, accumulate=4, learning_rate_scaling="linear")
    assert linear.learning_rate * linear.rate_factor == pytest.approx(3.2)
    assert Recipe(learning_rate=0.1, batch_size=2048, accumulate=4).rate_factor == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"epochs": None}, "epochs must be a whole number"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite"),
        ({"momentum": 1.0}, "momentum must be below 1"),
        ({"schedule": "cosin"}, "Unknown schedule 'cosin'. Closest: 'cosine'"),
        ({"precision": "float16"}, "Unknown precision 'float16'. Closest:"),
        ({"warmup_epochs": 50, "epochs": 5}, "warmup_epochs must be at most epochs"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"lerning_rate": 0.1}, "Unknown recipe key 'lerning_rate'. Closest: 'learning_rate'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        Recipe.from_dict(settings)


def test_every_setting_has_a_help_text():
    assert all(field.metadata["help"] for field in dataclasses.fields(Recipe))


def test_recipes_need_no_tensorflow():
    loaded = "{'tensorflow', 'keras', 'sklearn', 'yaml'} & set(sys.modules)"
    code = f"import sys, keras_resnet.training.recipe_files; assert not {loaded}"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_is_valid_and_of_a_network(name):
    recipe = Recipe.from_dict(RECIPES[name].settings)
    assert recipe.model in REGISTRY
    assert recipe.to_dict() | RECIPES[name].settings == recipe.to_dict()
    # A publication is named with what it reports.
    assert bool(RECIPES[name].source) == bool(RECIPES[name].result)


def test_the_papers_steps_are_the_recipes():
    he, wrn, goyal = (Recipe.from_dict(RECIPES[name].settings) for name in ("he2015", "wrn", "imagenet_90"))
    assert abs(he.epochs * (45_000 // he.batch_size) - 64_000) < 45_000 // he.batch_size
    assert [round(part * wrn.epochs) for part in parse_milestones(wrn.milestones)] == [60, 120, 160]
    assert [round(part * goyal.epochs) for part in parse_milestones(goyal.milestones)] == [30, 60, 80]


@pytest.mark.parametrize("text", ["", "0.5,0.5", "0.7,0.3", "0,0.5", "0.5,1", "half", "0.5;0.75"])
def test_wrong_milestones_are_refused(text):
    with pytest.raises(UserError, match="milestones must be ascending"):
        Recipe(milestones=text)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match="target_threshold belongs to loss bce"):
        Recipe(target_threshold=0.2)
    with pytest.raises(UserError, match="crop_fraction belongs to resize crop"):
        Recipe(crop_fraction=0.875)
    with pytest.raises(UserError, match="final_learning_rate must be at most"):
        Recipe(learning_rate=0.1, final_learning_rate=0.2)
