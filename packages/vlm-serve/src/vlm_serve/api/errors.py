"""Errors of bodies and of engines, as what a client gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from vlm_serve.api.guard.errors import RequestError
from vlm_serve.engine.request import Failed

_STATUS = {"refused": 400, "overloaded": 503, "crashed": 500}


def refused(place: str, text: str, *, code: str = "invalid_value", status: int = 400) -> RequestError:
    """A fault at a place of the body, such as `messages[2].content[1].image_url.url`."""
    return RequestError(status, f"{place}: {text}.", param=place, code=code)


def failure(
    failed: Failed, places: Iterable[str] = (), fields: Mapping[str, str] = MappingProxyType({})
) -> RequestError:
    """The error of an engine's last event.

    `places` are those of images, which its message may begin with; `fields` those of its subjects in the body.
    """
    message = failed.message if failed.message.endswith(".") else f"{failed.message}."
    param = next((place for place in places if message.startswith(place)), None)
    if failed.subject is not None:
        param = fields.get(failed.subject, failed.subject)
        message = f"{param}: {message}"
    elif param is None:
        message = f"{message[0].upper()}{message[1:]}"
    code = {"overloaded": "overloaded", "crashed": "server_error"}.get(failed.kind, failed.code)
    headers = {"Retry-After": "1"} if failed.kind == "overloaded" else {}
    return RequestError(_STATUS[failed.kind], message, param=param, code=code, headers=headers)
