"""The server as an ASGI application."""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from vlm_serve.api.guard.context import request_id
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.api.metrics import Metrics
from vlm_serve.api.routes import chat
from vlm_serve.api.server import Server
from vlm_serve.engine.request import Engine

_log = logging.getLogger(__name__)
CLIENT_GONE = 499
"""Status in metrics and logs of a request whose client went away; nobody reads it."""


def create_app(engine: Engine, settings: ServerSettings) -> Starlette:
    """The application that answers requests with `engine`; who made the engine closes it."""
    app = Starlette(
        routes=[Route("/v1/chat/completions", chat.create, methods=["POST"])],
        exception_handlers={
            RequestError: _request_error,
            HTTPException: _http_error,
            ClientDisconnect: _client_gone,
            Exception: _bug,
        },
    )
    app.state.server = Server(engine, settings, Metrics(engine.stats))
    return app


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods."""
    assert isinstance(error, HTTPException)
    texts = {
        404: f"There is no {request.url.path[:100]!r}; the API begins with /v1/.",
        405: f"{request.method} is not possible for {request.url.path[:100]!r}.",
    }
    text = texts.get(error.status_code, str(error.detail))
    return RequestError(error.status_code, text, headers=error.headers).response()


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _bug(request: Request, error: Exception) -> Response:
    """The exception itself is logged by Starlette's caller; a client learns the id that finds it."""
    return RequestError(
        500, f"An error in the server; its log has it as request {request_id(request.scope)!r}."
    ).response()
