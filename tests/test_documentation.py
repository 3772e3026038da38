"""Every command and Python block of the pages runs, or says why it does not.

A page's blocks run in their order, Python blocks in one namespace, in a folder that has a run and images. `SMALLER`,
`FLAGS` and `PARSED_ONLY` are the one place where commands are made small. A comment `<!-- not run: REASON -->` before
a block leaves it out; `NOT_RUN` counts those of each page, so that none is left out unseen.
"""

import functools
import glob
import importlib
import itertools
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from keras_resnet.cli.main import VERBS, main

ROOT = Path(__file__).parents[1]
PAGES = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")})
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))

# What is written → what is run.
SMALLER = {
    r"\bresnet(18|20|50)\b": "resnet8",
    r"\bresnet50d\b": "resnet18d",
    r"pictures-resnet8": "flowers-resnet8",  # the run that is there
    r"--image-size 160": "--image-size 16",
    r"--method all": "--method gradcam",
    r"parity=\(images, labels\)\)": 'parity=(images, labels), formats=["float32"], overwrite=True)',
    r"range\(200\)": "range(40)",
    r"input_shape=\(64, 64, 3\)": "input_shape=(16, 16, 3)",
}
# Flags behind those of a command; the last of a kind counts.
FLAGS = {
    "train": "--batch-size 12 --dry-run --name another",
    "explain": "--limit 8",
    "export": "--formats float32",
    "plot-augmentation": "--images 2 --variants 2",
    "study": "--dry-run",
}
# Commands, as patterns, whose flags are checked and that are not started, with the reason.
PARSED_ONLY = {
    "export .*--(formats|with-heatmap) ": "other formats and heat maps; tests/export writes them",
    "serve": "runs until it is stopped; tests/server starts it",
    "demo": "fetches the browser's runtime; tests/demo opens it",
    "benchmark": "measures for minutes",
    "doctor": "looks at this machine for half a minute; tests/cli/test_doctor.py runs it",
    "check": "looks at files that are not exported here; tests/export/test_checking.py runs it",
}
# Commands that begin a block's line; other lines of indented blocks are what commands print, or listings.
COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ )?(?:python|pip|pytest|ruff|uv|curl|docker|tensorflow_model_server|keras-resnet)\b"
)
NOT_RUN = {
    "CONTRIBUTING.md": 2,
    "README.md": 1,
    "docs/distributed.md": 2,
    "docs/how_to/convert_weights.md": 2,
    "docs/ios.md": 1,
    "docs/residual_connections.md": 1,
    "docs/serving.md": 7,
}
# Code that no Python runs, and what is no code.
OTHER_LANGUAGES = {"kotlin", "swift", "proto", "text"}


class Block(NamedTuple):
    """A block of a page: its language ("" where it is indented), its text, and why it is not run ("" where it is)."""

    line: int
    language: str
    text: str
    reason: str


def blocks(page):
    """Returns a page's blocks in their order."""
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    number = 0
    reason = ""
    while number < len(lines):
        line, start = lines[number], number
        number += 1
        if mark := re.fullmatch(r"<!-- not run: (.+) -->", line):
            reason = mark[1]
        elif line.startswith("```"):
            while lines[number] != "```":
                number += 1
            found.append(Block(start + 1, line[3:], "\n".join(lines[start + 1 : number]), reason))
            number, reason = number + 1, ""
        elif line.startswith("    ") and not (start and lines[start - 1].strip()):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            text = "\n".join(text[4:] for text in lines[start:number]).rstrip()
            found.append(Block(start + 1, "", text, reason))
            reason = ""
        elif line.strip():
            assert not reason, f"{page.name}:{start + 1}: no block follows the mark."
    return found


def commands(text):
    """Returns the commands of a block as they are typed, each in one line without comments."""
    text = re.sub(r"(?m)\s#.*$", "", text).replace("\\\n", " ")
    return [part.strip() for line in text.splitlines() for part in line.split(" && ") if COMMAND.match(part.strip())]


def smaller(text):
    for written, run in SMALLER.items():
        text = re.sub(written, run, text)
    return text


