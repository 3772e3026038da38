"""The scan of image files: every file is read and checked once, because a damaged one would otherwise stop a training
run hours later. Every file that passes can be read by the decoder that may read it later.

JPEG and PNG files of usual forms are checked by their structure (see `jpeg_structure` and `png_structure`); all others
are decoded. Neither check notices changes in the compressed data of a JPEG that create no marker: libjpeg decodes a
wrong picture and reports no error.
"""

import contextlib
import functools
import hashlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from PIL import Image, UnidentifiedImageError
from PIL import __version__ as PILLOW

from keras_resnet.backends import has_tensorflow
from keras_resnet.data.images import FORMATS, read_file
from keras_resnet.data.jpeg_structure import whole_jpeg
from keras_resnet.data.png_structure import whole_png
from keras_resnet.data.splits import DECODER_JPEG, DECODER_PILLOW, DECODER_TENSORFLOW, FileSplit, RecordSplit, Split
from keras_resnet.errors import UserError

_CHUNK = 64  # files that a thread takes at a time and decodes in one call
_WAITING_BYTES = 8 << 20
_TURNED = range(2, 9)  # EXIF orientations other than upright

Check = Literal["structure", "decode"]


class ScannedFile(NamedTuple):
    """What the scan found out about one file; `problem` says what is wrong with it, if anything is."""

    height: int = 0
    width: int = 0
    decoder: int = DECODER_TENSORFLOW
    length: int = 0
    digest: str = ""
    problem: str | None = None


def scanner_version() -> str:
    """What the result of a scan depends on besides the files, without importing TensorFlow."""
    found = importlib.util.find_spec("tensorflow") if has_tensorflow() else None
    decoder = "" if found is None or found.origin is None else f"{found.origin} {os.stat(found.origin).st_mtime_ns}"
    return f"2 Pillow {PILLOW} TensorFlow {decoder}"


def scan_files(paths: Sequence[str], *, check: Check = "structure", show: bool = False) -> list[ScannedFile]:
    """Reads and checks every file once, in threads (Pillow, hashlib and TensorFlow work outside of Python's lock).

    Args:
        paths: Image files.
        check: "structure" decodes only files whose structure does not show them to be complete; "decode" decodes all.
        show: Whether a bar is shown.

    Returns:
        One result per file, in the same order. Nothing is raised for a broken file: its `problem` is set.
    """
    from tqdm import tqdm

    threads = min(32, os.cpu_count() or 1)
    size = min(_CHUNK, len(paths) // (4 * threads) + 1)  # so that threads share even a few large files
    chunks = [paths[start : start + size] for start in range(0, len(paths), size)]
    scanned: list[ScannedFile] = []
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(
            total=len(paths), desc="checking the images", unit=" images", disable=not (show and sys.stderr.isatty())
        ) as bar,
    ):
        for part in pool.map(functools.partial(_scan_chunk, check=check), chunks):
            scanned += part
            bar.update(len(part))
    return scanned


@contextlib.contextmanager
def named_unreadable_files(*splits: Split) -> Iterator[None]:
    """Names the file where a reading pipeline meets one that was damaged after the scan.

    Args:
        *splits: What is read inside.

    Raises:
        UserError: A file of the splits cannot be read any more, in place of TensorFlow's error, which names none.
    """
    if not has_tensorflow():  # Pillow names the file by itself
        yield
        return
    import tensorflow as tf

    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnknownError):
        for split in splits:
            if isinstance(split, RecordSplit):
                for position in range(len(split)):
                    split.read(position)
            paths = split.paths if isinstance(split, FileSplit) else ()
            for path, file in zip(paths, scan_files(paths, check="decode"), strict=True):
                if file.problem:
                    raise UserError(
                        f"{path} {file.problem}. It was damaged or removed after the folder was checked. Replace it, "
                        "and run the command again."
                    ) from None
        raise


def _scan_chunk(paths: Sequence[str], check: Check) -> list[ScannedFile]:
    scanned: list[ScannedFile] = []
    waiting: dict[int, bytes] = {}  # JPEG files that TensorFlow has yet to read, by their place

    def read_waiting() -> None:
        for place, problem in zip(waiting, _jpeg_problems(list(waiting.values())), strict=True):
            if problem is not None:
                scanned[place] = ScannedFile(problem=f"is not a complete image: {problem}")
        waiting.clear()

    for place, path in enumerate(paths):
        try:
            contents = read_file(path)
        except OSError as error:
            scanned.append(ScannedFile(problem=f"cannot be read: {error.strerror or error}"))
            continue
        file, is_waiting = _scan(contents, check)
        scanned.append(file)
        if is_waiting:
            waiting[place] = contents
            if sum(map(len, waiting.values())) > _WAITING_BYTES:
                read_waiting()
    read_waiting()
    return scanned


