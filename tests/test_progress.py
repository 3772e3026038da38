import io
import sys

from keras_resnet.cli import script
from keras_resnet.errors import UserError
from keras_resnet.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def use(progress):
    progress.begin("run int8", 50)
    for _ in range(4):
        progress.step(10)
    assert progress.done == 40
    progress.end(40)
    progress.begin("write float32", 1, "files")
    progress.end()
    progress.begin("fetch", None, "B")
    progress.step(3_000_000)
    progress.end()
    progress.begin("Grad-CAM", None, "steps")
    progress.reach(3, 8)
    progress.reach(1, 4)  # the next batch
    progress.clear()


def test_a_log_file_gets_a_line_for_each_finished_stage(capsys):
    use(ProgressBar(4))
    lines = capsys.readouterr().err.splitlines()
    assert [line[:9] for line in lines] == ["[1/4] run", "[2/4] wri", "[3/4] fet"]
    assert " 40/50 " in lines[0]  # cut short, and it says so
    assert " 1/1 " in lines[1]
    assert " 3.00MB " in lines[2]


def test_a_terminal_sees_rate_and_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    progress = ProgressBar()
    progress.begin("run int8", 50)
    progress._bar.start_t -= 2
    progress._bar.last_print_t -= 2  # as if two seconds had passed
    progress.step(20)
    line = terminal.getvalue().split("\r")[-1]
    assert "20/50 [00:02<00:0" in line
    assert " images/s]" in line
    progress.clear()
    assert not terminal.getvalue().split("\r")[-2].strip()


def test_nothing_is_shown_where_nothing_shall(capsys, monkeypatch):
    use(ProgressBar(4, show=False))
    monkeypatch.setattr("sys.stderr", Terminal())
    use(ProgressBar(4, show=False))
    assert capsys.readouterr().err == ""
    assert sys.stderr.getvalue() == ""


def test_an_error_gets_a_line_of_its_own(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)

    def work(arguments):
        progress = ProgressBar()
        progress.begin("run int8", 50)
        progress.step(20)
        raise UserError("The disk is full.")

    assert script.run(work, script.Parser(prog="work.py"), []) == 2
    assert terminal.getvalue().splitlines()[-1] == "error: The disk is full."
    assert terminal.getvalue().endswith("\nerror: The disk is full.\n")
