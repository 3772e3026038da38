"""Writes results/fine_tuning.csv: a pretrained ResNet-20 fine-tuned on few images, beside training from scratch.

Run from the project's root: `PYTHONPATH=. python tests/training/record_fine_tuning.py [--seeds N]`. The task is made of
CIFAR-10: animals or vehicles, ten training images a class. The network's weights are those of CIFAR-10's ten classes
(the publisher's, trained on the same images with other labels), its head is new. From scratch gets the same training
time: as many epochs as fit into it.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from keras_resnet import provenance
from keras_resnet.storage import append_row
from keras_resnet.training.named_recipes import RECIPES
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.trainer import train

ROOT = Path(__file__).resolve().parents[2]
VEHICLES = (0, 1, 8, 9)  # airplane, automobile, ship, truck
IMAGES_PER_CLASS = 10
EPOCHS = 30


def write_task(source: Path, path: Path, seed: int) -> None:
    """Writes the two-class task: few training images, as many for validation, every test image."""
    data = np.load(source)
    labels = {part: np.isin(data[f"y_{part}"].ravel(), VEHICLES).astype(np.int32) for part in ("train", "test")}
    order = np.random.default_rng(seed).permutation(len(labels["train"]))
    chosen = [order[labels["train"][order] == label][: 2 * IMAGES_PER_CLASS] for label in (0, 1)]
    train_rows = np.concatenate([rows[:IMAGES_PER_CLASS] for rows in chosen])
    validation_rows = np.concatenate([rows[IMAGES_PER_CLASS:] for rows in chosen])
    np.savez(
        path,
        labels=np.array(["animal", "vehicle"]),
        x_train=data["x_train"][train_rows],
        y_train=labels["train"][train_rows],
        x_validation=data["x_train"][validation_rows],
        y_validation=labels["train"][validation_rows],
        x_test=data["x_test"],
        y_test=labels["test"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    shared = next(f / "shared" for f in (ROOT.parent, ROOT.parents[1]) if (f / "shared" / "weights").is_dir())
    output = ROOT / "results" / "fine_tuning.csv"
    output.unlink(missing_ok=True)
    common = {"model": "resnet20", "batch_size": 20, "augmentation": "crop_flip"}
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            task = Path(folder) / "task.npz"
            write_task(shared / "data" / "cifar10_subset.npz", task, seed)
            common |= {"dataset": f"npz:{task}", "seed": seed}
            tuning = {**RECIPES["finetune"].settings, "weights": str(shared / "weights" / "resnet20-12fca82f.th")}
            seconds = 0.0
            for way, settings in (("fine-tuned", tuning), ("from scratch", {})):
                epochs = EPOCHS
                if not settings:  # the same time: a short run shows what an epoch takes
                    probe = _run(Recipe.from_dict({**common, "epochs": EPOCHS}), folder, "probe")
                    epochs = max(1, round(EPOCHS * seconds / probe.seconds))
                result = _run(Recipe.from_dict({**settings, **common, "epochs": epochs}), folder, way.replace(" ", "-"))
                seconds = seconds or result.seconds
                append_row(
                    output,
                    {
                        "way": way,
                        "seed": seed,
                        "training_images": 2 * IMAGES_PER_CLASS,
                        "epochs": epochs,
                        "test_accuracy": f"{result.test.top1:.4f}",
                        "balanced_accuracy": f"{result.test.balanced_accuracy:.4f}",
                        "test_images": result.test.count,
                        "training_seconds": f"{result.seconds:.1f}",
                        "training_cpu_seconds": f"{result.cpu_seconds:.1f}",
                        "command": "PYTHONPATH=. python tests/training/record_fine_tuning.py",
                        **provenance.result_row(),
                    },
                )
                print(f"seed {seed}, {way}: {result.test.top1:.2%} after {result.seconds:.0f} s", flush=True)


def _run(recipe: Recipe, folder: str, name: str):
    return train(
        recipe,
        name=name,
        runs=Path(folder) / "runs",
        saved_models=Path(folder) / "saved_models",
        overwrite=True,
        report=lambda line: None,
    )


if __name__ == "__main__":
    main()
