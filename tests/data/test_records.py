"""Packed data sets: the same batches as their source, whatever was killed, damaged or asked for wrongly."""

import dataclasses
import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet import packing
from keras_resnet.cli import pack as command
from keras_resnet.data import array_batches, batches, file_index, records
from keras_resnet.data.records import MANIFEST
from keras_resnet.data.scanning import named_unreadable_files
from keras_resnet.data.sources import load_source
from keras_resnet.data.splits import RecordSplit, StreamSplit, worker_rows
from keras_resnet.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """JPEG, PNG and one format that Pillow alone reads, of several sizes."""
    root = tmp_path_factory.mktemp("folder")
    for number in range(90):
        path = root / f"class{number % 3}" / f"{number:03d}.{('jpg', 'png', 'jpg', 'webp')[number % 4]}"
        path.parent.mkdir(exist_ok=True)
        random = np.random.default_rng(number)
        pixels = random.integers(0, 256, (14 + number % 5, 13 + number % 3, 3), np.uint8)
        image = Image.fromarray(pixels)
        if path.suffix == ".webp":
            image.save(path, save_all=True, append_images=[Image.fromarray(255 - pixels)])
        else:
            image.save(path)
    return root


@pytest.fixture(scope="module")
def source(folder):
    return load_source(f"folder:{folder}", image_size=16)


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "records"
    assert command.main([f"folder:{folder}", str(out), "--shards", "4", "--json"]) == 0
    return out


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_RESNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def copy(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "copy")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def drawn(module, split, preprocessing, **options):
    made = module.training_batches(split, preprocessing, batch_size=8, seed=7, epochs=3, **options)
    return list(made.as_numpy_iterator())


def assert_equal_batches(first, second):
    assert len(first) == len(second) > 0
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "inception_crop_flip"])
def test_training_sees_the_batches_of_the_folder_bit_for_bit(source, packed, augmentation, keep):
    data = load_source(f"records:{packed}", image_size=16)
    assert isinstance(data.train, RecordSplit)
    options = {"augmentation": augmentation, "keep": keep}
    expected = drawn(batches, source.train, source.preprocessing(), **options)
    assert_equal_batches(expected, drawn(batches, data.train, data.preprocessing(), **options))
    # The second epoch has another order than the first: there is something to get wrong.
    steps = len(expected) // 3
    assert any((expected[n][1] != expected[n + steps][1]).any() for n in range(steps))


def test_without_tensorflow_the_batches_are_those_of_the_folder(source, packed):
    data = load_source(f"records:{packed}", image_size=16)
    expected = drawn(array_batches, source.train, source.preprocessing(), augmentation="crop_flip")
    assert_equal_batches(expected, drawn(array_batches, data.train, data.preprocessing(), augmentation="crop_flip"))
    for split in ("validation", "test"):
        expected = array_batches.evaluation_batches(getattr(source, split), source.preprocessing(), batch_size=8)
        found = array_batches.evaluation_batches(getattr(data, split), data.preprocessing(), batch_size=8)
        assert_equal_batches(list(expected), list(found))


def test_everything_else_is_that_of_the_folder(source, packed):
    data = load_source(f"records:{packed}", image_size=16)
    for field in dataclasses.fields(data):
        if field.name not in ("name", "train", "validation", "test"):
            assert getattr(data, field.name) == getattr(source, field.name), field.name
    parts = data.with_validation(0.3), source.with_validation(0.3)
    for split in ("train", "validation", "test"):
        for (images, labels), (other_images, other_labels) in zip(
            *(batches.evaluation_batches(getattr(d, split), d.preprocessing(), batch_size=32) for d in parts),
            strict=True,
        ):
            np.testing.assert_array_equal(images, other_images)
            np.testing.assert_array_equal(labels, other_labels)


@pytest.mark.parametrize("name", ["digits", "shapes:count=60,size=16"])
def test_arrays_come_back_to_the_pixel(name, tmp_path):
    data = load_source(name)
    packing.pack(data, tmp_path / "out", shards=3)
    again = load_source(f"records:{tmp_path / 'out'}")
    assert (again.fingerprint, again.labels, again.image_shape) == (data.fingerprint, data.labels, data.image_shape)
    channels = again.image_shape[2]
    pixels = again.preprocessing(mean=(0.0,) * channels, std=(1 / 255,) * channels)
    for module in (batches, array_batches):
        read = list(module.evaluation_batches(again.test, pixels, batch_size=50))
        found = [np.concatenate(part) for part in zip(*read, strict=True)]
        np.testing.assert_allclose(found[0], data.test.images, rtol=1e-6)  # a division by 255 and its inverse
        np.testing.assert_array_equal(found[1], data.test.labels)


