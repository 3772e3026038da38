import json

import pytest

from keras_resnet.errors import UserError
from keras_resnet.training.named_recipes import RECIPES
from keras_resnet.training.recipe_files import load_settings, override
from keras_resnet.training.recipes import Recipe


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


def write(folder, text, name="mine.yaml"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", RECIPES)
def test_yaml_says_what_json_says(tmp_path, name):
    settings = Recipe.from_dict(RECIPES[name].settings).to_dict()
    # JSON is YAML 1.2; and so are its lines without braces and quotes.
    plain = "".join(f"{key}: {'null' if value is None else value}\n" for key, value in settings.items())
    for text in (json.dumps(settings), plain):
        assert Recipe.from_dict(load_settings(write(tmp_path, text))) == Recipe.from_dict(settings)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        # What YAML 1.1 takes for text, a truth value, an octal number, minutes and a date.
        ("weight_decay: 1e-4", {"weight_decay": 1e-4}),
        ("weight_decay: 5.E-5\nlearning_rate: .5", {"weight_decay": 5e-5, "learning_rate": 0.5}),
        ("xla: on", {"xla": "on"}),
        ("xla: off  # slower here", {"xla": "off"}),
        ("epochs: 010", {"epochs": 10}),
        ("data_dir: 1:30", {"data_dir": "1:30"}),
        ("data_dir: 2026-11-25", {"data_dir": "2026-11-25"}),
        ("data_dir: no", {"data_dir": "no"}),
        ("milestones: 0.5,0.75", {"milestones": "0.5,0.75"}),
        ("image_size:", {"image_size": None}),
        ("settings: {epochs: 7}\nversions: {keras: 3.15.1}", {"epochs": 7}),
    ],
)
def test_yaml_is_read_as_people_mean_it(tmp_path, text, settings):
    assert load_settings(write(tmp_path, text, "mine.yml")) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3\nepochs: 4", "must stand in a recipe once, got 'epochs' twice"),
        ('{"epochs": 3, "epochs": 4}', "must stand in a recipe once, got 'epochs' twice"),
        ("lerning_rate: 0.1", "Unknown recipe key 'lerning_rate'. Closest: 'learning_rate'"),
        ("learning-rate: 0.1", "Unknown recipe key 'learning-rate'. Closest: 'learning_rate'"),
        ("- epochs", "got a list"),
        ("epochs", "got a str"),
        ("epochs: [3", "not YAML: expected ',' or ']'"),
        ("epochs: 3\n\tx: 1", "not YAML: found character"),
        ("epochs: 3\n---\nepochs: 4", "not YAML"),
        ("a: &a 1\nepochs: *a", "got an alias"),
        ("epochs: !!python/object/apply:os.system ['true']", "not YAML: could not determine a constructor"),
        ("xla: true", "xla must be one of auto, on, off, got True"),
        ("epochs: 1e2", "epochs must be a whole number, got 100.0"),
        ("learning_rate: '0.1'", "learning_rate must be a number, got '0.1'. Leave out the quotes"),
        ("milestones: 0.5", "milestones must be text, got 0.5. Write it in quotes"),
        ("# nothing\n", "is empty"),
        ("", "is empty"),
    ],
)
def test_bad_yaml_is_refused_in_one_line(tmp_path, text, message):
    path = write(tmp_path, text, "mine.json" if text.startswith("{") else "mine.yaml")
    with pytest.raises(UserError) as error:
        load_settings(path)
    assert message in str(error.value)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{}, {"learning_rate": 0.4, "epochs": 3}, {"optimizer": "lamb"}])
def test_another_optimizer_gets_its_usual_rate_unless_one_is_given(settings):
    recipe, (sentence,) = override(settings, {"optimizer": "adamw"})
    assert recipe == Recipe.from_dict({**settings, "optimizer": "adamw", "learning_rate": 1e-3})
    made_for, rate = settings.get("optimizer", "sgd"), settings.get("learning_rate", 0.1)
    assert (
        f"learning_rate {rate:g} of the recipe belongs to optimizer {made_for}: 0.001 for optimizer adamw" in sentence
    )
    recipe, said = override(settings, {"optimizer": "adamw", "learning_rate": 0.01})
    assert (recipe.learning_rate, said) == (0.01, ())
    same = settings.get("optimizer", "sgd")
    assert override(settings, {"optimizer": same}) == (Recipe.from_dict({**settings, "optimizer": same}), ())


@pytest.mark.parametrize(
    ("settings", "flags", "changed", "said"),
    [
        ({"epochs": 90, "warmup_epochs": 5.0}, {"epochs": 1}, {"warmup_epochs": None}, "shortened to 0.05"),
        ({"final_learning_rate": 0.01}, {"learning_rate": 1e-3}, {"final_learning_rate": 0.0}, "lowered to 0"),
        (
            {"loss": "bce", "target_threshold": 0.2},
            {"loss": "cross_entropy"},
            {"target_threshold": None},
            "left out for loss cross_entropy",
        ),
        (
            {"resize": "crop", "crop_fraction": 0.875},
            {"resize": "squash"},
            {"crop_fraction": 1.0},
            "left out for resize squash",
        ),
    ],
)
def test_a_recipes_setting_gives_way_to_flags_and_flags_do_not(settings, flags, changed, said):
    recipe, sentences = override(settings, flags)
    assert recipe == Recipe.from_dict({**settings, **flags, **changed})
    assert len(sentences) == 1
    assert said in sentences[0]
    with pytest.raises(UserError):
        override({}, {**settings, **flags})
    # Where there is room nothing is said.
    assert override(settings, {}) == (Recipe.from_dict(settings), ())
