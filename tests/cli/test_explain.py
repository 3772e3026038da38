import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnet.cli.explain import main
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.sources import load_source
from keras_resnet.models.resnet import build_model
from keras_resnet.storage import save_model, write_json

LABELS = ("arrow", "circle", "crescent", "cross", "ring", "square", "star", "triangle")
DATA = "shapes:count=64,size=16"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with a network that was never trained."""
    folder = tmp_path_factory.mktemp("run")
    preprocessing = load_source(DATA).preprocessing()
    save_model(build_model("resnet8", input_shape=(16, 16, 3), num_classes=8), folder / "model.keras", preprocessing)
    write_json(folder / "recipe.json", {"settings": {"dataset": DATA, "seed": 0}})
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (260, 300, 3), np.uint8)).save(folder / "a.jpg")
    Image.fromarray(random.integers(0, 256, (20, 30), np.uint8)).save(folder / "b.png")  # grey
    (folder / "c.png").write_bytes(b"no image")
    return folder


def call(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


def test_good_images_are_done_and_the_bad_one_is_reported(run, photos, tmp_path, capsys):
    code, out, err = call(
        capsys, run, photos, "--method", "gradcam,occlusion", "--grid", "--npy", "--output", tmp_path, "--json"
    )
    assert code == 2
    assert err.count("error:") == 1
    assert "c.png is not an image" in err
    record = json.loads(out)
    drawn = [row for row in record["images"] if "overlay" in row]
    assert len(drawn) == 4
    for row in drawn:
        assert row["class"] in LABELS
        assert 0 < row["probability"] <= 1
        size = (300, 260) if row["file"].endswith("a.jpg") else (30, 20)
        assert np.load(row["array"]).shape == size[::-1]
        assert np.load(row["array"]).dtype == np.float32
        picture = Image.open(row["overlay"])
        assert picture.format == "PNG"
        assert picture.width > size[0]
        assert picture.height > size[1]
    assert Image.open(tmp_path / "grid.png").width > 3 * 224


def test_targets(run, photos, tmp_path, capsys):
    options = (run, photos / "a.jpg", "--output", tmp_path, "--json")
    code, out, _ = call(capsys, *options, "--target", "top3")
    assert code == 0
    rows = json.loads(out)["images"]
    assert len({row["class"] for row in rows}) == 3
    assert [row["probability"] for row in rows] == sorted((row["probability"] for row in rows), reverse=True)
    for target in ("star", "6"):
        assert json.loads(call(capsys, *options, "--target", target)[1])["images"][0]["class"] == "star"


def test_images_of_one_name_do_not_overwrite_each_other(run, photos, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    Image.open(photos / "b.png").save(tmp_path / "other" / "b.png")
    _, out, _ = call(capsys, run, photos / "b.png", tmp_path / "other", "--output", tmp_path / "out", "--json")
    assert len({row["overlay"] for row in json.loads(out)["images"]}) == 2


def test_scores_of_the_run_s_own_data(run, tmp_path, capsys):
    results = tmp_path / "scores.csv"
    code, out, _ = call(capsys, run, "--score", "--limit", 6, "--output", tmp_path, "--results", results, "--json")
    assert code == 0
    scores = json.loads(out)["scores"]
    assert [score["method"] for score in scores] == ["gradcam", "gaussian", "random"]
    assert {"deletion", "road", "sanity", "pointing"} <= set(scores[0]["scores"])
    rows = list(csv.DictReader(results.open()))
    assert [row["method"] for row in rows] == ["gradcam", "gaussian", "random"]
    assert float(rows[0]["deletion"]) == pytest.approx(scores[0]["scores"]["deletion"]["mean"], abs=1e-4)
    assert "--score" in rows[0]["command"]
    assert rows[0]["hardware"]


def test_scores_of_files(run, photos, tmp_path, capsys):
    code, out, _ = call(capsys, run, photos / "a.jpg", photos / "b.png", "--score", "--output", tmp_path)
    assert code == 0
    assert "gaussian" in out
    assert "pointing" not in out  # nobody knows where the object is


def test_gallery_is_written_into_the_run(run, capsys):
    code, out, _ = call(capsys, run, "--gallery", "--limit", 4)
    assert code == 0
    assert (run / "gallery.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert str(run / "gallery.html") in out


def test_drawn_image(run, tmp_path, capsys):
    code, _, _ = call(
        capsys, run, "--method", "activation_maximization", "--target", "star", "--steps", 3, "--output", tmp_path
    )
    assert code == 0
    assert Image.open(tmp_path / "class-star-activation_maximization.png").size == (16, 16)


def test_list_names_methods_and_layers(run, capsys):
    code, out, _ = call(capsys, run, "--list")
    assert code == 0
    assert "integrated_gradients" in out
    assert "stage3_block1_out" in out


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    preprocessing = Preprocessing(16, 16, 3, (0.5,) * 3, (0.25,) * 3)
    headless = build_model("resnet8", input_shape=(16, 16, 3), include_top=False)
    save_model(headless, folder / "headless.keras", preprocessing)
    broken = build_model("resnet8", input_shape=(16, 16, 3), num_classes=8)
    save_model(broken, folder / "good.keras", preprocessing)
    head = broken.get_layer("logits")
    head.set_weights([np.full_like(weight, np.nan) for weight in head.get_weights()])
    save_model(broken, folder / "nan.keras", preprocessing)
    build_model("resnet8", input_shape=(16, 16, 3)).save(folder / "plain.keras")
    (folder / "text.keras").write_text("text")
    (folder / "empty").mkdir()
    keras.utils.clear_session()
    return folder


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("{run} {photos}/a.jpg --layer stage9", "Unknown layer 'stage9'. Valid: features, stage3_block1_out"),
        ("{run} {photos}/a.jpg --layer avg_pool", "needs a layer with height and width"),
        ("{run} {photos}/a.jpg --target 8", "Class 8 is out of range: the model has the classes 0 to 7. Valid: arrow"),
        ("{run} {photos}/a.jpg --target -1", "out of range"),
        (
            "{run} {photos}/a.jpg --target stra",
            "Unknown class 'stra'. Closest: 'star', 'triangle'. Valid: arrow, circle",
        ),
        ("{run} {photos}/a.jpg --method gradcm", "Unknown method 'gradcm'. Closest: 'gradcam'"),
        ("{run} {photos}/a.jpg --smooth more", "Unknown value of --smooth 'more'"),
        ("{run} {photos}/a.jpg --max-batch 0", "--max-batch must be at least 1, got 0"),
        ("{run} {photos}/a.jpg --metod gradcam", "Unknown flag '--metod'. Closest: '--method'"),
        ("{run} {photos}/c.png", "c.png is not an image that can be read"),
        ("{run} {photos}/gone.png", "Cannot read the image"),
        ("{run} {artifacts}/empty", "holds no images"),
        ("{run}", "Nothing to explain: give image files or folders, or --score, --gallery or --list"),
        ("{run} --score --dataset shaps", "Unknown data source 'shaps'"),
        ("{run} --score --dataset digits", "are not the data set's"),
        ("{run} --score --target top3", "--score needs one target per image"),
        ("{run} --gallery --method gradcam,cam", "one method on one layer"),
        ("{run} --method activation_maximization", "name it with --target CLASS"),
        ("{artifacts}/gone {photos}/a.jpg", "There is no model at"),
        ("{artifacts}/empty {photos}/a.jpg", "is not a run directory"),
        ("{artifacts}/text.keras {photos}/a.jpg", "is not a complete .keras file"),
        ("{artifacts}/plain.keras {photos}/a.jpg", "has no preprocessing"),
        ("{artifacts}/headless.keras {photos}/a.jpg", "no classification head"),
        ("{artifacts}/nan.keras {photos}/a.jpg", "holds NaN or infinity in 'logits/kernel'"),
        ("{artifacts}/good.keras --score", "--dataset must say which examples"),
        (
            "keras.applications:ResNet5 {photos}/a.jpg",
            "Unknown keras.applications model 'ResNet5'. Closest: 'ResNet50'",
        ),
        ("keras.applications:ResNet50=gone.h5 {photos}/a.jpg", "There is no weights file gone.h5"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(arguments, sentence, run, photos, artifacts, tmp_path, capsys):
    words = arguments.format(run=run, photos=photos, artifacts=artifacts).split()
    code, out, err = call(capsys, *words, "--output", tmp_path / "out")
    assert code == 2
    assert sentence in err
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert out == ""


def test_help_comes_without_tensorflow():
    import subprocess
    import sys

    code = "import sys; from keras_resnet.cli.explain import build_parser; build_parser().format_help(); "
    code += "print('tensorflow' in sys.modules or 'keras' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "False"


def test_long_and_odd_file_names_are_drawn(run, tmp_path, capsys):
    image = Image.fromarray(np.zeros((20, 20, 3), np.uint8))
    names = ["a" * 246 + ".png", "a" * 245 + "b.png", "ü" * 120 + ".png", os.fsdecode(b"caf\xe9.png")]
    for name in names:
        image.save(tmp_path / name)
    code, out, _ = call(capsys, run, *[tmp_path / name for name in names], "--output", tmp_path / "out", "--json")
    assert code == 0
    overlays = {row["overlay"] for row in json.loads(out)["images"]}
    assert len(overlays) == 4
    assert all(Path(overlay).is_file() for overlay in overlays)


def test_an_unreadable_image_is_an_error_in_scoring_too(run, photos, tmp_path, capsys):
    code, out, err = call(capsys, run, photos, "--score", "--method", "gradcam", "--output", tmp_path)
    assert code == 2
    assert "c.png is not an image" in err
    assert "gradcam" in out


@pytest.mark.parametrize("size", [(15_000, 1), (6_000, 6_000)])
def test_the_memory_of_a_picture_is_bounded(run, tmp_path, size):
    """1 × 15,000 pixels took 8.3 GB: enlarged 240 times."""
    Image.new("L", size, 100).save(tmp_path / "a.png")
    program = (
        "import sys\n"
        "from keras_resnet.cli.explain import main\n"
        "code = main(sys.argv[1:])\n"
        "peak = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(code, peak // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, run, tmp_path / "a.png", "--output", tmp_path / "out"],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    code, megabytes = map(int, done.stdout.splitlines()[-1].split())
    (drawn,) = (tmp_path / "out").iterdir()
    with Image.open(drawn) as picture:
        assert max(picture.size) < 4096 + 500  # captions and colour bar
    # TensorFlow takes 0.6 GB, the 6,000 × 6,000 pixels as the network's input are read from 0.4 GB of floats.
    assert (code, megabytes < 2500) == (0, True), megabytes
