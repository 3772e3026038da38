"""Folders as `export.py` and TensorFlow Serving lay them out."""

import os

import pytest

from keras_resnet.errors import UserError
from keras_resnet.server.layout import models_at, versions_at
from keras_resnet.server.settings import ServerSettings, named_models, read_api_keys


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def formats(path):
    return {number: [file.format for file in version.files] for number, version in versions_at(path).items()}


def test_an_export_is_one_version_with_every_file(tmp_path):
    touch(tmp_path, "1/saved_model.pb", "bfloat16/1/saved_model.pb", "int8.tflite", "float32.tflite", "mine.tflite")
    touch(tmp_path, "model.keras", "labels.txt", ".hidden.tflite", "2/nothing.txt")
    assert formats(tmp_path) == {1: ["saved_model", "saved_model_bfloat16", "float32", "int8", "mine"]}


def test_versions_are_numbered_folders(tmp_path):
    touch(tmp_path, "1/saved_model.pb", "3/saved_model.pb", "20/float32.tflite", "20/int8.tflite", "latest/int8.tflite")
    assert formats(tmp_path) == {1: ["saved_model"], 3: ["saved_model"], 20: ["float32", "int8"]}


def test_a_file_and_a_saved_model_are_models_themselves(tmp_path):
    touch(tmp_path, "flowers/7/saved_model.pb", "int8.tflite", "flowers/7/variables/variables.index")
    assert formats(tmp_path / "flowers" / "7") == {7: ["saved_model"]}
    assert formats(tmp_path / "int8.tflite") == {1: ["int8"]}
    assert models_at(tmp_path / "flowers" / "7") == {"flowers": tmp_path / "flowers" / "7"}
    assert models_at(tmp_path / "int8.tflite") == {"int8": tmp_path / "int8.tflite"}
    assert formats(tmp_path / "absent") == {}


def test_a_folder_of_exports_holds_models(tmp_path):
    touch(tmp_path, "a/1/saved_model.pb", "b/int8.tflite", "c/notes.txt", "README.md", ".tmp-d/int8.tflite")
    assert models_at(tmp_path) == {"a": tmp_path / "a", "b": tmp_path / "b"}
    assert named_models([str(tmp_path)]) == models_at(tmp_path)
    assert named_models([f"x={tmp_path / 'a'}", str(tmp_path / "b")]) == {"x": tmp_path / "a", "b": tmp_path / "b"}


def test_another_state_is_another_model(tmp_path):
    touch(tmp_path, "1/saved_model.pb", "1/variables/variables.index", "float32.tflite")
    before = versions_at(tmp_path)[1].state
    assert versions_at(tmp_path)[1].state == before
    os.utime(tmp_path / "1" / "variables" / "variables.index", (1, 1))
    after = versions_at(tmp_path)[1].state
    assert after != before
    # Replaced by a file of the same size and time.
    touch(tmp_path, "other")
    os.utime(tmp_path / "other", ns=(1, (tmp_path / "float32.tflite").stat().st_mtime_ns))
    os.replace(tmp_path / "other", tmp_path / "float32.tflite")
    assert versions_at(tmp_path)[1].state != after


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["absent"], "There is no model at absent"),
        (["empty"], "empty holds nothing that can be served"),
        (["x=both"], "both holds 2 models"),
        (["both/a", "a=both/b"], "Two models are called 'a'"),
        (["a b"], "A model's name has no space, '/' or ':', got 'a b'. Give NAME=a b."),
        (["q:r=both/a"], "got 'q:r'"),
        ([], "at least one model"),
    ],
)
def test_what_cannot_be_served_is_a_sentence(tmp_path, monkeypatch, given, message):
    touch(tmp_path, "both/a/1/saved_model.pb", "both/b/1/saved_model.pb", "empty/notes.txt", "a b/1/saved_model.pb")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        ServerSettings(models=named_models(given))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "int4"}, "Unknown backend 'int4'. Closest: 'int8'"),
        ({"port": 70000}, "from 0 to 65535"),
        ({"window_ms": float("nan")}, "window_ms must be a number"),
        ({"deadline_seconds": 0.0}, "deadline_seconds must be"),
        ({"batch_size": 8, "queue_size": 4}, "must not be below batch_size"),
        ({"cors_origins": ("example.org",)}, "An origin is a scheme and a host"),
        ({"versions": 0}, "versions must be at least 1"),
    ],
)
def test_settings_are_checked_at_once(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        ServerSettings(models={"a": tmp_path}, **options)


def test_keys_are_read_one_a_line_and_never_shown(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# of the web shop\n\n  0123456789abcdef\nfedcba9876543210  \n")
    keys = read_api_keys(file)
    assert keys == ("0123456789abcdef", "fedcba9876543210")
    assert "0123" not in repr(ServerSettings(models={"a": tmp_path}, api_keys=keys))
    for text, message in (
        ("", "holds no API key"),
        ("secretsecret\n", "at least 16"),
        ("sixteen characters!\n", "without spaces"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message) as raised:
            read_api_keys(file)
        assert "secretsecret" not in str(raised.value)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="it is not text"):
        read_api_keys(file)
    with pytest.raises(UserError, match="Cannot read the API keys"):
        read_api_keys(tmp_path / "absent")
