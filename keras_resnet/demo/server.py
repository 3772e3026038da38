"""Serves a built page to this machine alone, with the headers by which a browser lets it use threads."""

import http.server
from pathlib import Path
from typing import Any

from keras_resnet.demo.builder import POLICY
from keras_resnet.errors import UserError

HOST = "127.0.0.1"
HEADERS = {
    # Shared memory, and with it threads, is for pages that let nothing of other origins in.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a page built anew is what the next visit sees
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}


def open_server(directory: Path, port: int) -> http.server.ThreadingHTTPServer:
    """Opens a server for the files of a folder; `serve_forever` runs it.

    Args:
        directory: The folder, with index.html. A file that lies beside its own compressed copy (".gz") is sent
            compressed to whoever takes that.
        port: The port; 0 takes a free one, `server_address` tells which.

    Returns:
        The server, which listens on 127.0.0.1 and nowhere else.

    Raises:
        UserError: The port is taken.
    """

    def handler(*arguments: Any) -> _Handler:
        return _Handler(*arguments, directory=str(directory))

    try:
        return http.server.ThreadingHTTPServer((HOST, port), handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Port {port} cannot be opened: {reason}. Name another --port; 0 takes a free one.") from None


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def send_head(self) -> Any:
        # A name that somebody else had point here would make their page of the same origin.
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in (HOST, "localhost"):
            self.send_error(403)
            return None
        path = Path(self.translate_path(self.path))
        if path.is_dir() and self.path.split("?")[0].endswith("/"):
            path /= "index.html"
        packed = Path(f"{path}.gz")
        takes_gzip = "gzip" in self.headers.get("Accept-Encoding", "")
        if not (takes_gzip and path.is_file() and packed.is_file()):
            return super().send_head()
        file = packed.open("rb")  # whoever called closes it
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(packed.stat().st_size))
        self.send_header("Vary", "Accept-Encoding")
        self.end_headers()
        return file

    def guess_type(self, path: Any) -> str:
        return _TYPES.get(Path(path).suffix, "application/octet-stream")

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, *arguments: Any) -> None:
        pass
