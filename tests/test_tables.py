"""Tables of measured rows: joined over seeds, and laid across."""

import importlib.util
from pathlib import Path

import pytest

ROWS = """contestant,seed,mark,accuracy
a,0,60,0.5
a,0,120,0.7
a,1,60,0.7
a,1,120,0.9
b,0,60,0.1
b,0,120,0.2
"""


@pytest.fixture
def tables(tmp_path, monkeypatch):
    path = Path(__file__).parents[1] / "results" / "tables.py"
    spec = importlib.util.spec_from_file_location("tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    (tmp_path / "r.csv").write_text(ROWS)

    def render(spec):
        return module.render(f"<!-- table: {spec} -->\nold\n<!-- end table -->").splitlines()[1:-1]

    return render


def test_marks_become_columns_and_seeds_are_averaged(tables):
    assert tables("r.csv | contestant, accuracy | mean over seed | across mark") == [
        "| contestant | 60 | 120 | seeds |",
        "| --- | --- | --- | --- |",
        "| a | 0.6 ± 0.1414 | 0.8 ± 0.1414 | 2 |",
        "| b | 0.1 | 0.2 | 1 |",
    ]


def test_without_seeds_rows_are_told_apart_by_their_columns(tables):
    assert tables("r.csv | contestant, seed, accuracy | across mark")[2:] == [
        "| a | 0 | 0.5 | 0.7 |",
        "| a | 1 | 0.7 | 0.9 |",
        "| b | 0 | 0.1 | 0.2 |",
    ]


def test_a_sitting_that_lacks_a_mark_is_refused(tables, tmp_path):
    (tmp_path / "r.csv").write_text(ROWS.replace("b,0,120,0.2\n", ""))
    with pytest.raises(ValueError, match="has no accuracy for mark"):
        tables("r.csv | contestant, accuracy | mean over seed | across mark")


def test_what_is_not_measured_yet_says_so(tables):
    assert tables("absent.csv | contestant") == ["Not measured yet: there is no `results/absent.csv`."]


def test_differences_are_taken_seed_by_seed(tables, tmp_path):
    """The interval is that of scipy.stats.ttest_rel, which is the reference for a paired comparison."""
    stats = pytest.importorskip("scipy.stats")
    base, other = [0.91, 0.95, 0.99], [0.90, 0.96, 0.96]
    rows = [f"{name},{seed},{row[seed]}" for name, row in (("x", base), ("y", other)) for seed in range(3)]
    (tmp_path / "r.csv").write_text("\n".join(["precision,seed,accuracy", *rows, ""]))
    expected = stats.ttest_rel(other, base).confidence_interval(0.95)
    assert tables("r.csv | precision, accuracy | against precision=x | mean over seed") == [
        "| precision | accuracy, x | difference | 95 % interval | seeds |",
        "| --- | --- | --- | --- | --- |",
        f"| y | 0.95 | -0.01 | {expected.low:+.4f} to {expected.high:+.4f} | 3 |",
    ]
