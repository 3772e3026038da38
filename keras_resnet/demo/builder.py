"""`build_demo`: an exported folder's .tflite files as a page, in a folder for a server or in one file for the disk.

What the folder holds:

    index.html page.js    the page
    worker.js             what computes, beside it
    litert/               LiteRT for the web: loaders and WebAssembly
    float32.tflite …      the files that it runs
    demo.json             what they take and return, labels, preprocessing
    LICENSES.txt
    *.gz                  the same compressed, for servers that send them so
"""

import base64
import dataclasses
import functools
import gzip
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from keras_resnet.archives import megabytes
from keras_resnet.artifact import Artifact, load_artifact
from keras_resnet.demo.bundling import bundle
from keras_resnet.demo.model_files import ModelFile, export_command, find_model_files
from keras_resnet.demo.runtime import COMPATIBLE, PLAIN, VERSION, Runtime, open_runtime
from keras_resnet.errors import UserError
from keras_resnet.explanation.overlay import color_table
from keras_resnet.pages import render_page
from keras_resnet.storage import atomic_directory, is_unfinished, read_json, write_json, write_text

PAGE = Path(__file__).parent / "page"
# What a browser lets the page do: run what came with it, and ask nobody else for anything.
_PAGE_ALONE = (
    "img-src blob: data:; media-src blob: mediastream:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
POLICY = (
    f"default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; {_PAGE_ALONE}"
)
_SINGLE_POLICY = (
    f"default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; worker-src blob:; {_PAGE_ALONE}"
)
# In both kinds of page; by it a page of ours is known, which may be replaced.
_MARK = '<script type="application/json" id="manifest">'
# A browser's longest string is half a gigabyte, and base64 takes four letters for three bytes.
MAX_SINGLE_BYTES = 300_000_000


@dataclass(frozen=True)
class Demo:
    """What was written.

    Attributes:
        page: The page: index.html in its folder, or the single file.
        files: The formats that it runs.
        loaded_bytes: What a browser loads of it without the models, not compressed.
        compressed_bytes: The same as a server sends it compressed.
        problems: Sentences about files that do not run in a browser.
    """

    page: Path
    files: tuple[str, ...]
    loaded_bytes: int
    compressed_bytes: int
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns it as a dictionary that JSON can hold."""
        return {**dataclasses.asdict(self), "page": str(self.page)}


@dataclass(frozen=True)
class _Parts:
    """What a page is put together from, in a folder or in one file."""

    files: Sequence[ModelFile]
    problems: Sequence[str]
    litert: Runtime
    scripts: Mapping[str, str]
    described: Mapping[str, Any]

    def written(self, page: Path, loaded_bytes: int, compressed_bytes: int) -> Demo:
        names = tuple(file.name for file in self.files)
        return Demo(page, names, loaded_bytes, compressed_bytes, tuple(self.problems))


def build_demo(
    folder: Path,
    output: Path | None = None,
    *,
    names: Sequence[str] | None = None,
    is_single: bool = False,
    runtime: Path | None = None,
) -> Demo:
    """Writes the page.

    Args:
        folder: An exported folder.
        output: Where to; default: `folder`/demo, or `folder`/demo.html. An older page there is replaced.
        names: Formats of .tflite files; default: float32 and int8, as far as they are there.
        is_single: Whether to write one file that opens from the disk.
        runtime: The file of LiteRT for the web, where the user has it already.

    Returns:
        What was written.

    Raises:
        UserError: No file runs in a browser, something else is in the page's place, or the runtime cannot be had.
    """
    output = output or folder / ("demo.html" if is_single else "demo")
    files, problems = find_model_files(folder, None if names is None else tuple(names))
    _check_place(output, is_single)
    artifact = load_artifact(files[0].path)
    size = sum(file.bytes for file in files)
    if is_single and size > MAX_SINGLE_BYTES:
        raise UserError(
            f"A single page holds at most {megabytes(MAX_SINGLE_BYTES)} of models, got {megabytes(size)}. Leave "
            "--single-file out, or take a smaller format: --files int8"
        )
    litert = open_runtime(runtime)
    parts = _Parts(files, problems, litert, _scripts(litert), _described(folder, files, artifact))
    return _write_single(output, parts) if is_single else _write_folder(output, parts)


def _check_place(output: Path, is_single: bool) -> None:
    """Makes sure that nothing but an older page is replaced."""
    if not output.exists():
        return
    if is_single:
        is_ours = output.is_file() and _MARK in output.read_text(encoding="utf-8", errors="replace")
    else:
        is_ours = output.is_dir() and (
            (output / "demo.json").is_file() or all(is_unfinished(child.name) for child in output.iterdir())
        )
    if not is_ours:
        raise UserError(f"{output} exists already and is no page of demo.py. Name another --output.")


def _scripts(litert: Runtime) -> dict[str, str]:
    """The page's script and the worker's."""
    sources = {f"./{path.name}": path.read_text(encoding="utf-8") for path in PAGE.glob("*.js")}
    # The import that is replaced would start the runtime by a page's script element, which a worker does not have.
    sources["./litert.js"] = litert.library.replace('"@litertjs/wasm-utils"', '"./loading.js"')
    return {name: bundle(f"./{name}", sources) for name in ("page.js", "worker.js")}


def _described(folder: Path, files: Sequence[ModelFile], artifact: Artifact) -> dict[str, Any]:
    """The values of the page's template."""
    preprocessing = artifact.preprocessing
    colors = color_table()
    manifest = {
        "name": folder.resolve().name,
        "labels": artifact.labels,
        "preprocessing": preprocessing.to_dict() | {"labels": []},  # they are above
        "colors": base64.b64encode(colors.tobytes()).decode(),
        "files": [{**dataclasses.asdict(file), "path": None, "file": file.path.name} for file in files],
    }
    height, width = preprocessing.height, preprocessing.width
    colored = "grey" if preprocessing.channels == 1 else "RGB"
    bringing = "is stretched" if preprocessing.resize == "squash" else "keeps its proportions and is cut to the centre"
    notes = []
    for file in files:
        if "heatmap" not in file.outputs:
            notes.append(f"{file.name} holds no heat map. Export it with one: {export_command(folder)}")
        elif "target" not in file.inputs:
            again = export_command(folder)
            notes.append(f"{file.name} explains the most probable class alone. To choose the class: {again}")
    return {
        "title": folder.resolve().name,
        "summary": f"{len(artifact.labels):,} classes, {' and '.join(file.name for file in files)}.",
        "labels": artifact.labels,
        "files": files,
        "size": f"{height} × {width}",
        "card": f"It classifies pictures of {height} × {width} pixels, {colored}; a photograph {bringing}.",
        "notes": notes,
        "ramp": ", ".join(f"rgb({' '.join(map(str, colors[place]))})" for place in range(0, 256, 51)),
        "runtime_version": VERSION,
        "licences": base64.b64encode((PAGE / "LICENSES.txt").read_bytes()).decode(),
        "manifest": manifest,
        **_card(folder, files),
    }


def _card(folder: Path, files: Sequence[ModelFile]) -> dict[str, Any]:
    """The ledger's lines about the files."""
    if not (folder / "parity.json").is_file():
        return {"rows": [], "beyond": [], "provenance": ""}
    ledger = read_json(folder / "parity.json")
    rows = {row["name"]: row for row in ledger.get("rows", ())}
    shown = [rows[file.name] for file in files if file.name in rows]
    beyond = [
        f"{row['name']} is beyond its limits and was kept all the same: {'; '.join(row['beyond'])}."
        for row in shown
        if row["beyond"]
    ]
    provenance = "Measured when they were exported, by their Python runtime."
    if "hardware" in ledger and "date" in ledger:
        provenance = (
            f"Measured when they were exported, by their Python runtime: {ledger['hardware']}; {ledger['date']}."
        )
    return {"rows": shown, "beyond": beyond, "provenance": provenance}


def _write_folder(output: Path, parts: _Parts) -> Demo:
    page = _rendered(parts.described, policy=POLICY, is_single=False, script="", embedded=())
    contents = {
        "index.html": page.encode(),
        **{name: script.encode() for name, script in parts.scripts.items()},
        **{f"litert/{name}": data for name, data in parts.litert.files.items()},
    }
    packed = {name: _packed(data) for name, data in contents.items()}
    with atomic_directory(output, overwrite=True) as made:
        (made / "litert").mkdir()
        for name, data in contents.items():
            (made / name).write_bytes(data)
            (made / f"{name}.gz").write_bytes(packed[name])
        for file in parts.files:
            shutil.copyfile(file.path, made / file.path.name)
        shutil.copyfile(PAGE / "LICENSES.txt", made / "LICENSES.txt")
        write_json(made / "demo.json", parts.described["manifest"])
    # Of the builds a browser loads one.
    builds = {name.partition(".")[0] for name in parts.litert.files}
    common = [name for name in contents if not name.startswith("litert/")]
    loads = [[*common, f"litert/{build}.js", f"litert/{build}.wasm"] for build in builds]
    return parts.written(
        output / "index.html",
        max(sum(len(contents[name]) for name in load) for load in loads),
        max(sum(len(packed[name]) for name in load) for load in loads),
    )


def _write_single(output: Path, parts: _Parts) -> Demo:
    # No threads: the disk sends no headers.
    runtime = [
        _embedded(_packed(parts.litert.files[f"{build}{suffix}"]), runtime=f"{build}.js", part=part)
        for build in (PLAIN, COMPATIBLE)
        for part, suffix in (("loader", ".js"), ("wasm", ".wasm"))
    ]
    code = parts.scripts["worker.js"].encode()
    worker = {"attributes": Markup('id="worker"'), "data": base64.b64encode(code).decode()}
    models = [_embedded(gzip.compress(file.path.read_bytes(), 6, mtime=0), file=file.name) for file in parts.files]

    # The parser would take these for the end of the script, and for its beginning.
    script = Markup(parts.scripts["page.js"].replace("</script", "<\\/script").replace("<!--", "<\\!--"))
    values = {"policy": _SINGLE_POLICY, "is_single": True, "script": script}
    without = _rendered(parts.described, embedded=[worker, *runtime], **values).encode()
    write_text(output, _rendered(parts.described, embedded=[worker, *runtime, *models], **values))
    return parts.written(output, len(without), len(_packed(without)))


def _rendered(described: Mapping[str, Any], **values: Any) -> str:
    manifest = Markup(json.dumps(described["manifest"], allow_nan=False).replace("<", "\\u003c"))
    return render_page("demo.html.jinja", **{**described, "manifest": manifest}, **values)


@functools.lru_cache(maxsize=16)
def _packed(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


def _embedded(data: bytes, **attributes: str) -> dict[str, Any]:
    """Data as the page finds it: base64 in an element with these data- attributes."""
    marks = Markup(" ").join(Markup('data-{}="{}"').format(name, value) for name, value in attributes.items())
    return {"attributes": marks, "data": base64.b64encode(data).decode()}