def test_other_programs_read_the_files_as_they_read_any_records(packed, source):
    """TensorFlow's own reader checks its checksums, and its parser the records."""
    manifest = json.loads((packed / MANIFEST).read_text())
    shards = sorted(str(path) for path in packed.glob("train-*.tfrecord"))
    assert len(shards) == 4
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    read = [tf.io.parse_single_example(record, features) for record in tf.data.TFRecordDataset(shards)]
    assert [example["label"].numpy() for example in read] == source.train.labels.tolist()
    files = [Path(path).read_bytes() for path in source.train.paths]
    assert [example["image"].numpy() for example in read] == files
    assert manifest["splits"]["train"]["counts"] == np.bincount(source.train.labels).tolist()
    assert manifest["image_sizes"] == {"height": [14, 18], "width": [13, 15]}
    # A stream of records, packed once more, stays what it was.
    instructions = tuple((path, 0, len(list(tf.data.TFRecordDataset(path)))) for path in shards)
    stream = StreamSplit(instructions, "image", "label", lambda split: source.train.labels)
    assert [example[:2] for example in packing._streamed(stream)] == list(zip(files, source.train.labels, strict=True))


def test_a_killed_packing_goes_on_and_ends_in_the_same_bytes(folder, packed, tmp_path):
    out, random = tmp_path / "out", np.random.default_rng(0)
    program = (
        "import sys, time; from keras_resnet import packing; from keras_resnet.cli.pack import main\n"
        "whole = packing._encoded\n"
        "packing._encoded = lambda *given: time.sleep(0.004) or whole(*given)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = [sys.executable, "-c", program, f"folder:{folder}", str(out), "--shards", "4"]
    killed = 0
    for _ in range(2):
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        before = len(contents(out)) if out.exists() else 0
        while process.poll() is None and (len(contents(out)) if out.exists() else 0) <= before:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert not (out / MANIFEST).exists() or process.returncode == 0
    assert killed
    if not (out / MANIFEST).exists():
        with pytest.raises(UserError, match="not finished"):
            load_source(f"records:{out}")
        assert command.main([f"folder:{folder}", str(out), "--shards", "4"]) == 0
    assert contents(out) == contents(packed)
    assert {path.name for path in out.iterdir()} == set(contents(packed))  # nor is anything left beside them


def test_a_folder_holds_one_packing(folder, packed, tmp_path, capsys):
    assert command.main([f"folder:{folder}", str(packed)]) == 2
    assert "already" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert command.main([f"folder:{folder}", str(tmp_path / "full")]) == 2
    assert "not empty" in capsys.readouterr().err
    begun = tmp_path / "begun"
    data = load_source("shapes:count=60,size=16")
    with pytest.raises(KeyboardInterrupt):
        packing.pack(data, begun, shards=2, step=lambda count: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(UserError, match="another packing"):
        packing.pack(data, begun, shards=3)
    with pytest.raises(UserError, match="shards must"):
        packing.pack(data, tmp_path / "none", shards=0)
    packing.pack(data, begun, shards=2)
    assert load_source(f"records:{begun}").fingerprint == data.fingerprint


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_file_is_named_before_training(copy, seed):
    random = np.random.default_rng(seed)
    paths = sorted(path for path in copy.iterdir() if path.name != MANIFEST)
    path = paths[random.integers(len(paths))]
    damaged = bytearray(path.read_bytes())
    place = random.integers(len(damaged))
    damaged[place] ^= 1 << int(random.integers(8))
    path.write_bytes(damaged[: len(damaged) - seed % 2])
    with pytest.raises(UserError, match=f"{path.name}.*damaged"):
        load_source(f"records:{copy}")


def test_damage_behind_the_check_is_named_when_it_is_read(copy):
    data = load_source(f"records:{copy}", image_size=16)
    shard = copy / "train-00001-of-00004.tfrecord"
    with open(shard, "r+b") as file:
        file.seek(shard.stat().st_size // 2)
        file.write(b"\0" * 200)
    with pytest.raises(UserError, match=f"{shard.name}.*pack it again"), named_unreadable_files(data.train):
        drawn(batches, data.train, data.preprocessing(), keep=False)
    with pytest.raises(UserError, match=shard.name):
        drawn(array_batches, data.train, data.preprocessing(), keep=False)


def test_digests_are_computed_once_and_again_for_changed_files(copy, monkeypatch):
    computed = []
    digest = records.file_digest
    monkeypatch.setattr(records, "file_digest", lambda path: computed.append(path) or digest(path))
    load_source(f"records:{copy}")
    count = len(computed)
    assert count == 2 * 12
    load_source(f"records:{copy}")
    assert len(computed) == 2 * count  # the files were written just now: their times say nothing yet
    monkeypatch.setattr(file_index, "SETTLED_NS", -(10**12))
    load_source(f"records:{copy}")
    load_source(f"records:{copy}")
    assert len(computed) == 3 * count
    path = copy / "test-00000-of-00004.tfrecord"
    times = path.stat()
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 1
    path.write_bytes(damaged)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match="test-00000"):
        load_source(f"records:{copy}")


def changed(**fields):
    return lambda manifest: {**manifest, **fields}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(version=2), "version 1, .* has version 2"),
        (changed(labels=["class0", "class1"]), "labels of the manifest"),
        (changed(labels=["only"]), "two class names"),
        (changed(labels="class0"), "labels"),
        (changed(files={}), "shards"),
        (lambda m: {**m, "splits": {**m["splits"], "train": {**m["splits"]["train"], "shards": 3}}}, "3 of them"),
        (lambda m: {**m, "splits": {**m["splits"], "train": {"shards": 4, "counts": [1, 2, 3]}}}, "every class"),
        (lambda m: {**m, "files": {"../../other": {"bytes": 1, "sha256": ""}}}, "no file of a packed"),
        (lambda m: [m], "damaged"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copy, change, message):
    path = copy / MANIFEST
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=message):
        load_source(f"records:{copy}")


