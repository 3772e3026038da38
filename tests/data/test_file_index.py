"""The index of scanned files: what is unchanged is not read again, and what has changed always is."""

import os
import time

import numpy as np
import pytest
from PIL import Image

from keras_resnet.cli import pack
from keras_resnet.data import file_index, folder
from keras_resnet.data.scanning import scan_files
from keras_resnet.data.sources import load_source
from keras_resnet.errors import UserError


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_RESNET_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "animals"
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for number in range(12):
            write(root / label / f"{number}.png", number)
    return root


@pytest.fixture
def settled(monkeypatch):
    """As if all files had been written long before the scan."""
    monkeypatch.setattr(file_index, "SETTLED_NS", -(10**12))


@pytest.fixture
def read(monkeypatch):
    """The names of the files that are scanned."""
    scanned = []

    def scan(paths, **options):
        scanned.extend(os.path.basename(path) for path in paths)
        return scan_files(paths, **options)

    monkeypatch.setattr(folder, "scan_files", scan)
    return scanned


def write(path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path, compress_level=0)


def load(root, **options):
    return load_source(f"folder:{root}", image_size=8, **options)


def assert_equal(first, second):
    assert (first.fingerprint, first.mean, first.labels) == (second.fingerprint, second.mean, second.labels)
    for split in ("train", "validation", "test"):
        one, other = getattr(first, split), getattr(second, split)
        assert one.paths == other.paths
        for name in ("labels", "sizes", "decoders"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype


def test_the_second_start_reads_nothing_and_finds_the_same(images, settled, read):
    first = load(images)
    assert len(read) == 24
    assert_equal(load(images), first)
    assert_equal(load(f"{images}/"), first)
    assert len(read) == 24


def test_what_is_changed_added_or_removed_is_noticed(images, settled, read):
    first = load(images)
    del read[:]
    write(images / "cat" / "3.png", 99)
    second = load(images)
    assert read == ["3.png"]
    write(images / "dog" / "new.png", 77)
    third = load(images)
    assert read == ["3.png", "new.png"]
    (images / "dog" / "new.png").unlink()
    assert_equal(load(images), second)
    assert read == ["3.png", "new.png"]
    assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3
    (images / "cat" / "4.png").write_bytes((images / "cat" / "4.png").read_bytes()[:-30])
    with pytest.raises(UserError, match=r"4\.png"):
        load(images)
    with pytest.raises(UserError, match=r"4\.png"):  # what is broken is not remembered as whole
        load(images)


def test_a_change_that_keeps_size_and_time_is_noticed(images, settled, read):
    load(images)
    path = images / "cat" / "5.png"
    before = path.stat()
    write(path, 5000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    del read[:]
    load(images)
    assert read == ["5.png"]


def test_a_file_written_within_the_clocks_tick_is_read_again(images, read, monkeypatch):
    """The clock of the file system stands still: a second write leaves no trace but the contents."""
    load(images)
    assert len(read) == 24
    load(images)
    assert len(read) == 48  # all were written just before the scan
    path = str(images / "cat" / "5.png")
    stopped = file_index._stamp(path)
    stamp = file_index._stamp
    monkeypatch.setattr(file_index, "_stamp", lambda each: stopped if each == path else stamp(each))
    first = load(images)
    write(path, 5000)
    assert load(images).fingerprint != first.fingerprint
    # Once the time of the file lies behind the scan for longer than any tick, it is believed.
    later = time.time_ns() + 2 * file_index.SETTLED_NS
    monkeypatch.setattr(time, "time_ns", lambda: later)
    load(images)
    del read[:]
    load(images)
    assert read == []


def test_rescan_another_version_and_a_damaged_index_read_everything(images, settled, read, monkeypatch):
    load(images)
    folder.forget_scan(f"folder:{images}")
    folder.forget_scan("digits")
    load(images)
    assert len(read) == 48
    assert pack.main([f"folder:{images}", str(images.parent / "first"), "--shards", "1"]) == 0
    assert len(read) == 48
    assert pack.main([f"folder:{images}", str(images.parent / "second"), "--shards", "1", "--rescan"]) == 0
    assert len(read) == 72
    (index,) = (images.parent / "cache" / "indexes").iterdir()
    whole = index.read_bytes()
    for damaged in (b"", whole[:-9], b"[]", b'{"version": 1}', b"[" * 100_000, whole.replace(b"cat/", b"cow/")):
        index.write_bytes(damaged)
        del read[:]
        load(images)
        assert len(read) >= 12
    monkeypatch.setattr(folder, "scanner_version", lambda: "another")
    del read[:]
    load(images)
    assert len(read) == 24


def test_where_no_index_can_be_kept_the_folder_is_loaded_all_the_same(images, settled, read, monkeypatch):
    (images.parent / "file").write_text("")
    monkeypatch.setenv("KERAS_RESNET_CACHE", str(images.parent / "file" / "below"))
    load(images)
    load(images)
    assert len(read) == 48
