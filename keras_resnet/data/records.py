"""Packed data sets: TFRecord files with an index of where each image lies, and a manifest that says what they are.

    manifest.json                       version, labels, sizes, counts, and the digest of every other file
    train-00000-of-00016.tfrecord       records of tf.train.Example: "image" (encoded), "label", "height", "width"
    train-00000-of-00016.index.npy      `PLACE`: where the encoded image of each record lies there

Other programs read the records one behind the other. This one reads by the index: any image on its own, so that an
epoch has the order that it has for the same images in files. Reading takes neither TensorFlow nor a parser of records.

On the local disk every file is compared with its digest when the data set is opened; digests are kept by size and time
of the file, so that this takes its time once. Elsewhere the sizes are compared, and each image with its checksum when
it is read.
"""

import dataclasses
import hashlib
import io
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_resnet.data.dataset import DatasetSpec
from keras_resnet.data.file_index import FileIndex, Stamp, looked_at
from keras_resnet.data.ranges import RangeFile, is_remote, join, open_ranges, read_whole
from keras_resnet.data.splits import RecordSplit
from keras_resnet.errors import UserError

MANIFEST = "manifest.json"
VERSION = 1
SPLITS = ("train", "validation", "test")
PLACE = np.dtype(
    [
        ("start", "<i8"),  # of the encoded image, in bytes
        ("length", "<i8"),
        ("checksum", "<u4"),  # CRC-32 of the encoded image
        ("label", "<i4"),
        ("height", "<i4"),
        ("width", "<i4"),
        ("decoder", "u1"),  # as in `FileSplit.decoders`
    ]
)

_SHARD = re.compile(r"(train|validation|test)-(\d{5})-of-(\d{5})\.(tfrecord|index\.npy)")
_FIELDS = {
    "labels": list,
    "image_shape": list,
    "augmentation": str,
    "mean": list,
    "std": list,
    "fingerprint": str,
    "bad_images": dict,
    "splits": dict,
    "files": dict,
}


def shard_name(split: str, number: int, count: int) -> str:
    """Returns the name of a record file; its index has `index_name`."""
    return f"{split}-{number:05d}-of-{count:05d}.tfrecord"


def index_name(shard: str) -> str:
    """Returns the name of the index beside a record file."""
    return shard.removesuffix(".tfrecord") + ".index.npy"


def load_records(path: str, *, image_size: int | None = None, name: str) -> DatasetSpec:
    """Opens a packed data set and checks its files.

    Args:
        path: Its folder, local or remote (see `ranges`).
        image_size: Side of the network input; that of the packed source without it.
        name: The data set's name.

    Returns:
        The data set: the splits, statistics and fingerprint of the packed source.

    Raises:
        UserError: There is no manifest, it is of another version or does not fit the files, or a file is damaged.
    """
    folder = path if is_remote(path) else os.path.expanduser(path)
    manifest = _read_manifest(folder)
    files = {name: _open(join(folder, name), name, manifest) for name in manifest["files"]}
    _check_digests(folder, files, manifest)
    splits = [_open_split(split, files, manifest) for split in SPLITS]
    height, width, channels = manifest["image_shape"]
    if image_size is not None:
        height = width = image_size
    return DatasetSpec(
        name,
        tuple(manifest["labels"]),
        (height, width, channels),
        *splits,
        manifest["augmentation"],
        tuple(manifest["mean"]),
        tuple(manifest["std"]),
        manifest["fingerprint"],
        manifest["bad_images"],
    )


def check_shards(split: RecordSplit) -> None:
    """Raises the UserError for a record file whose images are not those that were packed."""
    for position in range(len(split)):
        split.read(position)


def _read_manifest(folder: str) -> dict[str, Any]:
    where = join(folder, MANIFEST)
    try:
        contents = read_whole(where)
    except OSError as error:
        unfinished = not is_remote(folder) and os.path.isdir(folder) and any(map(_SHARD.fullmatch, os.listdir(folder)))
        hint = "The packing was not finished: run the same `pack` command again" if unfinished else "Check the path"
        reason = error.strerror or error
        raise UserError(
            f"A packed data set has a {MANIFEST}, {folder} has none that can be read ({reason}). {hint}."
        ) from None
    try:
        manifest = json.loads(contents)
        if not isinstance(manifest, dict) or "version" not in manifest:
            raise ValueError("it names no version")
        if manifest["version"] != VERSION:
            raise UserError(
                f"Packed data sets have version {VERSION}, {where} has version {manifest['version']!r}. Pack the "
                "source again, or use the program that wrote it."
            )
        wrong = [field for field, kind in _FIELDS.items() if not isinstance(manifest.get(field), kind)]
        if wrong:
            raise ValueError(f"the field {wrong[0]!r} is missing or of another kind")
        if len(manifest["labels"]) < 2 or not all(isinstance(label, str) for label in manifest["labels"]):
            raise ValueError("labels are two class names or more")
        if len(manifest["image_shape"]) != 3 or set(manifest["splits"]) != set(SPLITS):
            raise ValueError("image_shape has three numbers, and splits are " + ", ".join(SPLITS))
        for name, known in manifest["files"].items():
            if not _SHARD.fullmatch(name) or set(known) != {"bytes", "sha256"}:
                raise ValueError(f"{name!r} is no file of a packed data set with its bytes and sha256")
    except (ValueError, TypeError) as error:
        raise UserError(f"A manifest is written by `pack`, {where} is damaged: {error}. Pack again.") from None
    return manifest


