"""Writes a data set as packed record files (see `data.records`), shard after shard, so that a killed packing goes on.

The same data set gives the same bytes, whether in one go or several. Nothing that has its final name is unfinished; the
manifest comes last.
"""

import io
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_resnet.backends import require_tensorflow
from keras_resnet.data.dataset import DatasetSpec
from keras_resnet.data.images import FORMATS, read_image_file
from keras_resnet.data.records import (
    MANIFEST,
    PLACE,
    SPLITS,
    described,
    file_digest,
    index_name,
    shard_name,
)
from keras_resnet.data.splits import (
    DECODER_JPEG,
    DECODER_TENSORFLOW,
    ArraySplit,
    FileSplit,
    RecordSplit,
    Split,
    StreamSplit,
)
from keras_resnet.errors import UserError
from keras_resnet.storage import atomic_file, sweep, write_json

PLAN = "unfinished.json"  # what is being packed, until the manifest says it
MAX_SHARDS = 99_999

# (encoded image, label, height, width, decoder)
_Example = tuple[bytes, int, int, int, int]


def pack(
    data: DatasetSpec, folder: str | os.PathLike[str], *, shards: int, step: Callable[[int], None] = lambda count: None
) -> Path:
    """Writes a data set.

    Image files keep their bytes; arrays become PNG. Masks are left out.

    Args:
        data: The data set, loaded with its own image size.
        folder: Where to write. What an interrupted packing of the same data set left there is kept and completed.
        shards: Record files of each split; a split of fewer images has one for each image.
        step: Told after every shard how many images are done with it.

    Returns:
        The manifest.

    Raises:
        UserError: Another data set or something else is in the folder, or an image cannot be read.
    """
    require_tensorflow("Packing")
    if not 1 <= shards <= MAX_SHARDS:
        raise UserError(f"The number of shards must lie in 1..{MAX_SHARDS:,}, got {shards}.")
    folder = Path(folder)
    counts = {split: min(shards, len(getattr(data, split))) for split in SPLITS}
    plan = json.loads(json.dumps({**described(data), "shards": counts}))
    _begin(folder, plan)
    files: dict[str, Any] = {}
    splits: dict[str, Any] = {}
    sizes: set[tuple[int, int]] = set()
    for name, count in counts.items():
        split = getattr(data, name)
        ends = [len(split) * number // count for number in range(count + 1)]
        examples = _Examples(split)
        labels = []
        for number, (start, end) in enumerate(itertools.pairwise(ends)):
            shard = folder / shard_name(name, number, count)
            index = folder / index_name(shard.name)
            # The index is renamed first: where the shard stands, both are whole.
            if not (shard.is_file() and index.is_file()):
                _write_shard(shard, index, examples.between(start, end))
            rows = np.load(index, allow_pickle=False)
            labels.append(rows["label"])
            sizes |= set(zip(rows["height"].tolist(), rows["width"].tolist(), strict=True))
            for path in (shard, index):
                files[path.name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            step(end - start)
        by_class = np.bincount(np.concatenate(labels), minlength=len(data.labels))
        splits[name] = {"shards": count, "counts": by_class.tolist()}
    sides = np.array(sorted(sizes))
    ranges = {"height": [int(side) for side in (sides[:, 0].min(), sides[:, 0].max())]}
    ranges["width"] = [int(side) for side in (sides[:, 1].min(), sides[:, 1].max())]
    manifest = folder / MANIFEST
    write_json(manifest, {**described(data), "image_sizes": ranges, "splits": splits, "files": files})
    (folder / PLAN).unlink(missing_ok=True)
    return manifest


def _begin(folder: Path, plan: dict[str, Any]) -> None:
    """Makes sure that the folder is empty or holds the beginning of the same packing."""
    if (folder / MANIFEST).exists():
        raise UserError(f"{folder} holds a packed data set already. Remove it, or choose another folder.")
    stored = folder / PLAN
    if stored.is_file():
        try:
            begun = json.loads(stored.read_text(encoding="utf-8"))
        except ValueError:
            begun = None
        if begun != plan:
            raise UserError(
                f"{folder} holds the beginning of another packing: other data, another number of shards, or another "
                "version. Remove it, or choose another folder."
            )
        sweep(folder)
        return
    if folder.exists() and (not folder.is_dir() or any(not name.startswith(".") for name in os.listdir(folder))):
        raise UserError(f"Records are packed into a folder of their own, {folder} is not empty. Choose another one.")
    write_json(stored, plan)


def _write_shard(shard: Path, index: Path, examples: Iterator[_Example]) -> None:
    import tensorflow as tf

    rows, written = [], 0
    with atomic_file(shard) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for contents, label, height, width, decoder in examples:
                record = _serialized(contents, label, height, width)
                writer.write(record)
                # A record is its length (8 bytes), a checksum (4), the data, and a checksum (4).
                start = written + 12 + record.index(contents)
                rows.append((start, len(contents), zlib.crc32(contents), label, height, width, decoder))
                written += len(record) + 16
        with atomic_file(index) as beside, open(beside, "wb") as file:
            np.save(file, np.array(rows, PLACE), allow_pickle=False)


def _serialized(contents: bytes, label: int, height: int, width: int) -> bytes:
    import tensorflow as tf

    def number(value: int) -> Any:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[contents])),
        "label": number(label),
        "height": number(height),
        "width": number(width),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


class _Examples:
    """The examples of a split, encoded, in its order."""

    def __init__(self, split: Split):
        self._split = split
        # A stream is read once, from one shard to the next.
        self._stream, self._read = (_streamed(split), 0) if isinstance(split, StreamSplit) else (None, 0)

    def between(self, start: int, end: int) -> Iterator[_Example]:
        """Yields the examples at the positions start … end - 1; later calls must ask for later ones."""
        for position in range(start, end):
            if self._stream is None:
                yield _encoded(self._split, position)
                continue
            while self._read < position:
                next(self._stream)
                self._read += 1
            self._read += 1
            yield next(self._stream)


def _encoded(split: Split, position: int) -> _Example:
    label = int(split.labels[position])
    if isinstance(split, ArraySplit):
        image = split.images[position]
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
        return file.getvalue(), label, *image.shape[:2], DECODER_TENSORFLOW
    assert isinstance(split, FileSplit | RecordSplit)
    contents = split.read(position) if isinstance(split, RecordSplit) else read_image_file(split.paths[position])
    if not contents:
        raise UserError(f"{split.paths[position]} is empty since the folder was checked. Replace it, and pack again.")
    return contents, label, *split.sizes[position].tolist(), int(split.decoders[position])


def _streamed(split: StreamSplit) -> Iterator[_Example]:
    import tensorflow as tf

    features = {
        split.image_key: tf.io.FixedLenFeature([], tf.string),
        split.label_key: tf.io.FixedLenFeature([], tf.int64),
    }
    for path, skip, take in split.instructions:
        for record in tf.data.TFRecordDataset(path, buffer_size=1 << 20).skip(skip).take(take).as_numpy_iterator():
            parsed = tf.io.parse_single_example(record, features)
            contents, label = parsed[split.image_key].numpy(), int(parsed[split.label_key])
            with Image.open(io.BytesIO(contents), formats=FORMATS) as image:
                width, height = image.size
            # These files are JPEG or PNG, read as TensorFlow Datasets does: without orientation or opacity.
            yield contents, label, height, width, DECODER_JPEG
