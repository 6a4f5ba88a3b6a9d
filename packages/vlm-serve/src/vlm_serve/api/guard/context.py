"""What the guard knows of a request, for the code behind it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

_OWNER, _ID = "vlm_serve.owner", "vlm_serve.request_id"


def request_id(scope: Mapping[str, Any]) -> str:
    """The id of a request in the log and in the header `x-request-id`."""
    return scope.get(_ID, "")


def owner(scope: Mapping[str, Any]) -> str:
    """The name of the request's API key; empty where no key is asked for. `GenerationRequest.owner` is this."""
    return scope.get(_OWNER, "")


def set_request_id(scope: MutableMapping[str, Any], value: str) -> None:
    scope[_ID] = value


def set_owner(scope: MutableMapping[str, Any], name: str) -> None:
    scope[_OWNER] = name