def _scan(contents: bytes, check: Check) -> tuple[ScannedFile, bool]:
    """Scans a file; True where it is a JPEG of which TensorFlow has yet to read every byte."""
    if not contents:
        return ScannedFile(problem="is empty"), False
    whole = whole_jpeg(contents) if check == "structure" else None
    if whole is not None and whole.is_plain:
        decoder = DECODER_JPEG if has_tensorflow() else DECODER_PILLOW
        return ScannedFile(whole.height, whole.width, decoder, len(contents), _digest(contents)), False
    if check == "structure" and (size := whole_png(contents)) is not None:
        decoder = DECODER_TENSORFLOW if has_tensorflow() else DECODER_PILLOW
        return ScannedFile(*size, decoder, len(contents), _digest(contents)), False
    try:
        with Image.open(io.BytesIO(contents), formats=FORMATS) as image:
            width, height = image.size
            container = image.format
            turned = 1
            is_jpeg = container in ("JPEG", "MPO")
            if is_jpeg and b"Exif" in contents[: 1 << 17]:
                turned = image.getexif().get(0x0112, 1)
            decoder = _decoder(contents, container, turned)
            is_waiting = whole is None and is_jpeg and decoder != DECODER_PILLOW
            if whole is None and not is_waiting:
                # An eighth of the size: every byte of a JPEG is read, few pixels are computed.
                image.draft(None, (1, 1))
                image.load()
    except UnidentifiedImageError:
        return ScannedFile(problem="is not an image"), False
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
        return ScannedFile(problem=f"is not a complete image: {_first_line(error)}"), False
    if turned in range(5, 9):
        height, width = width, height
    if decoder == DECODER_TENSORFLOW and not is_jpeg:
        import tensorflow as tf

        try:
            if tuple(_decoding()(contents).shape[:2]) != (height, width):
                return ScannedFile(problem="is damaged: its decoders disagree about its size"), False
        except tf.errors.OpError as error:
            return ScannedFile(problem=f"is not a complete image: {_first_line(error)}"), False
    return ScannedFile(height, width, decoder, len(contents), _digest(contents)), is_waiting


def _digest(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


def _jpeg_problems(files: Sequence[bytes]) -> list[str | None]:
    """Has TensorFlow read every byte of JPEG files, and returns what is wrong with each.

    Many are read in one call, which takes a sixth of the time of a call for each; where one fails, its files are halved
    until the broken ones are found.
    """
    if not files:
        return []
    import tensorflow as tf

    count = 1 << (len(files).bit_length() - 1)  # a power of two, so that few graphs are built
    try:
        _jpegs_reader(count)(tf.constant(files[:count]))
        problems: list[str | None] = [None] * count
    except tf.errors.OpError as error:
        half = count // 2
        problems = _jpeg_problems(files[:half]) + _jpeg_problems(files[half:count]) if half else [_first_line(error)]
    return problems + _jpeg_problems(files[count:])


@functools.cache
def _jpegs_reader(count: int) -> Callable[[Any], Any]:
    """Decodes JPEG files at an eighth of their size: every byte is read, few pixels are computed."""
    import tensorflow as tf

    def read(contents: tf.Tensor) -> tf.Tensor:
        return tf.size(tf.raw_ops.DecodeJpeg(contents=contents, channels=3, ratio=8, dct_method="INTEGER_ACCURATE"))

    # An operator for each file: a loop in the graph would cost more than the decoding of small files.
    return tf.function(
        lambda files: tf.add_n([read(contents) for contents in tf.unstack(files)]),
        input_signature=[tf.TensorSpec([count], tf.string)],
        autograph=False,
    )


@functools.cache
def _decoding() -> Callable[[bytes], Any]:
    """`decode_image` for colour, compiled once."""
    import tensorflow as tf

    from keras_resnet.data.decoding import decode_image

    return tf.function(
        lambda contents: decode_image(contents, 3), input_signature=[tf.TensorSpec([], tf.string)], autograph=False
    )


def _first_line(error: Exception) -> str:
    # TensorFlow's messages end in the operator that raised them.
    return str(getattr(error, "message", error)).partition("\n")[0].partition(" [Op:")[0][:200]


def _decoder(contents: bytes, container: str | None, turned: int) -> int:
    if not has_tensorflow():
        return DECODER_PILLOW
    from keras_resnet.data.decoding import tensorflow_reads_orientation

    if container in ("JPEG", "MPO") and turned not in _TURNED:
        return DECODER_JPEG
    if container in ("JPEG", "MPO"):
        return DECODER_TENSORFLOW if tensorflow_reads_orientation(contents) else DECODER_PILLOW
    if container == "BMP":
        bits_per_pixel = int.from_bytes(contents[28:30], "little")
        compression = int.from_bytes(contents[30:34], "little")
        return DECODER_TENSORFLOW if bits_per_pixel in (8, 24, 32) and compression == 0 else DECODER_PILLOW
    if container == "WEBP" and contents[12:16] == b"VP8X" and contents[20] & 2:
        return DECODER_PILLOW  # animated, which `decode_image` refuses
    return DECODER_TENSORFLOW if container in ("PNG", "GIF", "WEBP") else DECODER_PILLOW
