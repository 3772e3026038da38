"""Image folders: which files belong to which split and class, and a scan that finds every broken one
beforehand.

Either `PATH/train/<class>/*` with `PATH/test/<class>/*` and, if there is one, `PATH/validation/<class>/*` (or `val`),
or `PATH/<class>/*` alone, which is cut into training (70 %), validation (10 %) and test (20 %) images of every class,
always in the same way. With `train` and `validation` but no `test`, as ImageNet is laid out, the validation images are
the test, and a tenth of the training images becomes the validation. Files whose names do not end like an image's, and
everything whose name starts with "." or "__", do not count.

Every file is scanned once (see `scanning`). What the scan found is kept in an index, so that only files that are new or
changed are read at the next start.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from keras_resnet.data.dataset import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PHOTOGRAPH_SIDE,
    SMALL_SIDE,
    DatasetSpec,
    channel_statistics,
    default_augmentation,
)
from keras_resnet.data.file_index import FileIndex, forget, looked_at
from keras_resnet.data.images import SUFFIXES, is_shown, read_image
from keras_resnet.data.scanning import ScannedFile, scan_files, scanner_version
from keras_resnet.data.splits import FileSplit, hold_out, require_examples
from keras_resnet.errors import UserError

_SHOWN_BAD_FILES = 20
_STATISTICS_FILES = 2000
_SHOWN_SCAN = 2000  # files from which on a bar is shown
_INDEX = "scan"


def load_folder(path: str, *, image_size: int | None = None, bad_images: str = "stop", name: str) -> DatasetSpec:
    """Finds, checks and splits the images of a folder.

    Args:
        path: The folder.
        image_size: Side of the network input. Without it: the images' own size where all have the same one of at most
            64 × 64, else 224. Folders are always read in colour, grey files too.
        bad_images: "stop" raises an error that lists the unreadable files; "skip" leaves them out and counts them.
        name: The data set's name.

    Returns:
        The data set. Mean and standard deviation are computed from up to 2,000 training images where these are small,
        and ImageNet's for photographs.

    Raises:
        UserError: No such folder, no class folder, a class without images, test classes other than the training ones,
            or unreadable images.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"An image folder must exist, there is none at {root}. Check the path.")
    found = _list_splits(root)
    labels = tuple(sorted(found["train"]))
    for split, classes in found.items():
        _check_classes(root, split, classes, labels)
    paths, numbers, splits = [], [], []
    for split, classes in found.items():
        for number, label in enumerate(labels):
            paths += classes[label]
            numbers += [number] * len(classes[label])
            splits += [split] * len(classes[label])
    scanned = _scan(root, paths)
    bad = [index for index, file in enumerate(scanned) if file.problem]
    if bad and bad_images == "stop":
        raise UserError(_bad_files_message(root, [(paths[index], scanned[index].problem) for index in bad]))
    good = np.array([file.problem is None for file in scanned])
    numbers, splits = np.array(numbers, np.int32), np.array(splits)
    for split in found:
        left = np.bincount(numbers[good & (splits == split)], minlength=len(labels))
        if left.min() == 0:
            label = labels[int(left.argmin())]
            raise UserError(f"Class {label!r} has no readable image in {split}. Replace the unreadable files.")

    def positions(split: str) -> np.ndarray:
        return np.flatnonzero(good & (splits == split))

    def part(chosen: np.ndarray) -> FileSplit:
        return FileSplit(
            paths=tuple(paths[index] for index in chosen),
            labels=numbers[chosen],
            sizes=np.array([(scanned[index].height, scanned[index].width) for index in chosen], np.int32),
            decoders=np.array([scanned[index].decoder for index in chosen], np.uint8),
        )

    train = positions("train")
    if "test" in found:
        test = positions("test")
    else:
        rest, held_out = hold_out(numbers[train], 0.2)
        require_examples(held_out, "test", "three images of a class")
        train, test = train[rest], train[held_out]
    if "validation" in found:
        validation = positions("validation")
    else:
        fraction = 0.1 if "test" in found else 0.125  # an eighth of the 80 % left is 10 % of all
        rest, held_out = hold_out(numbers[train], fraction)
        require_examples(held_out, "validation", "two training images of a class")
        train, validation = train[rest], train[held_out]

    train_split = part(train)
    sizes = {(file.height, file.width) for file in scanned if file.problem is None}
    own_size = next(iter(sizes)) if len(sizes) == 1 else None
    is_small = own_size is not None and max(own_size) <= SMALL_SIDE
    height, width = own_size if is_small else (PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE)
    mean, std = _sampled_statistics(train_split) if is_small else (IMAGENET_MEAN, IMAGENET_STD)
    if image_size is not None:
        height = width = image_size
    left_out = Counter(labels[numbers[index]] for index in bad)
    return DatasetSpec(
        name=name,
        labels=labels,
        image_shape=(height, width, 3),
        train=train_split,
        validation=part(validation),
        test=part(test),
        augmentation=default_augmentation((height, width, 3) if is_small else (PHOTOGRAPH_SIDE,) * 2 + (3,)),
        mean=mean,
        std=std,
        fingerprint=_fingerprint(root, paths, scanned),
        bad_images=dict(sorted(left_out.items())),
    )