@functools.cache  # several pages begin alike
def run_command(command):
    """Runs a command of the project in this process, or checks what pip is told to install."""
    words = shlex.split(command)
    if words[0] == "pip":
        for flag, file in itertools.pairwise(words):
            assert flag not in ("-r", "-c") or (ROOT / file).is_file(), command
        return
    if words == ["pytest"]:
        return  # which is what runs here
    if words[:3] == ["python", "-m", "keras_resnet"]:
        verb, arguments = words[3], words[4:]
    else:
        assert words[0] == "python", f"Neither run nor marked: {command}"
        assert (ROOT / words[1]).is_file(), command
        verb, arguments = Path(words[1]).stem, words[2:]
    arguments = [name for word in arguments for name in (sorted(glob.glob(word)) if "*" in word else [word])]
    if any(re.match(pattern, f"{verb} {shlex.join(arguments)} ") for pattern in PARSED_ONLY):
        module = importlib.import_module(VERBS[verb][0].partition(":")[0])
        if hasattr(module, "build_parser"):
            module.build_parser().parse_args(arguments)
        return
    if verb == "explain" and "--score" not in arguments and "--gallery" not in arguments:
        extra = []
    else:
        extra = FLAGS.get(verb, "").split()
    assert main([verb, *arguments, *extra]) == 0, command


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what pages speak of: images of flowers, a network trained on them for one epoch, and its export."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pages")
    for part, count in (("train", 12), ("test", 6)):
        for number, name in enumerate(("rose", "tulip", "violet")):
            (folder / "flowers" / part / name).mkdir(parents=True)
            for image in range(count):
                pixels = random.integers(0, 90, (16, 16, 3), dtype=np.uint8)
                pixels[:, :, number] += 150
                Image.fromarray(pixels).save(folder / "flowers" / part / name / f"{image}.png")
    (folder / "new").mkdir()
    Image.fromarray(random.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / "new" / "1.jpg")
    (folder / "mine.json").write_text(json.dumps({"base": "resnet8", "attention": "eca"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small = "--dataset folder:flowers --model resnet8 --epochs 1 --batch-size 12 --warmup-epochs 0"
        assert main(["train", *small.split()]) == 0
    shutil.copytree(folder / "runs" / "flowers-resnet8-seed0", folder / "runs" / "other")
    return folder


@pytest.fixture
def tables():
    """The tables that pages add rows to, as they were before."""
    from keras_resnet.data import augmentation, sources
    from keras_resnet.explanation import methods
    from keras_resnet.export import formats

    tables = (augmentation.AUGMENTATIONS, sources.SOURCES, methods.METHODS, formats.FORMATS)
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def namespace():
    """What blocks of a page may take for given."""
    import keras

    random = np.random.default_rng(0)
    images = random.integers(0, 255, (24, 32, 32, 3), dtype=np.uint8)
    return {"keras": keras, "images": images, "train_images": images, "labels": np.arange(24) % 3}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_run(page, place, tables, namespace, monkeypatch, untimed):
    monkeypatch.chdir(place)
    for block in blocks(page):
        if block.reason or block.language in OTHER_LANGUAGES:
            continue
        where = f"{name_of(page)}:{block.line}"
        if block.language == "python":
            exec(compile(smaller(block.text), where, "exec"), namespace)
        elif block.language == "json":
            json.loads(block.text)
        else:
            assert block.language in ("", "sh"), f"{where}: {block.language!r} is neither run nor marked."
            for command in commands(block.text):
                run_command(smaller(command))


def test_blocks_that_are_not_run_are_counted():
    counted = {name_of(page): sum(bool(block.reason) for block in blocks(page)) for page in PAGES}
    assert {page: count for page, count in counted.items() if count} == NOT_RUN


def test_there_is_something_to_run():
    found = [block for page in PAGES for block in blocks(page) if not block.reason]
    assert sum(block.language == "python" for block in found) > 15
    assert sum(len(commands(block.text)) for block in found if block.language in ("", "sh")) > 40


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_notebooks_run(notebook, tmp_path, monkeypatch, untimed):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    namespace = {}
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    for number, cell in enumerate(code):
        exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), namespace)
