"""`demo.py`: a page that runs an exported .tflite file in the browser, with its heat map."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_resnet.cli import script
from keras_resnet.errors import UserError


def build_parser() -> script.Parser:
    """Returns the parser."""
    parser = script.Parser(
        prog="demo.py",
        description="Writes a page that runs the .tflite files of an export in the browser: photographs and camera in, "
        "classes and heat map out. Pictures stay in the browser.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="what export.py wrote, such as saved_models/NAME")
    parser.add_argument(
        "--files", metavar="A,B", help="formats to run; default: float32 and int8 as far as they are there"
    )
    parser.add_argument("--output", metavar="PLACE", help="where to; default: demo/ or demo.html in FOLDER")
    parser.add_argument("--single-file", action="store_true", help="one HTML file that opens from the disk")
    parser.add_argument("--serve", action="store_true", help="serve the page to this machine, until Ctrl-C")
    parser.add_argument("--port", type=script.at_least(0), default=8000, help="of --serve; 0: a free one")
    parser.add_argument("--runtime", metavar="FILE.tgz", help="the runtime's npm package, where npm has no network")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page and returns the exit code."""
    return script.run(_demo, build_parser(), argv)


def _demo(arguments: argparse.Namespace) -> None:
    if arguments.serve and arguments.single_file:
        raise UserError("A single file opens from the disk. Say --serve or --single-file.")
    names = None
    if arguments.files is not None:
        names = [name.strip() for name in arguments.files.split(",") if name.strip()]
        if not names or len(set(names)) != len(names):
            raise UserError(f"--files names formats, each once, got {arguments.files!r}.")

    from keras_resnet.archives import megabytes
    from keras_resnet.demo.builder import build_demo
    from keras_resnet.demo.server import open_server

    demo = build_demo(
        Path(arguments.folder),
        Path(arguments.output) if arguments.output else None,
        names=names,
        is_single=arguments.single_file,
        runtime=Path(arguments.runtime) if arguments.runtime else None,
    )
    for sentence in demo.problems:
        print(f"note: {sentence}", file=sys.stderr)
    server = open_server(demo.page.parent, arguments.port) if arguments.serve else None
    address = None if server is None else "http://{}:{}/".format(*server.server_address)
    if arguments.json:
        print(json.dumps(demo.to_dict() | {"address": address}, ensure_ascii=False), flush=True)
    else:
        loaded, compressed = megabytes(demo.loaded_bytes), megabytes(demo.compressed_bytes)
        print(
            f"written to {demo.page}: {' and '.join(demo.files)}; beside the models {loaded}, {compressed} compressed"
        )
        if address:
            print(f"serving {address} to this machine alone; Ctrl-C ends it", flush=True)
    if server is not None:
        with server:
            server.serve_forever()
