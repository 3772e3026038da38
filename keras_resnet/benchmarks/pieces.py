"""`benchmark.py pieces`: what each piece of a training is worth, everything else being equal; so, too, what a precision
costs in accuracy.

Each piece trains by `trainer.train`, as train.py does: a tenth of the training images chooses the epoch, and the test
images are looked at once.
"""

import itertools
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_resnet.data.augmentation import parse_augmentation
from keras_resnet.errors import UserError
from keras_resnet.progress import ProgressBar
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.trainer import train

# Each is added to crop_flip on its own, so that its row minus that of crop_flip is what it is worth.
PIECES: dict[str, dict[str, Any]] = {
    "none": {"augmentation": "none"},
    "crop_flip": {"augmentation": "crop_flip"},
    "randaugment": {"augmentation": "crop_flip,randaugment:2:9"},
    "mixup_cutmix": {"augmentation": "crop_flip,mixup_cutmix"},
    "label_smoothing": {"augmentation": "crop_flip", "label_smoothing": 0.1},
    "ema": {"augmentation": "crop_flip", "ema_decay": 0.995},
}


def piece_settings(name: str) -> dict[str, Any]:
    """Returns the settings of a piece: a row of `PIECES`, or an augmentation as `parse_augmentation` reads it.

    Raises:
        UserError: The name is neither, or the row's augmentation is unknown.
    """
    settings = PIECES.get(name, {"augmentation": name})
    try:
        parse_augmentation(settings["augmentation"])
    except UserError as error:
        if name in PIECES:
            raise
        raise UserError(f"A piece is one of {', '.join(PIECES)}, or an augmentation, got {name!r}. {error}") from None
    return settings


def benchmark_pieces(
    names: Sequence[str],
    *,
    dataset: str,
    model: str,
    epochs: int,
    batch_size: int = 128,
    precisions: Sequence[str] = ("float32",),
    seeds: int = 3,
    is_known: Callable[[dict[str, Any]], bool] = lambda row: False,
    save: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> list[dict[str, Any]]:
    """Trains with each piece.

    Args:
        names: Rows of `PIECES`, or augmentations.
        dataset: A data set, as `load_source` names it.
        model: A name of the model table.
        epochs: Epochs of each training.
        batch_size: Images per step.
        precisions: Each piece trains in each of these.
        seeds: How often each trains, with seeds from 0.
        is_known: Whether a sitting before has the row that begins with these columns, which is left out then.
        save: Takes each row as soon as it is there.

    Returns:
        One row for each piece, seed and precision; the seconds are those of all epochs.

    Raises:
        UserError: A piece or the data is wrong, or a loss became NaN or infinite.
    """
    trainings = []
    for name, seed, precision in itertools.product(names, range(seeds), precisions):
        same = {"dataset": dataset, "model": model, "epochs": epochs, "batch_size": batch_size, "seed": seed}
        row = {"piece": name, **same, "precision": precision}
        recipe = Recipe(**same, precision=precision, **piece_settings(name))
        if not is_known(row):
            trainings.append((row, recipe))
    rows = []
    progress = ProgressBar(len(trainings))
    for row, recipe in trainings:
        progress.begin(f"{row['piece']}, {row['precision']}, seed {row['seed']}", epochs, "epochs")

        def count_epochs(line: str) -> None:
            if line.startswith("epoch "):
                progress.step()

        with tempfile.TemporaryDirectory() as folder:
            places = {"runs": f"{folder}/runs", "saved_models": f"{folder}/served"}
            result = train(recipe, name="run", **places, report=count_epochs, report_page=False)
        progress.end()
        keras.backend.clear_session()  # or each network's graphs stay in memory
        rows.append(
            {
                **row,
                "augmentation": recipe.augmentation,
                "label_smoothing": recipe.label_smoothing,
                "ema_decay": recipe.ema_decay,
                "test_accuracy": f"{result.test.top1:.4f}",
                "test_images": result.test.count,
                "seconds": round(result.seconds, 1),
                "cpu_seconds": round(result.cpu_seconds, 1),
            }
        )
        save(rows[-1:])
    return rows
