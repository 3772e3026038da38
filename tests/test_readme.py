"""The pages say what the results and the package say."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_tables_are_those_of_the_results():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "results" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for page, mark in (("README.md", "<!-- headlines -->"), ("docs/benchmarks.md", "<!-- table:")):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert mark in text
        assert tables.render(text) == text
        assert tables.render(text.replace("| what | measured |", "| what |")) == text


def test_the_layout_names_every_module():
    layout = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.name for path in (ROOT / "keras_resnet").rglob("*") if path.suffix in (".py", ".jinja")}
    named = set(re.findall(r"[\w.]+\.(?:py|jinja)\b", layout))
    scripts = {path.name for path in ROOT.glob("*.py")}
    assert modules - named == {"__init__.py"} - named
    assert named <= modules | scripts


def test_no_module_is_longer_than_400_lines():
    modules = (ROOT / "keras_resnet").rglob("*.py")
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
