import dataclasses
import json
import subprocess
import sys

import pytest

from keras_resnet.errors import UserError
from keras_resnet.training.recipes import Recipe, load_settings


def test_a_recipe_survives_json():
    recipe = Recipe(epochs=3, image_size=48, data_dir="somewhere", learning_rate=0.3)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_whole_numbers_serve_as_numbers():
    assert Recipe(learning_rate=1) == Recipe(learning_rate=1.0)


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


def test_a_runs_record_serves_as_a_recipe(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({"settings": {"epochs": 7}, "versions": {}}))
    assert load_settings(tmp_path / "recipe.json") == {"epochs": 7}


@pytest.mark.parametrize("content", ["{", "[]", '{"epoch": 3}', None])
def test_bad_recipe_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"mine\.json"):
        load_settings(path)


def test_recipes_need_no_tensorflow():
    code = "import sys, keras_resnet.training.recipes; assert not {'tensorflow', 'keras', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
