"""The routes of the server and what its OpenAPI document says of them."""

import contextlib
import functools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import MutableHeaders, State
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import keras_resnet
from keras_resnet.server import api_text
from keras_resnet.server.bodies import Keys, Refused, json_response
from keras_resnet.server.metrics import CONTENT_TYPE, Metrics
from keras_resnet.server.repository import Model, NotServed, Repository
from keras_resnet.server.service import Service
from keras_resnet.server.settings import ServerSettings
from keras_resnet.server.signatures import metadata
from keras_resnet.server.start_page import api_page, start_page

_PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
_VERBS = ("predict", "classify", "explain")


class _ModelName(Convertor[str]):
    """A path segment without ":", behind which a verb begins."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("model", _ModelName())
_MODEL = "/v1/models/{name:model}"
_VERSION = _MODEL + "/versions/{version:model}"


def create_app(models: list[Model], settings: ServerSettings) -> FastAPI:
    """Makes the server's ASGI application.

    Args:
        models: From `open_models`.
        settings: Its settings.

    Returns:
        The application; `app.state.service` is what answers, while the application runs.
    """
    metrics, keys = Metrics(), Keys(settings.api_keys)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        repository = Repository(models, settings, metrics.batch)
        await repository.start()
        app.state.service = Service(repository, settings, metrics)
        try:
            yield
        finally:
            app.state.service.is_stopping = True
            await repository.close()
            app.state.service.close()

    app = FastAPI(
        title="keras-resnet server",
        version=keras_resnet.__version__,
        description=api_text.ABOUT,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
    )
    app.openapi = functools.partial(_openapi, app, has_keys=bool(keys))
    _handle_errors(app)
    _add_routes(app, keys)
    app.add_middleware(_Headers, state=app.state)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type"],
        )
    return app


def _add_routes(app: FastAPI, keys: Keys) -> None:
    async def admitted(request: Request) -> None:
        if not keys.admit(request):
            raise Refused(
                401, "This server needs an API key: Authorization: Bearer KEY.", {"WWW-Authenticate": "Bearer"}
            )

    def route(method: str, path: str, text: dict[str, Any], *, is_open: bool = False) -> Callable:
        return app.api_route(
            path,
            methods=[method],
            response_class=Response,
            dependencies=[] if is_open else [Depends(admitted)],
            openapi_extra=text,
        )

    @route("GET", "/healthz", api_text.health("The process lives."), is_open=True)
    async def healthz() -> Response:
        return json_response({"status": "alive"})

    @route("GET", "/readyz", api_text.health("Every model answers.", may_be_unready=True), is_open=True)
    async def readyz(request: Request) -> Response:
        service = _service(request)
        if service.is_stopping or not service.repository.is_ready():
            raise Refused(503, "The server is stopping." if service.is_stopping else "A model is not loaded.")
        return json_response({"status": "ready"})

    @route("GET", "/metrics", api_text.numbers())
    async def metrics(request: Request) -> Response:
        return Response(_service(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    @route("GET", "/", api_text.page("What is served."), is_open=True)
    async def start(request: Request) -> Response:
        models = _service(request).repository.models.values() if keys.admit(request) else None
        return HTMLResponse(start_page(models), headers=_PAGE_HEADERS)

    @route("GET", "/docs", api_text.page("This API as a page."), is_open=True)
    async def docs() -> Response:
        return HTMLResponse(api_page(app.openapi()), headers=_PAGE_HEADERS)

    for path, has_version in ((_MODEL, False), (_VERSION, True)):
        route("GET", path, api_text.status(has_version))(_status)
        route("GET", f"{path}/metadata", api_text.metadata(has_version))(_metadata)
        for verb in _VERBS:
            route("POST", f"{path}:{verb}", api_text.verb(verb, has_version))(_asking(verb))


def _service(request: Request) -> Service:
    return request.app.state.service


def _version(request: Request) -> int | None:
    """The version that a URL names; None where it names none."""
    text = request.path_params.get("version")
    if text is not None and not re.fullmatch("[0-9]{1,18}", text):
        raise Refused(404, f"A version is a whole number, got {text[:80]!r}.")
    return None if text is None else int(text)


async def _status(request: Request) -> Response:
    try:
        return json_response(_service(request).repository.status(request.path_params["name"], _version(request)))
    except NotServed as error:
        raise Refused(404, str(error)) from None


async def _metadata(request: Request) -> Response:
    try:
        with _service(request).repository.use(request.path_params["name"], _version(request)) as servable:
            return json_response(metadata(servable.name, servable.version, servable.backend))
    except NotServed as error:
        raise Refused(404, str(error)) from None


def _asking(verb: str) -> Callable[[Request], Awaitable[Response]]:
    async def ask(request: Request) -> Response:
        return await getattr(_service(request), verb)(request, request.path_params["name"], _version(request))

    return ask


def _handle_errors(app: FastAPI) -> None:
    """Every error is answered in JSON, {"error": a sentence}."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        sentences = {
            404: f"There is nothing at {request.url.path[:200]}. See /docs.",
            405: f"{request.method[:20]} is not allowed at {request.url.path[:200]}. See /docs.",
        }
        return Refused(error.status_code, sentences.get(error.status_code, str(error.detail)), error.headers).response()

    @app.exception_handler(Exception)
    async def ours(request: Request, error: Exception) -> Response:
        return Refused(500, "The server made a mistake. Its log says more.").response()


class _Headers:
    """Adds the headers that every answer carries.

    Args:
        app: The ASGI application inside.
        state: Its state; `service`, once it runs.
    """

    def __init__(self, app: ASGIApp, state: State):
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
                service = getattr(self._state, "service", None)
                if service is not None and service.is_stopping:
                    headers["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def _openapi(app: FastAPI, *, has_keys: bool) -> dict[str, Any]:
    if app.openapi_schema is None:
        text = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        app.openapi_schema = api_text.completed(text, has_keys=has_keys)
    return app.openapi_schema
