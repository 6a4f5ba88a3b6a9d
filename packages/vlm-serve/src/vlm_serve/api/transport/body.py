"""Bodies of requests as JSON objects."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from vlm_core.errors import UserError, one_line
from vlm_core.io.strict_json import parse_strict
from vlm_serve.api.guard.errors import RequestError

MAX_VALUES = 500_000
"""Limit of values in a body, about: each takes far more memory in Python than in its text."""
IN_THREAD = 64 * 1024
"""Bytes from which a body is parsed in a thread, so that other requests don't wait."""


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object; raises `RequestError` for anything else, and `ClientDisconnect`."""
    _check_type(request)
    content = await request.body()
    if len(content) < IN_THREAD:
        return _parsed(content)
    return await asyncio.to_thread(_parsed, content)


def _check_type(request: Request) -> None:
    """JSON must be declared: a browser sends other types to foreign servers without asking them first."""
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json":
        raise RequestError(
            415, "The header Content-Type must be application/json.", code="unsupported_media_type"
        )
    charset = parameters.lower().replace('"', "").replace(" ", "")
    if "charset=" in charset and "charset=utf-8" not in charset:
        raise RequestError(415, "The body must be encoded in UTF-8.", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "Compressed bodies are not read.", code="unsupported_media_type")


def _parsed(content: bytes) -> dict[str, Any]:
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise RequestError(413, f"The body has more than about {MAX_VALUES} values.", code="body_too_large")
    try:
        body = parse_strict(content.decode("utf-8"), "body")
    except UnicodeDecodeError as error:
        raise _invalid(f"body: not UTF-8 text (byte {error.start})") from None
    except UserError as error:
        raise _invalid(one_line(error).removesuffix("; is the file cut off?")) from None
    if not isinstance(body, dict):
        raise _invalid("body: expected a JSON object")
    return body


def _invalid(text: str) -> RequestError:
    return RequestError(400, f"{text}.", code="invalid_json")
