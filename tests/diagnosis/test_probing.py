"""A probe that crashes, hangs or raises is an answer, and the others are tried all the same."""

import os
import sys

import pytest

from keras_resnet.diagnosis.probing import Probe, run_probes

FUNCTIONS = """
import atexit, os, signal, sys, time
from keras_resnet.diagnosis.findings import NOTE, OK, PROBLEM, Finding
from keras_resnet.errors import UserError

def fine():
    print("a library's words")
    os.write(1, b"more of them\\n")
    return Finding(OK, str(os.getpid()))

def known():
    return Finding(NOTE, "known")

def wrong():
    raise ValueError("the first line\\nthe second")

def refused():
    raise UserError("A rule. Do this.")

def crash():
    print("corrupted size vs. prev_size", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)

def leave():
    os._exit(3)

def hang():
    time.sleep(60)

def crash_at_the_end():
    atexit.register(os.abort)
    return Finding(OK, "fine so far")

def environment():
    backend = os.environ.get("SOME_BACKEND")
    return Finding(OK, "right") if backend == "right" else Finding(PROBLEM, f"got {backend}")

def temporary():
    import tempfile
    return Finding(OK, tempfile.mkdtemp())
"""


@pytest.fixture
def probe(tmp_path, monkeypatch):
    (tmp_path / "tried_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, **options: Probe(name, f"tried_functions:{name}", **options)


def found_by(*probes):
    return list(run_probes(probes))


def test_probes_share_a_process_and_answer_in_order(probe):
    first, note, second = found_by(probe("fine"), probe("known", advice="Do."), probe("fine", advice="Do."))
    assert first.found == second.found != str(os.getpid())
    assert (first.status, first.check, second.advice) == ("ok", "fine", "")
    assert (note.status, note.found, note.advice) == ("note", "known", "Do.")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong", "ValueError: the first line"),
        ("refused", "A rule. Do this."),
        ("crash", "crashed (SIGSEGV): corrupted size vs. prev_size"),
        ("leave", "ended with exit code 3"),
        ("hang", "took longer than 3 s, and was stopped"),
        ("no_such_function", "AttributeError"),
    ],
)
def test_a_failure_is_an_answer_and_the_others_are_tried(probe, name, words):
    before, failed, after = found_by(
        probe("fine"), probe(name, advice="Do.", limit_s=3, stops_training=True), probe("fine", stops_training=True)
    )
    assert failed.status == "problem"
    assert failed.found.startswith(words)
    assert (failed.advice, failed.stops_training) == ("Do.", True)
    assert (before.status, after.status, after.stops_training) == ("ok", "ok", False)


def test_a_failure_has_the_status_that_the_probe_says(probe):
    (failed,) = found_by(probe("crash", failure="note"))
    assert (failed.status, failed.stops_training) == ("note", False)


def test_a_probe_alone_answers_for_what_shows_at_its_end(probe):
    first, crashed, last = found_by(probe("fine"), probe("crash_at_the_end", is_alone=True), probe("fine"))
    assert crashed.found.startswith("crashed (SIGABRT)")
    assert first.found != last.found


@pytest.mark.parametrize("name", ["wrong", "crash"])
def test_behind_a_basis_that_fails_nothing_is_tried(probe, name):
    assert [row.check for row in found_by(probe("fine"), probe(name, is_basis=True), probe("fine"))] == ["fine", name]


def test_a_wrong_environment_is_said_once_and_mended_for_the_others(probe, monkeypatch):
    monkeypatch.setenv("SOME_BACKEND", "wrong")
    mending = {"mend": {"SOME_BACKEND": "right"}, "is_basis": True}
    wrong, other = found_by(probe("environment", **mending), probe("environment"))
    assert (wrong.status, wrong.found) == ("problem", "got wrong")
    assert other.found == "right"
    (wrong,) = found_by(probe("environment", mend={"OTHER": "1"}, is_basis=True), probe("fine"))
    assert wrong.status == "problem"


def test_nothing_is_left_in_the_temporary_folder(probe):
    (found,) = found_by(probe("temporary"))
    assert not os.path.exists(found.found)
    assert not os.path.exists(os.path.dirname(found.found))
    assert "tried_functions" not in sys.modules
