"""Files of which parts are read: on the local disk, over HTTP, or in a bucket."""

import http.client
import os
import threading
import urllib.error
import urllib.request
from typing import Any, Protocol

from keras_resnet.backends import has_tensorflow
from keras_resnet.errors import UserError

TIMEOUT_S = 30


class RangeFile(Protocol):
    """A file that several threads may read at once.

    Attributes:
        path: Where it lies.
        size: Its length in bytes.
    """

    path: str
    size: int

    def read(self, start: int, length: int) -> bytes:
        """Returns the bytes from `start` on; fewer than `length` where the file ends before.

        Raises:
            OSError: It cannot be read.
        """
        ...


def is_remote(path: str) -> bool:
    """Whether a path has a scheme, as in "gs://bucket/folder" or "https://host/folder"."""
    return "://" in path


def join(folder: str, name: str) -> str:
    """Returns the path of a file in a folder, which may be remote."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def open_ranges(path: str) -> RangeFile:
    """Opens a file.

    Args:
        path: A local path, an address "http://…" or "https://…", or what `tf.io.gfile` or fsspec opens ("gs://…").

    Raises:
        OSError: There is no such file.
        UserError: Nothing that is installed reads such paths.
    """
    scheme = path.partition("://")[0] if is_remote(path) else ""
    return {"": _LocalFile, "http": _HttpFile, "https": _HttpFile}.get(scheme, _open_bucket)(path)


def read_whole(path: str) -> bytes:
    """Returns all bytes of a file; errors as in `open_ranges`."""
    file = open_ranges(path)
    return file.read(0, file.size)


class _LocalFile:
    def __init__(self, path: str):
        self.path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with the object
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, start: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, start)


class _HttpFile:
    def __init__(self, path: str):
        self.path = path
        request = urllib.request.Request(path, method="HEAD")
        with _opened(request) as response:
            self.size = int(response.headers.get("Content-Length") or 0)

    def read(self, start: int, length: int) -> bytes:
        if length == 0:
            return b""
        request = urllib.request.Request(self.path, headers={"Range": f"bytes={start}-{start + length - 1}"})
        with _opened(request) as response:
            if response.status != 206 and (start, length) != (0, self.size):
                # Otherwise every image would cost a whole shard.
                raise UserError(
                    f"A server of records must answer requests for a range of bytes (206), that of {self.path} "
                    f"answers {response.status}. Use another server, or copy the folder."
                )
            try:
                return response.read(length)
            except http.client.HTTPException as error:
                raise OSError(0, f"the answer broke off: {error!r}") from None


def _opened(request: urllib.request.Request) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(0, f"the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise OSError(0, str(error.reason)) from None
    except http.client.HTTPException as error:
        raise OSError(0, repr(error)) from None


class _BucketFile:
    """A file object for each thread: one alone has one place from which it reads."""

    def __init__(self, path: str, size: int, open_file: Any):
        self.path, self.size, self._open, self._own = path, size, open_file, threading.local()

    def read(self, start: int, length: int) -> bytes:
        if not hasattr(self._own, "file"):
            self._own.file = self._open()
        self._own.file.seek(start)
        return self._own.file.read(length)


def _open_bucket(path: str) -> RangeFile:
    if has_tensorflow():
        import tensorflow as tf

        try:
            return _BucketFile(path, tf.io.gfile.stat(path).length, lambda: tf.io.gfile.GFile(path, "rb"))
        except tf.errors.NotFoundError:
            raise OSError(0, "there is no such file") from None
        except tf.errors.UnimplementedError:  # a scheme that is not built in: s3:// needs tensorflow-io
            pass
        except tf.errors.OpError as error:
            raise OSError(0, str(error.message).splitlines()[0]) from None
    try:
        import fsspec

        system, inside = fsspec.core.url_to_fs(path)
        return _BucketFile(path, system.size(inside), lambda: system.open(inside, "rb"))
    except (ImportError, ValueError) as error:
        raise UserError(
            f"Records lie on a local disk, behind http(s)://, or where TensorFlow or fsspec reads; {path} is not read: "
            f"{str(error).splitlines()[0]}. Install fsspec with the package for it (gcsfs, s3fs)."
        ) from None
