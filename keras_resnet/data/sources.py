"""Where images come from: one table of sources, and `load_source`, which turns a name into a `DatasetSpec`.

    digits                  scikit-learn's 1,797 handwritten digits; no download, the default
    shapes[:KEY=VALUE,…]    drawn shapes with the object's mask (see `shapes`)
    folder:PATH             an image folder (see `folder`)
    tfds:NAME               a prepared data set of TensorFlow Datasets (see `tfds_source`)
    records:PATH            what `python -m keras_resnet pack` wrote, also at gs://…, https://… (see `records`)
    npz:PATH                NumPy arrays x_train, y_train, x_test, y_test, for `DatasetSpec.from_arrays`

Importing this module imports no TensorFlow, so that a wrong name is answered at once.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_resnet.archives import DAMAGED_ARCHIVE, check_sizes
from keras_resnet.backends import has_tensorflow
from keras_resnet.choices import BAD_IMAGES
from keras_resnet.data.dataset import DatasetSpec, arrays_fingerprint, channel_statistics
from keras_resnet.data.preprocessing import MAX_IMAGE_SIZE
from keras_resnet.data.splits import ArraySplit, hold_out
from keras_resnet.errors import UserError, unknown_name


@dataclass(frozen=True)
class DataSource:
    """One row of the table.

    Attributes:
        load: Takes (argument, name=, data_dir=, image_size=, seed=, bad_images=, **options).
        usage: How its name is written.
        summary: What it yields, in one line.
        options: The names of its own options.
        argument: What follows the colon: "required", "options" (KEY=VALUE,…) or "none".
    """

    load: Callable[..., DatasetSpec]
    usage: str
    summary: str
    options: tuple[str, ...] = ()
    argument: str = "none"


def load_source(
    name: str,
    *,
    data_dir: str | None = None,
    image_size: int | None = None,
    seed: int = 0,
    bad_images: str = "stop",
    **options: Any,
) -> DatasetSpec:
    """Loads a data set by name.

    Args:
        name: A source, with its argument behind a colon where it takes one: "digits", "shapes:count=2000,plant=star",
            "folder:flowers", "tfds:cifar10", "npz:arrays.npz".
        data_dir: Where TensorFlow Datasets keeps prepared data sets; its own default without it.
        image_size: Side of the network input; the source's own choice without it.
        seed: What the drawn images of `shapes` depend on. Splits never do.
        bad_images: "stop" at files of a folder that are not complete images, naming them, or "skip" and count them.
        **options: The source's own options, as an alternative to writing them into the name.

    Returns:
        The data set.

    Raises:
        UserError: An unknown source or option, or data that breaks a rule.
    """
    head, colon, argument = str(name).partition(":")
    if head not in SOURCES:
        if os.path.isdir(str(name)):
            raise UserError(f"A folder of images is written folder:PATH, got {name!r}. Use 'folder:{name}'.")
        raise unknown_name("data source", name, SOURCES)
    source = SOURCES[head]
    if bad_images not in BAD_IMAGES:
        raise unknown_name("choice for bad images", bad_images, BAD_IMAGES)
    is_whole = isinstance(image_size, int) and not isinstance(image_size, bool)
    if image_size is not None and not (is_whole and 1 <= image_size <= MAX_IMAGE_SIZE):
        raise UserError(
            f"The image size must be a whole number of pixels, 1 to {MAX_IMAGE_SIZE:,}, got {image_size!r}."
        )
    if source.argument == "required" and not argument:
        raise UserError(f"The source {head!r} is written {source.usage}, got {name!r}.")
    if source.argument == "none" and colon:
        raise UserError(
            f"The source {head!r} is written {source.usage}, got {name!r}. Leave out what follows the colon."
        )
    if source.argument == "options":
        written = _parse_options(argument)
        twice = sorted(set(written) & set(options))
        if twice:
            raise UserError(
                f"The option {twice[0]!r} is given twice, in the name {name!r} and beside it. Give it once."
            )
        options = {**written, **options}
        argument = ""
    for option in options:
        if option not in source.options:
            raise unknown_name(f"option of the source {head!r}:", option, source.options)
    return source.load(
        argument,
        name=str(name),
        data_dir=data_dir,
        image_size=image_size,
        seed=seed,
        bad_images=bad_images,
        **options,
    )


def _load_digits(argument: str, *, name: str, image_size: int | None, **_: Any) -> DatasetSpec:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Drawn on 8 × 8 cells with 17 grey levels; brought to 32 × 32, where a ResNet for small images has room to shrink.
    scaled = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    bilinear = Image.Resampling.BILINEAR
    images = np.stack([np.asarray(Image.fromarray(image).resize((32, 32), bilinear)) for image in scaled])
    images, labels = images[..., np.newaxis], digits.target.astype(np.int32)
    rest, last = hold_out(labels, 0.2)
    kept, held_out = hold_out(labels[rest], 0.125)  # an eighth of the 80 % left is 10 % of all
    parts = (rest[kept], rest[held_out], last)
    train, validation, test = (ArraySplit(images[chosen], labels[chosen]) for chosen in parts)
    mean, std = channel_statistics(train.images)
    names = tuple(str(number) for number in range(10))
    side = image_size or 32
    fingerprint = arrays_fingerprint(names, train, validation, test)
    return DatasetSpec(name, names, (side, side, 1), train, validation, test, "none", mean, std, fingerprint)


def _load_shapes(
    argument: str,
    *,
    name: str,
    image_size: int | None,
    seed: int,
    count: int | str = 4000,
    size: int | str | None = None,
    plant: str | None = None,
    plant_fraction: float | str = 0.95,
    **_: Any,
) -> DatasetSpec:
    from keras_resnet.data.shapes import SHAPES, draw_shapes

    count = _whole_number("count", count)
    if size is not None and image_size is not None and _whole_number("size", size) != image_size:
        raise UserError(
            f"The shapes have one size, got size={size} and an image size of {image_size}. Give one of them."
        )
    side = _whole_number("size", size if size is not None else image_size or 32)
    try:
        plant_fraction = float(plant_fraction)
    except ValueError:
        raise UserError(f"plant_fraction must be a number in 0..1, got {plant_fraction!r}.") from None
    held_out = max(len(SHAPES), count // 5)
    train, validation, test = (
        ArraySplit(
            *draw_shapes(
                number,
                side,
                seed=seed,
                stream=stream,
                planted_class=plant,
                planted_fraction=plant_fraction,
                marks_follow_class=stream < 2,
            )
        )
        for stream, number in enumerate((count, held_out, held_out))
    )
    mean, std = channel_statistics(train.images)
    fingerprint = arrays_fingerprint(SHAPES, train, validation, test)
    return DatasetSpec(name, SHAPES, (side, side, 3), train, validation, test, "crop_flip", mean, std, fingerprint)


def _load_folder(argument: str, *, name: str, image_size: int | None, bad_images: str, **_: Any) -> DatasetSpec:
    from keras_resnet.data.folder import load_folder

    return load_folder(argument, image_size=image_size, bad_images=bad_images, name=name)


def _load_tfds(argument: str, *, name: str, data_dir: str | None, image_size: int | None, **_: Any) -> DatasetSpec:
    if not has_tensorflow():
        raise UserError(
            f"The source {name!r} is read by TensorFlow, which is not installed: pip install tensorflow-cpu "
            "tensorflow-datasets."
        )
    from keras_resnet.data.tfds_source import load_tfds

    return load_tfds(argument, data_dir=data_dir, image_size=image_size, name=name)


def _load_records(argument: str, *, name: str, image_size: int | None, **_: Any) -> DatasetSpec:
    from keras_resnet.data.records import load_records

    return load_records(argument, image_size=image_size, name=name)


def _load_npz(argument: str, *, name: str, image_size: int | None, **_: Any) -> DatasetSpec:
    path = os.path.expanduser(argument)
    needed = ("x_train", "y_train", "x_test", "y_test")
    known = (*needed, "x_validation", "y_validation", "labels")
    try:
        if not os.path.isfile(path) and os.path.exists(path):
            raise UserError(f"An .npz data set is a regular file, {path} is not. Check the path.")
        with np.load(path, allow_pickle=False) as file:
            # Drawn images on a plain ground are packed 50 times smaller.
            check_sizes(file.zip, free_bytes=256 << 20)
            missing = [key for key in needed if key not in file]
            if missing:
                raise UserError(
                    f"An .npz data set holds {', '.join(needed)}; {path} lacks {', '.join(missing)} "
                    f"and holds {', '.join(file.files) or 'nothing'}."
                )
            arrays = {key: file[key] for key in known if key in file}
    except FileNotFoundError:
        raise UserError(f"An .npz data set must exist, there is none at {path}. Check the path.") from None
    except UserError:
        raise
    except DAMAGED_ARCHIVE:  # also what a single .npy file comes back as: an array, which has no `files`
        raise UserError(
            f"An .npz data set is a complete NumPy archive of plain arrays (no pickled objects), {path} is not. "
            "Write it with numpy.savez."
        ) from None
    if "labels" in arrays:
        arrays["labels"] = [str(label) for label in arrays["labels"]]
    return DatasetSpec.from_arrays(**arrays, image_size=image_size, name=name)


def _parse_options(text: str) -> dict[str, str]:
    options = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not (key and equals and value):
            raise UserError(f"Options of a source are written KEY=VALUE,KEY=VALUE, got {item!r}.")
        options[key.strip()] = value.strip()
    return options


def _whole_number(option: str, value: int | str) -> int:
    try:
        return int(value)
    except ValueError:
        raise UserError(f"{option} must be a whole number, got {value!r}.") from None


SOURCES: dict[str, DataSource] = {
    "digits": DataSource(_load_digits, "digits", "1,797 handwritten digits, 8 × 8 brought to 32 × 32, grey"),
    "shapes": DataSource(
        _load_shapes,
        "shapes[:count=4000,size=32,plant=CLASS,plant_fraction=0.95]",
        "drawn shapes with masks of the object; plant marks one class' images in the corner",
        options=("count", "size", "plant", "plant_fraction"),
        argument="options",
    ),
    "folder": DataSource(_load_folder, "folder:PATH", "an image folder, one folder per class", argument="required"),
    "tfds": DataSource(_load_tfds, "tfds:NAME", "a prepared data set of TensorFlow Datasets", argument="required"),
    "records": DataSource(_load_records, "records:PATH", "packed record files, local or remote", argument="required"),
    "npz": DataSource(_load_npz, "npz:PATH", "arrays x_train, y_train, x_test, y_test", argument="required"),
}
