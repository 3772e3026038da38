import os
import zipfile

import keras
import numpy as np
import pytest

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.storage import (
    append_row,
    atomic_directory,
    atomic_file,
    check_writable,
    load_model,
    read_json,
    save_model,
    write_json,
    write_text,
)


@pytest.fixture(scope="module")
def model():
    return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])


@pytest.fixture(scope="module")
def preprocessing():
    return Preprocessing(4, 4, 1, (0.5,), (0.25,), labels=("cat", "größer"))


def test_a_model_brings_its_preprocessing(tmp_path, model, preprocessing):
    save_model(model, tmp_path / "m.keras", preprocessing)
    loaded, found = load_model(tmp_path / "m.keras")
    assert found == preprocessing == loaded.preprocessing
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
    with pytest.raises(UserError, match=r"m\.keras is no whole"):
        load_model(path)
    save_model(model, path, preprocessing)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"m\.keras is no whole"):
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
    with pytest.raises(UserError, match=r"b\.json is no JSON"):
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
