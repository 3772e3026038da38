import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_resnet.cli import script
from keras_resnet.cli.main import VERBS
from keras_resnet.cli.main import main as keras_resnet
from keras_resnet.errors import UserError

ROOT = Path(__file__).parents[2]


def parser():
    made = script.Parser(prog="thing.py")
    made.add_argument("--model", default="a")
    made.add_argument("--count", type=int)
    made.add_argument("--split", choices=("train", "test"))
    return made


def outcome(argv, capsys, command=lambda arguments: None):
    code = script.run(command, parser(), argv)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--modle", "x"], "error: Unknown flag '--modle'. Closest: '--model'"),
        (["--modle=x"], "error: Unknown flag '--modle'. Closest: '--model'"),
        (["--count", "many"], "error: Argument --count: invalid int value: 'many'. See thing.py --help."),
        (["--split", "tset"], "error: Unknown value of --split 'tset'. Closest: 'test'."),
        (["--model"], "error: Argument --model: expected one argument."),
        (["stray"], "error: thing.py does not expect 'stray'."),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(argv, message, capsys):
    code, err = outcome(argv, capsys)
    assert code == 2
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_a_user_error_is_one_line_and_exit_code_2(capsys):
    def command(arguments):
        raise UserError("A rule. Do this.")

    assert outcome([], capsys, command) == (2, "error: A rule. Do this.\n")


def test_our_own_mistakes_keep_their_traceback(capsys):
    def command(arguments):
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        outcome([], capsys, command)


def test_a_missing_package_is_one_line_that_says_what_to_install(capsys):
    def command(arguments):
        import no_such_package  # noqa: F401

    code, err = outcome([], capsys, command)
    assert code == 2
    assert "no package 'no_such_package'" in err
    assert "pip install -r requirements.txt" in err
    assert err.count("\n") == 1

    def broken(arguments):
        import keras_resnet.no_such_module  # noqa: F401

    with pytest.raises(ModuleNotFoundError):
        outcome([], capsys, broken)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (script.Terminated, 143)])
def test_interruptions_have_their_exit_codes(error, code, capsys):
    def command(arguments):
        raise error("Go on like this.")

    assert outcome([], capsys, command) == (code, "\nGo on like this.\n")


def test_sigterm_interrupts_like_ctrl_c(capsys):
    def command(arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    assert outcome([], capsys, command)[0] == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_verbs(capsys):
    assert keras_resnet(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in VERBS)
    assert keras_resnet([]) == 2
    capsys.readouterr()
    assert keras_resnet(["trian"]) == 2
    assert "Closest: 'train'" in capsys.readouterr().err
    assert keras_resnet(["train", "--epohcs", "3"]) == 2
    assert "Closest: '--epochs'" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "predict.py", "serve.py", "benchmark.py"])
def test_help_loads_no_large_library(script):
    code = f"""
import runpy, sys
sys.argv = [{script!r}, "--help"]
try:
    runpy.run_path({str(ROOT / script)!r}, run_name="__main__")
except SystemExit as exit:
    assert not exit.code, exit.code
loaded = {{"tensorflow", "keras", "sklearn", "PIL"}} & set(sys.modules)
assert not loaded, loaded
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert shown.stdout.startswith("usage:")


def python_script(body, *, send=(), environment=None):
    """Runs `body` as a script's command in a process of its own; sends it signals when it says so."""
    code = f"""
import sys, time
from keras_resnet.cli import script
def command(arguments):
{chr(10).join("    " + line for line in body.splitlines())}
sys.exit(script.run(command, script.Parser(prog="thing.py"), []))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    for number in send:
        process.stdout.readline()
        process.send_signal(number)
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def test_a_second_ctrl_c_ends_at_once_and_quietly():
    body = """try:
    print("working", flush=True)
    time.sleep(15)
finally:
    print("cleaning up", flush=True)
    time.sleep(15)"""
    began = time.monotonic()
    assert python_script(body, send=(signal.SIGINT, signal.SIGINT)) == (130, "", "")
    assert time.monotonic() - began < 10


def test_an_interrupt_that_a_library_turned_into_its_own_error_is_still_one():
    body = """try:
    print("working", flush=True)
    time.sleep(15)
except KeyboardInterrupt:
    raise RuntimeError("INTERNAL: a callback failed") from None"""
    code, _, err = python_script(body, send=(signal.SIGINT,))
    assert (code, err) == (130, "\nInterrupted.\n")


def test_ctrl_c_in_a_callback_of_jax_ends_the_script():
    pytest.importorskip("jax")
    body = """import os, signal
import jax
def callback(x):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(15)
    return x
called = jax.jit(lambda x: jax.pure_callback(callback, jax.ShapeDtypeStruct((), "float32"), x))
jax.block_until_ready(called(jax.numpy.float32(1)))
print("went on")"""
    code, out, err = python_script(body)
    assert (code, out) == (130, "")
    assert err.endswith("\nInterrupted.\n")  # behind what JAX logs of its callback


def test_letters_that_the_terminal_lacks_are_escaped():
    body = 'print("größer", chr(0xDCFF))'
    code, out, err = python_script(body, environment={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert (code, out, err) == (0, "gr\\xf6\\xdfer \\udcff\n", "")
