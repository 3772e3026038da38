"""What `test_jax` does in a process of its own, where Keras runs on JAX and TensorFlow cannot be imported.

    python jax_session.py DATA FOLDER

Trains networks on DATA into FOLDER, uses them, and writes FOLDER/session.json and FOLDER/maps.npz.
"""

import contextlib
import dataclasses
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np

from keras_resnet.cli import evaluate, explain, predict
from keras_resnet.cli import train as train_script
from keras_resnet.training.recipes import Recipe

EPOCHS, STEPS = 3, 3
METHODS = ("cam", "gradcam", "gradcam_gradient", "hirescam", "xgradcam", "eigencam", "ablationcam", "scorecam")
ON_IMAGES = ("integrated_gradients", "occlusion")


def recipe(data: str) -> Recipe:
    """Everything that has a state: generators, moments, gradients that wait for an update, averages, a schedule."""
    return Recipe(
        dataset=data,
        epochs=EPOCHS,
        batch_size=32,
        warmup_epochs=1,
        learning_rate=0.05,
        drop_rate=0.3,
        stochastic_depth_rate=0.3,
        ema_decay=0.5,
        optimizer="adamw",
        accumulate=2,
        clip_norm=1.0,
        label_smoothing=0.1,
        class_balance="weights",
        augmentation="crop",
        seed=3,
    )


def main(data: str, folder: Path) -> None:
    from keras_resnet import explain as explain_images
    from keras_resnet.artifact import load_artifact
    from keras_resnet.training import callbacks
    from keras_resnet.training.trainer import train

    found = {}
    places = {"runs": folder / "runs", "saved_models": folder / "saved_models"}
    settings = recipe(data)
    lines: list[str] = []
    whole = train(settings, name="whole", report=lines.append, **places)
    found["lines"] = lines

    check = callbacks.StopOnLostLoss.on_train_batch_end
    left = iter(range(2 * STEPS + 1))  # into the third epoch

    def interrupt(self, batch, logs=None):
        check(self, batch, logs)
        if next(left, None) is None:
            raise KeyboardInterrupt

    callbacks.StopOnLostLoss.on_train_batch_end = interrupt
    options = {"report": lines.append, "report_page": False, **places}
    with contextlib.suppress(KeyboardInterrupt):
        train(settings, name="resumed", **options)
    callbacks.StopOnLostLoss.on_train_batch_end = check
    shutil.copytree(folder / "runs" / "resumed", folder / "runs" / "unfinished")
    train(settings, name="resumed", resume=True, **options)

    # Half precision, layers that thaw, averages of those that wait, and a teacher that takes smaller images.
    other = dataclasses.replace(
        settings,
        weights=str(whole.path / "model.keras"),
        teacher=str(whole.path),
        image_size=12,
        head_epochs=1,
        unfreeze_epochs=1,
        epochs=2,
        accumulate=1,
        precision="mixed_bfloat16",
        optimizer="sgd",
    )
    train(other, name="frozen", **options)

    found["answers"] = {
        "refused": run(train_script, "--dataset", data, "--augmentation", "mixup", "--runs", str(folder)),
        "xla off": run(train_script, "--dataset", data, "--xla", "off", "--name", "x", "--runs", str(folder)),
        "loss lost": run(
            train_script, "--dataset", data, "--batch-size", "32", "--learning-rate", "1e30", "--augmentation", "none",
            "--name", "lost", "--runs", str(folder), "--epochs", "9",
        ),
        "evaluate": run(evaluate, str(whole.path), "--json"),
        "predict": run(predict, str(whole.path), str(image_file(folder)), "--json"),
        "explain": run(
            explain, str(whole.path), str(image_file(folder)), "--method", "all", "--smooth", "flips+scales",
            "--output", str(folder / "maps"), "--json",
        ),
        "tf-keras-vis": run(explain, str(whole.path), str(image_file(folder)), "--method", "layercam"),
    }  # fmt: skip
    artifact = load_artifact(whole.path)
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    maps = {
        name: explain_images(artifact.model, images, [0, 1, 2], name, layer="stage2_block1_out", steps=4)
        for name in METHODS
        if name != "cam"
    }
    maps |= {name: explain_images(artifact.model, images, [0, 1, 2], name, steps=4) for name in ("cam", *ON_IMAGES)}
    np.savez(folder / "maps.npz", images=images, **maps)
    found["tensorflow"] = "tensorflow" in sys.modules
    (folder / "session.json").write_text(json.dumps(found))


def run(script, *arguments: str) -> list:
    """Exit code, standard output and standard error of a script."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = script.main(list(arguments))
    return [code, out.getvalue(), err.getvalue()]


def image_file(folder: Path) -> Path:
    from PIL import Image

    path = folder / "image.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 10), np.uint8)).save(path)
    return path


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
