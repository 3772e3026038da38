import dataclasses
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.models.resnet import build_model
from keras_resnet.storage import (
    append_row,
    atomic_directory,
    atomic_file,
    check_writable,
    is_unfinished,
    load_model,
    read_json,
    save_model,
    sweep,
    write_json,
    write_text,
)
from keras_resnet.weights.loading import learnt_preprocessing


@pytest.fixture(scope="module")
def model():
    return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])


@pytest.fixture(scope="module")
def preprocessing():
    return Preprocessing(4, 4, 1, (0.5,), (0.25,), labels=("cat", "größer"))


def test_a_model_brings_its_preprocessing(tmp_path, model, preprocessing):
    save_model(model, tmp_path / "m.keras", preprocessing)
    loaded, found = load_model(tmp_path / "m.keras")
    assert found == preprocessing
    images = np.random.default_rng(0).random((3, 4, 4, 1), np.float32)
    np.testing.assert_array_equal(loaded(images), model(images))
    # Keras alone reads the file, too.
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "m.keras")(images), model(images))
    assert os.listdir(tmp_path) == ["m.keras"]


def test_a_model_may_come_without_preprocessing(tmp_path, model):
    save_model(model, tmp_path / "m.keras")
    assert load_model(tmp_path / "m.keras")[1] is None


def test_broken_model_files_are_refused_by_name(tmp_path, model, preprocessing):
    path = tmp_path / "m.keras"
    with pytest.raises(UserError, match="no model file"):
        load_model(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(UserError, match=r"m\.keras is not a complete"):
        load_model(path)
    save_model(model, path, preprocessing)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"m\.keras is not a complete"):
        load_model(path)
    with pytest.raises(UserError, match=r"ends in \.keras"):
        save_model(model, tmp_path / "m.h5", preprocessing)


