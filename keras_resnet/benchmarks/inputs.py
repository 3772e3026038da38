"""`benchmark.py input`: the input pipeline alone beside the training step that it feeds, or what augmentations cost."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_resnet.benchmarks.training import compiled_twin
from keras_resnet.benchmarks.turns import Seconds, take_turns
from keras_resnet.data.augmentation import parse_augmentation
from keras_resnet.data.batches import steps_per_epoch, training_batches
from keras_resnet.data.dataset import DatasetSpec
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.reading import parallel_map
from keras_resnet.data.sources import load_source
from keras_resnet.data.splits import FileSplit, Split
from keras_resnet.errors import UserError
from keras_resnet.progress import ProgressBar
from keras_resnet.training.recipes import Recipe

TURNS = 3


def benchmark_inputs(
    *,
    small_folder: str | None = None,
    photo_folder: str | None = None,
    small_model: str = "resnet20",
    photo_model: str = "resnet18",
    seconds: float = 5.0,
) -> list[dict[str, Any]]:
    """Measures digits, a folder of 32×32 JPEGs and a folder of photographs at 224.

    Args:
        small_folder: Image folder of small images; drawn ones without it.
        photo_folder: Image folder of photographs; drawn ones without it.
        small_model: Network for the small images.
        photo_model: Network for the photographs.
        seconds: Least time that each of pipeline and step is measured for.

    Returns:
        One row per case: images per second of the pipeline, in its first epoch and later, and of the step, and their
        ratio.

    Raises:
        UserError: A folder or a model is not one.
    """
    with tempfile.TemporaryDirectory() as drawn:
        small = small_folder or _draw_folder(Path(drawn) / "small", 1500, (32, 32))
        photos = photo_folder or _draw_folder(Path(drawn) / "photos", 150, (375, 500))
        # All are loaded before the first is measured, so that a wrong folder is named at once.
        cases = {
            "digits": (load_source("digits"), "resnet8", 64),
            "32×32 JPEGs": (load_source(f"folder:{small}", image_size=32), small_model, 128),
            "photographs at 224": (load_source(f"folder:{photos}", image_size=224), photo_model, 16),
        }
        progress = ProgressBar(len(cases))
        return [_input_row(case, *setting, seconds=seconds, progress=progress) for case, setting in cases.items()]


def benchmark_augmentations(
    augmentations: Sequence[str],
    *,
    small_folder: str | None = None,
    photo_folder: str | None = None,
    seconds: float = 5.0,
) -> list[dict[str, Any]]:
    """Measures what augmentations cost: small images in memory, and photographs at 224 that are decoded each time.

    Args:
        augmentations: What `parse_augmentation` reads, each.
        small_folder: Image folder of small images; drawn ones without it.
        photo_folder: Folder of JPEG photographs; drawn ones without it.
        seconds: Least time that each is measured for.

    Returns:
        One row per case and augmentation: the pipeline's images per second and processor time, and its share of the
        speed of the bare work beside it: the same images without augmentation, or files only read and decoded.

    Raises:
        UserError: An augmentation is unknown, or a folder is not one.
    """
    for augmentation in augmentations:
        parse_augmentation(augmentation)
    with tempfile.TemporaryDirectory() as drawn:
        small = small_folder or _draw_folder(Path(drawn) / "small", 1500, (32, 32))
        photos = photo_folder or _draw_folder(Path(drawn) / "photos", 150, (375, 500))
        cases = [
            ("32×32 in memory", load_source(f"folder:{small}", image_size=32), 128),
            ("photographs at 224", load_source(f"folder:{photos}", image_size=224), 64),
        ]
        progress = ProgressBar(len(cases) * len(augmentations))
        return [
            _augmentation_row(*case, augmentation, seconds=seconds, progress=progress)
            for case in cases
            for augmentation in augmentations
        ]


def decoding_seconds(split: FileSplit, *, seconds: float) -> Seconds:
    """Measures `tf.io.read_file` and `tf.io.decode_jpeg` alone, on as many threads as the pipeline; see
    `pipeline_seconds`.
    """
    group = min(64, len(split))

    def decode(path: tf.Tensor) -> tf.Tensor:
        return tf.shape(tf.io.decode_jpeg(tf.io.read_file(path), channels=3))

    files = tf.data.Dataset.from_tensor_slices(list(split.paths)).repeat()
    sizes = iter(parallel_map(files, decode).batch(group).prefetch(tf.data.AUTOTUNE))
    for _ in range(len(split) // group):
        next(sizes)
    return _seconds_an_image(lambda: next(sizes), group, seconds)


def pipeline_seconds(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    augmentation: str = "none",
    warmup_epochs: int = 1,
    seconds: float = 1.0,
    seed: int = 0,
    keep: bool = True,
) -> Seconds:
    """Measures the training pipeline without a network.

    Args:
        split: The training examples.
        preprocessing: The network's input.
        batch_size: Examples per batch.
        augmentation: What `parse_augmentation` reads.
        warmup_epochs: Epochs before the clock starts: the first decodes, and tf.data finds its number of threads.
        seconds: How long is measured at least, over as many epochs as that takes. An epoch of a small split would be
            over while its batches still come out of the prefetch buffer.
        seed: What order and augmentation depend on.
        keep: Whether decoded files may stay in memory.

    Returns:
        Seconds an image, of wall and of processor time.

    Raises:
        UserError: Nothing is measured, or the batch is larger than the split.
    """
    if warmup_epochs < 0 or not seconds > 0:
        raise UserError(
            f"A measurement takes more than 0 seconds, got {seconds} s after {warmup_epochs} warm-up epochs."
        )
    epochs = 2**31 - 1
    options = {"batch_size": batch_size, "augmentation": augmentation, "seed": seed, "epochs": epochs, "keep": keep}
    batches = iter(training_batches(split, preprocessing, **options))
    for _ in range(warmup_epochs * steps_per_epoch(split, batch_size)):
        next(batches)
    return _seconds_an_image(lambda: next(batches), batch_size, seconds)


def _seconds_an_image(step: Callable[[], Any], batch_size: int, seconds: float) -> Seconds:
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - wall) < seconds or not count:
        step()
        count += batch_size
    return Seconds(elapsed / count, (time.process_time() - cpu) / count)


def _input_row(
    case: str, data: DatasetSpec, model: str, batch_size: int, *, seconds: float, progress: ProgressBar
) -> dict[str, Any]:
    recipe = Recipe(model=model, batch_size=min(batch_size, len(data.train)))
    twin, preprocessing = compiled_twin(recipe, data)
    options = {"batch_size": recipe.batch_size, "augmentation": data.augmentation}
    progress.begin(case, (TURNS + 1) * 2, "turns")
    first, _ = pipeline_seconds(data.train, preprocessing, warmup_epochs=0, seconds=1e-3, **options)
    images, labels = next(iter(training_batches(data.train, preprocessing, seed=0, epochs=1, **options)))
    part = seconds / TURNS
    timings = take_turns(
        {
            "pipeline": lambda: pipeline_seconds(data.train, preprocessing, seconds=part, **options),
            "step": lambda: _seconds_an_image(lambda: twin.train_on_batch(images, labels), len(labels), part),
        },
        turns=TURNS,
        progress=progress,
    )
    progress.end()
    pipeline, step = timings["pipeline"], timings["step"]
    return {
        "case": case,
        "images": len(data.train),
        "augmentation": data.augmentation,
        "pipeline_images_per_second": round(1 / pipeline.wall_median, 1),
        "in_the_first_epoch": round(1 / first, 1),
        "model": model,
        "image_size": preprocessing.height,
        "batch_size": recipe.batch_size,
        "training_step_images_per_second": round(1 / step.wall_median, 1),
        "ratio": round(pipeline.speedup_over(step), 2),
    }


def _augmentation_row(
    case: str, data: DatasetSpec, batch_size: int, augmentation: str, *, seconds: float, progress: ProgressBar
) -> dict[str, Any]:
    in_memory = case.endswith("memory")
    part = seconds / TURNS
    preprocessing = data.preprocessing(resize="squash" if in_memory else "crop")
    options = {"batch_size": min(batch_size, len(data.train)), "seconds": part, "keep": in_memory}

    def bare() -> Seconds:
        if in_memory:
            return pipeline_seconds(data.train, preprocessing, **options)
        return decoding_seconds(data.train, seconds=part)

    progress.begin(f"{case}, {augmentation}", (TURNS + 1) * 2, "turns")
    timings = take_turns(
        {
            "pipeline": lambda: pipeline_seconds(data.train, preprocessing, augmentation=augmentation, **options),
            "bare": bare,
        },
        turns=TURNS,
        progress=progress,
    )
    progress.end()
    pipeline, beside = timings["pipeline"], timings["bare"]
    return {
        "case": case,
        "images": len(data.train),
        "augmentation": augmentation,
        "images_per_second": round(1 / pipeline.wall_median, 1),
        "cpu_microseconds": round(1e6 * pipeline.cpu_median, 1),
        "beside": "no augmentation" if in_memory else "decoding alone",
        "beside_images_per_second": round(1 / beside.wall_median, 1),
        "beside_cpu_microseconds": round(1e6 * beside.cpu_median, 1),
        "share": round(pipeline.speedup_over(beside), 3),
        "cpu_share": round(pipeline.cpu_speedup_over(beside), 3),
    }


def _draw_folder(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Writes JPEGs of smooth random colours, in three classes."""
    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8))
        coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(place / f"{number:05d}.jpg", quality=90)
    return folder