def test_missing_and_torn_files_are_refused(copy, tmp_path):
    with pytest.raises(UserError, match="Check the path"):
        load_source(f"records:{tmp_path / 'nowhere'}")
    (copy / "train-00002-of-00004.tfrecord").unlink()
    with pytest.raises(UserError, match=r"train-00002.*Copy the folder"):
        load_source(f"records:{copy}")
    whole = (copy / MANIFEST).read_text()
    (copy / MANIFEST).write_text(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged"):
        load_source(f"records:{copy}")
    (copy / MANIFEST).unlink()
    with pytest.raises(UserError, match="not finished"):
        load_source(f"records:{copy}")


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A server of files; the one of the standard library knows no ranges."""

    whole = False

    def log_message(self, *_):
        pass

    def send_head(self):
        wanted = self.headers.get("Range")
        path = self.translate_path(self.path)
        if wanted is None or self.whole or not os.path.isfile(path):
            return super().send_head()
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        file = open(path, "rb")  # noqa: SIM115 - closed by the caller
        file.seek(first)
        self.send_response(206)
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        return Part(file, last - first + 1)


class Part:
    def __init__(self, file, length):
        self.file, self.length = file, length

    def read(self, size=-1):
        wanted = self.length if size < 0 else min(size, self.length)
        self.length -= wanted
        return self.file.read(wanted)

    def close(self):
        self.file.close()


@pytest.fixture
def server(copy):
    handler = type("Handler", (Ranges,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(copy))) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}", handler
        served.shutdown()


def test_records_are_read_over_http(server, copy, source):
    address, handler = server
    data = load_source(f"records:{address}", image_size=16)
    expected = drawn(batches, source.train, source.preprocessing())
    assert_equal_batches(expected, drawn(batches, data.train, data.preprocessing()))
    handler.whole = True
    with pytest.raises(UserError, match="206"):
        data.train.read(3)
    (copy / "train-00000-of-00004.tfrecord").unlink()
    with pytest.raises(UserError, match="404"):
        load_source(f"records:{address}")
    with pytest.raises(UserError, match="404"):
        load_source(f"records:{address}/nowhere")


def test_records_are_read_where_tensorflow_or_fsspec_reads(copy, source):
    """`ram://` is a file system of TensorFlow's, `memory://` one of fsspec's."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in copy.iterdir():
        memory.pipe(f"/set/{path.name}", path.read_bytes())
        with tf.io.gfile.GFile(f"ram://set/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    for where in ("ram://set", "memory://set"):
        data = load_source(f"records:{where}", image_size=16)
        assert data.fingerprint == source.fingerprint
        assert data.train.read(5) == Path(source.train.paths[5]).read_bytes()
    with pytest.raises(UserError, match="nothing"):
        load_source("records:ram://nothing")
    with pytest.raises(UserError, match=r"fsspec"):
        load_source("records:nosuch://set")


def test_workers_take_every_row_once():
    for workers in (1, 2, 3, 6):
        taken = np.concatenate([np.arange(12)[worker_rows(12, worker, workers)] for worker in range(workers)])
        np.testing.assert_array_equal(taken, np.arange(12))
    with pytest.raises(UserError, match="evenly"):
        worker_rows(12, 0, 5)
    with pytest.raises(UserError, match=r"0\.\.1"):
        worker_rows(12, 2, 2)
