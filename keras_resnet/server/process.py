"""The server as a process: it listens, and when it is told to stop it answers first what it has accepted."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from keras_resnet.errors import UserError
from keras_resnet.server.app import create_app
from keras_resnet.server.repository import open_models
from keras_resnet.server.settings import ServerSettings

# For the head of a request, from the answer before it on.
HEAD_SECONDS = 20
KEEP_ALIVE_SECONDS = 15
_BACKLOG = 2048
_ACCEPTING, _LINGERING, _TICK = 0.05, 0.5, 0.01  # seconds


def serve(settings: ServerSettings, *, tell: Callable[[str], None] = print, access_log: bool = False) -> None:
    """Serves until SIGTERM or Ctrl-C, then answers what was accepted.

    Args:
        settings: What is served and how.
        tell: Takes the lines that people read.
        access_log: Whether each request is logged on standard output.

    Raises:
        UserError: A model cannot be served, or the address is taken or not this machine's.
    """
    listener = _listen(settings)  # before models are loaded, which takes seconds
    try:
        models = open_models(settings, tell)
        config = uvicorn.Config(
            create_app(models, settings),
            http=_Protocol,
            ws="none",
            proxy_headers=False,
            lifespan="on",
            log_level="info" if access_log else "warning",
            access_log=access_log,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            # Deadlines end every request before that.
            timeout_graceful_shutdown=int(settings.deadline_seconds) + 5,
        )
        address, port = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        listener.listen(_BACKLOG)  # who comes from here on waits for uvicorn, instead of being refused
        tell(f"serving on http://{shown}:{port}")
        with contextlib.suppress(KeyboardInterrupt):  # the signal that ended it, behind the last answer
            _Server(config).run(sockets=[listener])
    finally:
        listener.close()


def _listen(settings: ServerSettings) -> socket.socket:
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        # The protocol's name makes asyncio send small pieces at once; else head and body of an answer lie 40 ms apart.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise UserError(f"Cannot listen on {settings.host}: {error.strerror}.") from None
    try:
        # A server that was killed leaves its connections behind for a minute; its successor need not wait.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise UserError(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. Give another --host or --port."
        ) from None
    return listener


class _Server(uvicorn.Server):
    """Uvicorn, whose end loses nothing: it closes its socket while connections wait in the kernel's queue."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.service.is_stopping = True  # from here on answers say "Connection: close"
        await asyncio.sleep(_ACCEPTING)
        # What has reached the queue since asyncio looked last would be reset with the socket.
        waiting = [connection for listener in sockets or () for connection in _accept_waiting(listener)]
        for server in self.servers:
            server.close()
        for connection in waiting:
            await asyncio.get_running_loop().connect_accepted_socket(self._create_protocol, connection)
        # A client whose connection was accepted may be about to send its request.
        until = asyncio.get_running_loop().time() + _LINGERING
        while asyncio.get_running_loop().time() < until and not self.force_exit:
            if not any(connection.is_waiting_for_head() for connection in self.server_state.connections):
                break
            await asyncio.sleep(_TICK)
        await super().shutdown(sockets)

    def _create_protocol(self) -> asyncio.Protocol:
        return _Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def _accept_waiting(listener: socket.socket) -> list[socket.socket]:
    """Accepts the connections that wait in a socket's queue, without waiting for others."""
    accepted: list[socket.socket] = []
    with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
        while len(accepted) < _BACKLOG:
            connection, _ = listener.accept()
            connection.setblocking(False)
            accepted.append(connection)
    return accepted


class _Protocol(H11Protocol):
    """Uvicorn's connections, with a limit of time for the head of a request: a silent client holds none for ever."""

    _head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()

    def shutdown(self) -> None:
        # Uvicorn would take the rest of a body that is still being sent for lost.
        if self.is_waiting_for_head():
            super().shutdown()
        else:
            self.cycle.keep_alive = False

    def is_waiting_for_head(self) -> bool:
        """Whether the next thing to come is a request."""
        return self.cycle is None or self.cycle.response_complete

    def _watch_head(self) -> None:
        if not self.is_waiting_for_head():
            self._cancel()
        elif self._head_due is None:
            self._head_due = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _cancel(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _give_up(self) -> None:
        self._head_due = None
        if self.is_waiting_for_head() and not self.transport.is_closing():
            self.transport.close()