def _open(path: str, name: str, manifest: dict[str, Any]) -> RangeFile:
    try:
        file = open_ranges(path)
    except OSError as error:
        raise UserError(
            f"A packed data set is all files of its manifest, {path} cannot be read: {error.strerror or error}. "
            "Copy the folder again."
        ) from None
    expected = manifest["files"][name]["bytes"]
    if file.size != expected:
        raise UserError(
            f"A packed file has the size in its manifest, {path} has {file.size:,} bytes and not {expected:,}. It is "
            "damaged: copy or pack it again."
        )
    return file


def _check_digests(folder: str, files: dict[str, RangeFile], manifest: dict[str, Any]) -> None:
    if is_remote(folder):
        return
    index = FileIndex("records", folder, str(VERSION))
    stamps, looked = looked_at([file.path for file in files.values()])
    known = {
        name: row[0]
        for name, file, stamp in zip(files, files.values(), stamps, strict=True)
        if (row := index.find(file.path, stamp)) is not None
    }
    missing = [name for name in files if name not in known]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        known |= dict(zip(missing, pool.map(lambda name: file_digest(files[name].path), missing), strict=True))
    for name, digest in known.items():
        if digest != manifest["files"][name]["sha256"]:
            raise UserError(
                f"A packed file has the digest in its manifest, {files[name].path} has not. It is damaged: copy or "
                "pack it again."
            )
    if missing:
        rows: dict[str, tuple[Stamp | None, list[Any]]] = {
            file.path: (stamp, [known[name]]) for name, file, stamp in zip(files, files.values(), stamps, strict=True)
        }
        index.save(rows, looked)


def file_digest(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a local file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_split(split: str, files: dict[str, RangeFile], manifest: dict[str, Any]) -> RecordSplit:
    known = manifest["splits"][split]
    shards = [shard_name(split, number, known["shards"]) for number in range(known["shards"])]
    lacking = [name for shard in shards for name in (shard, index_name(shard)) if name not in files]
    listed = sum(name.startswith(f"{split}-") for name in files)
    if lacking or listed != 2 * len(shards):
        raise UserError(
            f"A manifest lists the shards of every split, that of {split} has {known['shards']} of them and the list "
            f"{listed // 2}. It was changed: pack again."
        )
    parts = [_read_index(files[index_name(shard)], files[shard], len(manifest["labels"])) for shard in shards]
    rows = np.concatenate(parts)
    counts = np.bincount(rows["label"], minlength=len(manifest["labels"])).tolist()
    if counts != known["counts"]:
        raise UserError(
            f"A manifest has the number of images of every class, for {split} {sum(known['counts'])} together; the "
            f"index has {len(rows)}, or others. It was changed: pack again."
        )
    numbers = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    places = np.stack([numbers, rows["start"], rows["length"], rows["checksum"].astype(np.int64)], axis=1)
    sizes = np.stack([rows["height"], rows["width"]], axis=1)
    labels, decoders = np.ascontiguousarray(rows["label"]), np.ascontiguousarray(rows["decoder"])
    return RecordSplit(tuple(files[shard] for shard in shards), places.astype(np.int64), labels, sizes, decoders)


def _read_index(index: RangeFile, shard: RangeFile, classes: int) -> np.ndarray:
    try:
        rows = np.load(io.BytesIO(index.read(0, index.size)), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        rows = None
    if rows is None or rows.dtype != PLACE or rows.ndim != 1 or not len(rows):
        raise UserError(f"An index is written by `pack`, {index.path} is damaged. Copy or pack it again.")
    ends = rows["start"] + rows["length"]
    if rows["label"].min() < 0 or rows["label"].max() >= classes or rows["start"].min() < 0 or ends.max() > shard.size:
        raise UserError(
            f"An index speaks of the images in its record file and the labels of the manifest, {index.path} of others. "
            "Copy or pack them again."
        )
    return rows


def described(data: DatasetSpec) -> dict[str, Any]:
    """What a manifest has of a data set, but for its splits and files."""
    fields = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    kept = {name: fields[name] for name in _FIELDS if name in fields}
    return json.loads(json.dumps({"version": VERSION, **kept}))
