"""The check of API keys: every path but the open ones needs a valid key."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from vlm_serve.api.guard.context import set_owner
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.guard.keys import KeyRing


class Authentication:
    """Lets requests with a key in `Authorization: Bearer` pass, and names their owner; others get a 401."""

    def __init__(
        self, app: ASGIApp, keys: KeyRing, open_paths: frozenset[str], open_folders: tuple[str, ...]
    ) -> None:
        self._app, self._keys, self._paths, self._folders = app, keys, open_paths, open_folders

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_open(scope["path"]):
            return await self._app(scope, receive, send)
        kind, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        name = self._keys.name_of(key.strip()) if kind.lower() == "bearer" else None
        if name is None:
            return await _refusal(bool(kind)).response()(scope, receive, send)
        set_owner(scope, name)
        await self._app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self._paths or path.startswith(self._folders)


def _refusal(sent: bool) -> RequestError:
    if sent:
        text = "The API key is not valid."
    else:
        text = "This server needs an API key: send the header `Authorization: Bearer KEY`."
    return RequestError(401, text, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
