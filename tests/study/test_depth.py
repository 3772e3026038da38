"""The loop of the study: interrupted and continued, boxed in time, refused where its settings change; and its page."""

import json
import math
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pytest

from keras_resnet.cli import main
from keras_resnet.errors import UserError
from keras_resnet.progress import ProgressBar
from keras_resnet.study import depth
from keras_resnet.study.depth import Network, StudyFolder, StudySettings, run_study
from keras_resnet.study.page import draw_figures

PLAIN, RESIDUAL = Network(0, 8, "plain"), Network(0, 8, "residual")


class Interrupting(ProgressBar):
    """Ctrl-C when a training is about to begin."""

    def begin(self, *arguments):
        raise KeyboardInterrupt


def invented(network, *, diverged=False):
    """What `depth._examine` returns, without a training."""
    count = {8: 3, 14: 6}[network.depth]
    norms = {f"conv{number}": 1 / number for number in range(1, 2 * count + 2)} | {"logits": 1.0}
    return {
        "gradients_start": norms,
        "gradients_end": None if diverged else norms,
        "deletions": None if diverged else {f"stage{s}_block{b}": 0.1 * s for s in (1, 2, 3) for b in (1, count // 3)},
        "direction": None if diverged else {"positions": [-1, 0, 1], "losses": [2.0, 0.1, None]},
        "losses": [] if diverged else [2.0, 1.0],
        "errors": [] if diverged else [0.5, 0.25],
        "intact_error": 0.05,
        "row": {
            "kind": network.kind,
            "depth": network.depth,
            "seed": network.seed,
            "state": "diverged" if diverged else "trained",
            "parameters": 1000,
            "epochs": 2,
            "learning_rate": 0.1,
            **dict.fromkeys(("training_error", "error_in_last_epoch", "test_error"), "" if diverged else 0.25),
            "first_to_last_gradient": 2.0,
            **dict.fromkeys(("error_with_a_block_deleted", "worst_deletion"), "" if diverged else 0.5),
            "seconds": 1.0,
        },
    }


def invent(patch, asked):
    """Has networks invented in no time, with nothing built; `asked` becomes the list of those that were asked for."""

    def examine(setup, network, progress):
        asked.append(network)
        return invented(network, diverged="no_norm" in network.kind)

    patch.setattr(depth, "_examine", examine)
    patch.setattr(depth, "prepare", lambda *_, **__: SimpleNamespace(data=SimpleNamespace(image_shape=(8, 8, 1))))


@pytest.fixture
def without_training(monkeypatch):
    asked = []
    invent(monkeypatch, asked)
    return asked


def lasting(found):
    """What does not depend on the clock."""
    return {**found, "row": {key: value for key, value in found["row"].items() if "seconds" not in key}}


def test_an_interrupted_study_goes_on_and_finds_the_same(tiny_data, tmp_path, monkeypatch):
    settings = StudySettings(dataset=tiny_data, epochs=2, batch_size=32, learning_rate=0.01)
    network = Network(0, 8, "residual_no_norm")  # compiled in half the time
    folder = StudyFolder(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(depth, "_examine", lambda setup, known, progress: invented(known))
        run_study(settings, [PLAIN], folder)
    kept = folder.file(PLAIN).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run_study(settings, [network, PLAIN], folder, progress=Interrupting(show=False))
    assert not folder.file(network).exists()
    assert run_study(settings, [network, PLAIN], folder) == []
    assert folder.file(PLAIN).read_bytes() == kept

    alone = StudyFolder(tmp_path / "b")
    run_study(settings, [network], alone)
    (found,) = folder.read([network])
    # The same operations in the same order: equal to the last bit.
    assert lasting(found) == lasting(alone.read([network])[0])

    assert found["row"]["state"] == "trained"
    assert len(found["deletions"]) == 3
    assert len(found["errors"]) == len(found["losses"]) == 2
    assert len(found["gradients_start"]) == len(found["gradients_end"]) == 8
    assert found["gradients_start"] != found["gradients_end"]
    # All training images are among those that directions are measured on.
    middle = found["direction"]["losses"][found["direction"]["positions"].index(0)]
    assert middle == pytest.approx(found["row"]["training_loss"], rel=1e-3)  # a row has four digits


def test_a_loss_that_is_lost_is_a_finding(tiny_data, tmp_path):
    settings = StudySettings(dataset=tiny_data, epochs=3, batch_size=32, learning_rate=1e20)
    folder = StudyFolder(tmp_path)
    network = Network(0, 8, "plain_no_norm")
    assert run_study(settings, [network], folder) == []
    (found,) = folder.read([network])
    assert found["row"]["state"] == "diverged"
    assert found["row"]["training_error"] == ""
    assert found["deletions"] is found["direction"] is None
    assert all(math.isfinite(loss) for loss in found["losses"])


def test_the_time_box_ends_between_networks(tiny_data, tmp_path, without_training, monkeypatch):
    now = iter(range(0, 1000, 60))  # each look at the clock is a minute later
    monkeypatch.setattr(depth.time, "monotonic", lambda: next(now))
    settings, folder = StudySettings(dataset=tiny_data), StudyFolder(tmp_path)
    networks = [Network(0, 14, "plain"), RESIDUAL, PLAIN]
    assert run_study(settings, networks, folder, budget_seconds=110) == [RESIDUAL, Network(0, 14, "plain")]
    assert without_training == [PLAIN]
    assert run_study(settings, networks, folder) == []
    assert without_training == sorted(networks)
    assert len(folder.rows.read_text().splitlines()) == 4


def test_other_settings_are_refused(tiny_data, tmp_path, without_training):
    folder = StudyFolder(tmp_path)
    run_study(StudySettings(dataset=tiny_data), [PLAIN], folder)
    for name, value in (("epochs", 3), ("learning_rate", 0.2), ("image_size", 9)):
        with pytest.raises(UserError, match=f"begun with {name}"):
            run_study(StudySettings(**{"dataset": tiny_data, name: value}), [RESIDUAL], folder)
    assert without_training == [PLAIN]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--depths", "9"], "error: These networks have 6n + 2 layers, 8 to 1202, got 9. The nearest below is 8."),
        (["--kinds", "plian"], "error: Unknown kind of network 'plian'. Closest: 'plain'."),
        (["--dataset", "digit"], "error: Unknown data source 'digit'. Closest: 'digits'."),
        (["--budget", "0"], "error: --budget must be a number above 0, got '0'."),
        (["--dataset", "npz:none.npz"], "error: An .npz data set must exist"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(flags, sentence, tmp_path, capsys):
    assert main.main(["study", "depth", "--output", str(tmp_path / "s"), *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith(sentence)
    assert err.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_a_dry_run_lists_and_writes_nothing(tmp_path, capsys):
    flags = ["--depths", "8", "--seeds", "2", "--output", str(tmp_path / "s"), "--dry-run", "--json"]
    assert main.main(["study", "depth", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left"] == ["plain-8-seed0", "residual-8-seed0", "plain-8-seed1", "residual-8-seed1"]
    assert not (tmp_path / "s").exists()


@pytest.fixture(scope="module")
def written(tiny_data, tmp_path_factory):
    """The folder of a study by the command: six networks, of which two diverged."""
    folder = tmp_path_factory.mktemp("study")
    flags = ["--dataset", tiny_data, "--depths", "8", "14", "--kinds", "residual", "plain", "plain_no_norm"]
    with pytest.MonkeyPatch.context() as patch:
        invent(patch, [])
        assert main.main(["study", "depth", *flags, "--output", str(folder)]) == 0
    return folder, flags


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_from_disk_whole(written, browser, width):
    folder, _ = written
    assert browser.problems_at(folder / "study.html", width) == []
    # Three by depth and one a kind; gradients, deletions and directions at two depths.
    assert browser.run("return document.querySelectorAll('svg').length") == 3 + 3 + 3 * 2
    cells = browser.run("return [...document.querySelectorAll('#networks tbody tr')].map(r => r.innerText)")
    assert len(cells) == 6
    assert [text.split("\t")[4] for text in cells] == ["25.00%", "–", "25.00%"] * 2


def test_figures_are_files_that_need_no_page(written):
    folder, _ = written
    files = list((folder / "figures").glob("*.svg"))
    assert len(files) == 12
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in text
        assert len(text) < 100_000


def test_what_is_finished_is_not_trained_again(written, monkeypatch, capsys):
    folder, flags = written
    monkeypatch.setattr(depth, "_examine", None)  # any call fails
    rows = (folder / "networks.csv").read_bytes()
    assert main.main(["study", "depth", *flags, "--output", str(folder)]) == 0
    assert "plain_no_norm" in capsys.readouterr().out
    assert (folder / "networks.csv").read_bytes() == rows
    assert rows.count(b"python -m keras_resnet study depth") == 6


def test_seeds_are_averaged():
    networks = [invented(Network(seed, 8, "residual")) for seed in (0, 1)]
    networks[1]["row"]["test_error"] = 0.75
    figures = draw_figures(networks)
    one = {figure.name: figure.svg for figure in figures["depth"]}["depth_test_error"]
    assert one == {figure.name: figure.svg for figure in draw_figures([mean_of(networks)])["depth"]}["depth_test_error"]


def mean_of(networks):
    found = invented(Network(0, 8, "residual"))
    found["row"]["test_error"] = sum(network["row"]["test_error"] for network in networks) / 2
    return found
