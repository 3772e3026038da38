"""`benchmark.py predict`: photographs from their files to labels, beside the SavedModel alone and `model.predict`."""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet import runtimes
from keras_resnet.artifact import artifact_of
from keras_resnet.benchmarks.exports import random_network
from keras_resnet.benchmarks.turns import take_turns
from keras_resnet.data.images import image_files, read_image, resize_with_pillow
from keras_resnet.data.transforms import normalize
from keras_resnet.errors import UserError
from keras_resnet.export.saved_model import write_saved_model
from keras_resnet.export.serving import serving_network
from keras_resnet.prediction import predict_images
from keras_resnet.progress import ProgressBar

BARE_BATCH = PLAIN_BATCH = 32


def benchmark_predictions(
    name: str, folder: str, *, count: int = 1000, turns: int = 3, progress: ProgressBar
) -> list[dict[str, Any]]:
    """Predicts the images of a folder in turns.

    Args:
        name: A network of the model table; its weights are random.
        folder: Image files, in it and below.
        count: How many images; the files come again where there are fewer.
        turns: How often each contestant runs.
        progress: Takes one step a contestant and turn.

    Returns:
        One row a contestant: `predict_images` from files to labels; the SavedModel that an export writes, on pixels
        that are in memory at its size; `model.predict` over `image_dataset_from_directory`. The share is of the
        SavedModel's images per second.

    Raises:
        UserError: The folder holds an image that cannot be read, or none.
    """
    files = []
    for path, problem in image_files([folder]):
        if problem is not None:
            raise UserError(problem)
        files.append(Path(path))
    model, preprocessing = random_network(name)
    artifact = artifact_of(model, preprocessing)
    with tempfile.TemporaryDirectory() as place:
        # A folder of its own, flat and of the right number, for the contestant that takes a folder.
        photos = Path(place) / "photos" / "all"
        photos.mkdir(parents=True)
        for number in range(count):
            source = files[number % len(files)]
            (photos / f"{number:06d}{source.suffix.lower()}").symlink_to(source.resolve())
        pixels = {path: resize_with_pillow(read_image(path), preprocessing) for path in files}
        images = np.stack([pixels[files[number % len(files)]] for number in range(count)])
        write_saved_model(serving_network(model, preprocessing), preprocessing, Path(place) / "1")
        served = runtimes.open_saved_model(str(Path(place) / "1"))

        def ours() -> None:
            answers = list(predict_images(artifact, [photos]))
            problem = next((answer.error for answer in answers if answer.error is not None), None)
            if problem is not None:
                raise UserError(problem)

        def saved_model() -> None:
            for start in range(0, count, BARE_BATCH):
                served.answer(images[start : start + BARE_BATCH])

        def plain() -> None:
            data = keras.utils.image_dataset_from_directory(
                photos.parent,
                labels=None,
                image_size=(preprocessing.height, preprocessing.width),
                batch_size=PLAIN_BATCH,
                shuffle=False,
                verbose=False,
            )
            model.predict(data.map(lambda batch: normalize(batch, preprocessing)), verbose=0)

        contestants = {"predict_images": ours, "SavedModel alone": saved_model, "model.predict": plain}
        progress.begin(f"predict {name}", (turns + 1) * len(contestants), "turns")
        timings = take_turns(contestants, turns=turns, progress=progress)
        progress.end()
    base = timings["SavedModel alone"]
    return [
        {
            "model": name,
            "contestant": contestant,
            "images": count,
            "images_per_second": round(count / took.wall_median, 1),
            "images_per_cpu_second": round(count / took.cpu_median, 1),
            "share": round(took.speedup_over(base), 3),
            "cpu_share": round(took.cpu_speedup_over(base), 3),
            "turns": turns,
        }
        for contestant, took in timings.items()
    ]
