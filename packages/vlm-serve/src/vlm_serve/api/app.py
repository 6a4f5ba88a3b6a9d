"""The server as an ASGI application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from vlm_core.markup.printable import printable
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.guard.middleware.stack import guard_middleware
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.api.metrics import Metrics
from vlm_serve.api.request_count import CLIENT_GONE, RequestCount
from vlm_serve.api.routes import chat, completions, models, responses
from vlm_serve.api.server import Server
from vlm_serve.api.stored_responses import ResponseStore
from vlm_serve.engine.request import Engine
from vlm_serve.page import routes as page_routes

OPEN_PATHS = frozenset({"/", "/health"})
"""Paths that need no API key, with the files of the page below `OPEN_FOLDERS`."""
OPEN_FOLDERS = ("/page/",)
_API = [
    Route("/v1/chat/completions", chat.create, methods=["POST"]),
    Route("/v1/completions", completions.create, methods=["POST"]),
    Route("/v1/responses", responses.create, methods=["POST"]),
    Route("/v1/responses/{response}", responses.retrieve, methods=["GET"]),
    Route("/v1/responses/{response}", responses.delete, methods=["DELETE"]),
    Route("/v1/responses/{response}/input_items", responses.input_items, methods=["GET"]),
    Route("/v1/models", models.list_models),
    Route("/v1/models/{model:path}", models.retrieve_model),
    Route("/health", models.health),
    Route("/metrics", models.metrics),
]


def create_app(engine: Engine, settings: ServerSettings) -> Starlette:
    """The API and the page on `engine`, behind the guard; who made the engine closes it.

    Raises `UserError` for a file of keys that can't be used.
    """
    metrics = Metrics(engine.stats)
    count = Middleware(RequestCount, metrics.requests, [route.path for route in _API])
    app = Starlette(
        routes=[*_API, *page_routes()],
        middleware=[count, *guard_middleware(settings, OPEN_PATHS, OPEN_FOLDERS)],
        exception_handlers={
            RequestError: _request_error,
            HTTPException: _http_error,
            ClientDisconnect: _client_gone,
        },
    )
    app.router.redirect_slashes = False
    store = ResponseStore(settings.max_responses, settings.response_bytes, settings.response_age)
    app.state.server = Server(engine, settings, metrics, store)
    return app


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods."""
    assert isinstance(error, HTTPException)
    path = printable(request.url.path, 100)
    if error.status_code == 404 and path.startswith("/page/"):
        text = "The page has no such file."
    elif error.status_code == 404:
        text = f"There is no {path}; the paths of the API begin with /v1/."
    else:
        text = f"{request.method} is not possible for {path}."
    return RequestError(error.status_code, text, headers=error.headers).response()


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)