def forget_scan(dataset: str) -> None:
    """Has the next start scan every file of a data set "folder:PATH" anew; other data sets have no scan."""
    kind, _, path = dataset.partition(":")
    if kind == "folder" and path:
        forget(_INDEX, Path(path).expanduser())


def _scan(root: Path, paths: Sequence[str]) -> list[ScannedFile]:
    """Scans the files that are not in the index as they are now; the others are known."""
    index = FileIndex(_INDEX, root, scanner_version())
    stamps, looked = looked_at(paths)
    found: list[ScannedFile | None] = []
    for path, stamp in zip(paths, stamps, strict=True):
        row = index.find(path, stamp)
        found.append(None if row is None else ScannedFile(*row))
    changed = [number for number, file in enumerate(found) if file is None]
    fresh = scan_files([paths[number] for number in changed], show=len(changed) >= _SHOWN_SCAN)
    for number, file in zip(changed, fresh, strict=True):
        found[number] = file
    scanned = [file for file in found if file is not None]
    if changed or len(index) != len(paths):
        # Unreadable files are left out: they are looked at again each time.
        rows = {
            path: (stamp, file[:-1])
            for path, stamp, file in zip(paths, stamps, scanned, strict=True)
            if file.problem is None
        }
        index.save(rows, looked)
    return scanned


def _list_splits(root: Path) -> dict[str, dict[str, list[str]]]:
    """Split → class → sorted files; only "train" where the folder is not split."""
    if not (root / "train").is_dir():
        classes = _list_classes(root)
        if not classes:
            raise UserError(
                f"An image folder holds one folder per class: {root}/<class>/*.jpg "
                f"or {root}/train/<class>/*.jpg; {root} holds no folder. Sort the images into class folders."
            )
        return {"train": classes}
    found = {"train": _list_classes(root / "train")}
    for split, names in (("validation", ("validation", "val", "valid")), ("test", ("test",))):
        for name in names:
            if (root / name).is_dir():
                found[split] = _list_classes(root / name)
                break
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    if not found["train"]:
        raise UserError(f"{root / 'train'} must hold one folder per class, it holds none. Sort the images into them.")
    return found


def _list_classes(folder: Path) -> dict[str, list[str]]:
    with os.scandir(folder) as entries:
        # `os.path.isdir` answers False for a loop of links, where the entry's own method raises.
        return {
            entry.name: _list_images(entry.path)
            for entry in entries
            if is_shown(entry.name) and os.path.isdir(entry.path)
        }


def _list_images(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(
            entry.path
            for entry in entries
            if is_shown(entry.name) and entry.name.lower().endswith(SUFFIXES) and os.path.isfile(entry.path)
        )


def _check_classes(root: Path, split: str, classes: dict[str, list[str]], labels: tuple[str, ...]) -> None:
    if len(labels) < 2:
        raise UserError(f"Telling classes apart needs two of them at least, {root} holds one: {labels[0]!r}.")
    if set(classes) != set(labels):
        extra, missing = sorted(set(classes) - set(labels)), sorted(set(labels) - set(classes))
        parts = [f"only in {split}: {', '.join(extra[:10])}"] * bool(extra)
        parts += [f"only in train: {', '.join(missing[:10])}"] * bool(missing)
        raise UserError(
            f"The {split} folders must be the classes of train; {'; '.join(parts)}. Rename or move folders."
        )
    empty = sorted(label for label, images in classes.items() if not images)
    if empty:
        raise UserError(
            f"Every class needs at least one image ({', '.join(SUFFIXES)}); none in {split}: "
            f"{', '.join(empty[:10])}. Add images or remove the folder."
        )


def _bad_files_message(root: Path, bad: list[tuple[str, str]]) -> str:
    lines = [f"  {path} {problem}" for path, problem in bad[:_SHOWN_BAD_FILES]]
    if len(bad) > _SHOWN_BAD_FILES:
        lines.append(f"  … and {len(bad) - _SHOWN_BAD_FILES} more")
    count = "1 file that is" if len(bad) == 1 else f"{len(bad)} files that are"
    listing = "\n".join(lines)
    return (
        f"Every file must be a whole image; {root} holds {count} not:\n{listing}\n"
        'Replace or remove them, or leave them out with --skip-bad-images (bad_images="skip").'
    )


def _sampled_statistics(split: FileSplit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    count = min(len(split), _STATISTICS_FILES)
    chosen = np.linspace(0, len(split) - 1, count).astype(int)
    with ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 2)) as pool:
        images = pool.map(lambda index: read_image(split.paths[index], 3), chosen)
        return channel_statistics(np.stack(list(images)))


def _fingerprint(root: Path, paths: Sequence[str], scanned: Sequence[ScannedFile]) -> str:
    """Of relative names, lengths and contents of the readable files: equal for a copy elsewhere."""
    above = len(os.path.join(root, ""))
    rows = sorted(
        f"{path[above:].replace(os.sep, '/')}\0{file.length}\0{file.digest}"
        for path, file in zip(paths, scanned, strict=True)
        if file.problem is None
    )
    return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogateescape")).hexdigest()
