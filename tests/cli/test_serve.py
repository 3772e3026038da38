import socket

import pytest

pytest.importorskip("uvicorn")

from keras_resnet.cli import serve


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "flowers").mkdir()
    (tmp_path / "flowers" / "float32.tflite").write_bytes(b"rubbish")
    return tmp_path / "flowers"


@pytest.fixture
def taken():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "There is no model at absent"),
        (["{folder}", "--backend", "int9"], "Unknown value of --backend 'int9'. Closest: 'int8'"),
        (["{folder}", "--backend", "int8", "--port", "0"], "needs a file that is not there; there is float32"),
        (["{folder}", "--port", "0"], "float32.tflite is not a complete .tflite file"),
        (["{folder}", "--port", "99999"], "A port is a number from 0 to 65535"),
        (["{folder}", "--port", "{taken}"], "Address already in use. Give another --host or --port"),
        (["{folder}", "--host", "192.0.2.1", "--port", "0"], "Cannot listen on 192.0.2.1:0"),
        (["{folder}", "--max-body-mb", "-1"], "--max-body-mb must be a number above 0"),
        (["{folder}", "--max-megapixels", "nan"], "--max-megapixels must be a number above 0"),
        (["{folder}", "--deadline", "0"], "deadline_seconds must be a number of at least"),
        (["{folder}", "--api-key-file", "absent"], "Cannot read the API keys in absent"),
        (["{folder}", "--cors-origin", "shop"], "An origin is a scheme and a host"),
        (["{folder}", "--batchsize", "3"], "Closest: '--batch-size'"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_2(folder, taken, arguments, message, capsys):
    assert serve.main([argument.format(folder=folder, taken=taken) for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_package_that_is_missing_is_named(folder, monkeypatch, capsys):
    monkeypatch.setitem(serve._NEEDED, "no_such_module", "no-such-package")
    assert serve.main([str(folder)]) == 2
    assert "serve.py needs no-such-package: pip install -r requirements-serve.txt" in capsys.readouterr().err
