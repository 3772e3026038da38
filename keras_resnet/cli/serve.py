"""`serve.py`: exported networks behind HTTP, for those who have no TensorFlow Serving."""

import argparse
import importlib.util
from collections.abc import Sequence

from keras_resnet.cli import script
from keras_resnet.errors import UserError
from keras_resnet.server.settings import BACKENDS, ServerSettings, named_models, read_api_keys

# Modules and the packages that bring them.
_NEEDED = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart",
}


def build_parser() -> script.Parser:
    """Returns the parser."""
    usual = ServerSettings.__dataclass_fields__

    def default(name: str):
        return usual[name].default

    parser = script.Parser(
        prog="serve.py",
        description="Serves exported networks over the REST API of TensorFlow Serving, and answers image files with "
        "labels (:classify) and heat maps (:explain). Stops at SIGTERM or Ctrl-C, when what it has accepted is "
        "answered.",
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]PATH",
        help="folder that export.py wrote, SavedModel, .tflite file, or folder of exports",
    )
    parser.add_argument("--host", default=default("host"), help="address to listen on; 0.0.0.0 for every network")
    parser.add_argument("--port", type=script.at_least(0), default=default("port"), help="port; 0 takes a free one")
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default=default("backend"),
        metavar="NAME",
        help="auto takes the faster of SavedModel and float32.tflite; tflite the most exact .tflite; or one of "
        + ", ".join(BACKENDS[2:]),
    )
    parser.add_argument(
        "--versions", type=script.positive_int, default=default("versions"), help="newest versions of a model"
    )
    parser.add_argument(
        "--batch-size", type=script.positive_int, default=default("batch_size"), help="images computed together"
    )
    parser.add_argument(
        "--window-ms",
        type=float,
        default=default("window_ms"),
        help="how long a batch with room waits for requests that are being received",
    )
    parser.add_argument(
        "--queue-size",
        type=script.positive_int,
        default=default("queue_size"),
        help="requests in progress, and images that wait for a model; beyond that the answer is 503",
    )
    parser.add_argument(
        "--max-body-mb", type=float, default=default("max_body_bytes") / 2**20, help="largest body, MiB"
    )
    parser.add_argument(
        "--max-megapixels", type=float, default=default("max_pixels") / 1e6, help="largest image, million pixels"
    )
    parser.add_argument(
        "--deadline", type=float, default=default("deadline_seconds"), metavar="SECONDS", help="time of a request"
    )
    parser.add_argument(
        "--poll", type=float, default=default("poll_seconds"), metavar="SECONDS", help="between looks for new versions"
    )
    parser.add_argument("--api-key-file", metavar="FILE", help="keys, one a line; a request must carry one")
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this origin call the server from a browser; may be given again",
    )
    parser.add_argument("--access-log", action="store_true", help="log every request on standard output")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serves and returns the exit code."""
    return script.run(_serve, build_parser(), argv)


def _serve(arguments: argparse.Namespace) -> None:
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"serve.py needs {', '.join(missing)}: pip install -r requirements-serve.txt.")
    settings = ServerSettings(
        models=named_models(arguments.models),
        host=arguments.host,
        port=arguments.port,
        backend=arguments.backend,
        versions=arguments.versions,
        batch_size=arguments.batch_size,
        window_ms=arguments.window_ms,
        queue_size=arguments.queue_size,
        max_body_bytes=_whole("--max-body-mb", arguments.max_body_mb, 2**20),
        max_pixels=_whole("--max-megapixels", arguments.max_megapixels, 1e6),
        deadline_seconds=arguments.deadline,
        poll_seconds=arguments.poll,
        api_keys=read_api_keys(arguments.api_key_file) if arguments.api_key_file else (),
        cors_origins=tuple(arguments.cors_origin),
    )
    from keras_resnet.server.process import serve

    # Lines of a log, not of a terminal: each at once.
    serve(settings, tell=lambda line: print(line, flush=True), access_log=arguments.access_log)


def _whole(flag: str, number: float, unit: float) -> int:
    if not 0 < number * unit < 2**40:
        raise UserError(f"{flag} must be a number above 0, got {number:g}.")
    return max(1, int(number * unit))