@pytest.mark.parametrize("change", [{"height": 5}, {"labels": ["cat"]}])
def test_a_preprocessing_that_does_not_fit_is_refused(tmp_path, model, preprocessing, change):
    path = tmp_path / "m.keras"
    save_model(model, path, Preprocessing.from_dict({**preprocessing.to_dict(), **change}))
    with pytest.raises(UserError, match=r"m\.keras"):
        load_model(path)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def interrupted():
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    with atomic_directory(path) as temporary:
        write_text(temporary / "file", "old")

    def interrupted():
        with atomic_directory(path, overwrite=True) as temporary:
            write_text(temporary / "file", "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]
    with atomic_directory(path, overwrite=True) as temporary:
        write_text(temporary / "other", "new")
    assert os.listdir(path) == ["other"]
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_is_not_replaced_unasked(tmp_path):
    with pytest.raises(UserError, match="exists already"), atomic_directory(tmp_path):
        pass


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    write_json(tmp_path / "a.json", {"größe": 1})
    assert read_json(tmp_path / "a.json") == {"größe": 1}
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(UserError, match=r"b\.json is not JSON"):
        read_json(tmp_path / "b.json")


def test_rows_are_appended_under_one_header(tmp_path):
    path = tmp_path / "new" / "r.csv"
    append_row(path, {"a": 1, "b": "x, y"})
    append_row(path, {"a": 2, "b": "z"})
    assert path.read_text() == 'a,b\n1,"x, y"\n2,z\n'
    with pytest.raises(UserError, match="has the columns a, b"):
        append_row(path, {"a": 3})


def test_space_and_permission_are_checked_beforehand(tmp_path):
    check_writable(tmp_path / "new", 1000)
    assert os.listdir(tmp_path / "new") == []
    with pytest.raises(UserError, match="disk space"):
        check_writable(tmp_path, 10**18)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        check_writable(tmp_path / "file")
    with pytest.raises(UserError, match="Cannot write"):
        write_text(tmp_path / "file" / "below", "")


def test_the_archive_stays_a_plain_zip(tmp_path, model, preprocessing):
    save_model(model, tmp_path / "m.keras", preprocessing)
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert archive.testzip() is None
        assert "preprocessing.json" in archive.namelist()


REPLACER = """
import sys
from pathlib import Path
from keras_resnet.storage import atomic_directory
number = 0
print("ready", flush=True)
while True:
    number += 1
    with atomic_directory(sys.argv[1], overwrite=True) as folder:
        for name in ("a", "b"):
            (folder / name).write_text(str(number))
"""


def test_a_folder_killed_while_it_is_replaced_is_the_old_or_the_new_one(tmp_path):
    target = tmp_path / "model"
    random = np.random.default_rng(0)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", REPLACER, str(target)], cwd=Path(__file__).resolve().parents[1], stdout=-1
        )
        process.stdout.readline()
        time.sleep(0.05 + 0.1 * random.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        first, second = ((target / name).read_text() for name in ("a", "b"))
        assert first == second
    # Whoever writes there next clears away what the killed processes were writing.
    with atomic_directory(target, overwrite=True):
        pass
    assert os.listdir(tmp_path) == ["model"]


def ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_of_ended_processes_are_swept_and_others_stay(tmp_path, monkeypatch):
    import keras_resnet.storage as storage

    made = {}
    for name, process in (("ended", ended_process()), ("running", os.getppid())):
        monkeypatch.setattr(storage.os, "getpid", lambda process=process: process)
        made[name] = [storage._unfinished_name(kind, "m") for kind in ("tmp", "old")]
    monkeypatch.undo()
    for name in (*made["ended"], *made["running"], ".hidden", ".123.tmp-m"):
        (tmp_path / name).mkdir()
    (tmp_path / made["ended"][1] / "weights").write_text("the only copy")
    assert all(is_unfinished(name) for name in (*made["ended"], *made["running"]))
    sweep(tmp_path)
    # A killed replacement had moved the old folder away: it comes back.
    assert sorted(os.listdir(tmp_path)) == sorted(["m", *made["running"], ".hidden", ".123.tmp-m"])
    assert (tmp_path / "m" / "weights").read_text() == "the only copy"


def test_a_folder_is_replaced_where_names_cannot_be_exchanged(tmp_path, monkeypatch):
    import keras_resnet.storage as storage

    monkeypatch.setattr(storage, "exchange", lambda first, second: False)
    for text in ("old", "new"):
        with atomic_directory(tmp_path / "m", overwrite=True) as folder:
            (folder / "a").write_text(text)
    assert (tmp_path / "m" / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["m"]


def test_small_files_that_claim_much_memory_are_refused(tmp_path, model, preprocessing):
    path = tmp_path / "m.keras"
    save_model(model, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("preprocessing.json", b" " * (40 << 20))
    assert path.stat().st_size < 200_000
    with pytest.raises(UserError, match=r"m\.keras is not a complete .keras file: .*(claims|has) "):
        load_model(path)
    (tmp_path / "big.json").write_bytes(b" " * (17 << 20))
    with pytest.raises(UserError, match=r"at most 16\.8 MB, got 17\.8 MB"):
        read_json(tmp_path / "big.json")


def test_no_damage_to_a_model_file_is_a_traceback(tmp_path, model, preprocessing):
    path = tmp_path / "m.keras"
    save_model(model, path, preprocessing)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(120):
        content = bytearray(whole)
        place = int(random.integers(len(content)))
        content[place : place + 3] = random.bytes(3)
        path.write_bytes(content)
        try:
            load_model(path)
        except UserError:
            refused += 1
    assert refused > 40


def test_weights_of_a_saved_network_bring_its_preprocessing(tmp_path):
    settings = Preprocessing(16, 16, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), labels=tuple("abc"))
    save_model(build_model("resnet8", num_classes=3, input_shape=(16, 16, 3)), tmp_path / "m.keras", settings)
    same = build_model("resnet8", num_classes=3, input_shape=(24, 20, 3))
    found = learnt_preprocessing(same, tmp_path / "m.keras")
    assert found == dataclasses.replace(settings, height=24, width=20)
    other = build_model("resnet8", num_classes=5, input_shape=(16, 16, 3))
    assert learnt_preprocessing(other, str(tmp_path / "m.keras")) == dataclasses.replace(settings, labels=())
    grey = build_model("resnet8", num_classes=3, input_shape=(16, 16, 1))
    assert learnt_preprocessing(grey, tmp_path / "m.keras") is None
