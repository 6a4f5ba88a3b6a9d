"""Errors of the interface, in the shape of OpenAI's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import JSONResponse

from vlm_serve.engine.request import Failed

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_STATUS = {"refused": 400, "overloaded": 503, "crashed": 500}


class ApiError(Exception):
    """A request that gets no (further) answer: one sentence for the client, and the place in its body.

    `param` is the place, such as `messages[2].content[1].image_url.url`; the message begins with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def type(self) -> str:
        return _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def refused(place: str, text: str, *, code: str | None = None, status: int = 400) -> ApiError:
    """A fault at a place of the request's body."""
    return ApiError(status, f"{place}: {text}", param=place, code=code)


def of_failure(failed: Failed, places: Iterable[str] = ()) -> ApiError:
    """The error of an engine's last event; `places` are those of images, which its message may begin with."""
    param = next((place for place in places if failed.message.startswith(place)), None)
    status = _STATUS[failed.kind]
    code = {503: "overloaded", 500: "server_error"}.get(status)
    headers = {"Retry-After": "1"} if status == 503 else {}
    return ApiError(status, failed.message, param=param, code=code, headers=headers)
