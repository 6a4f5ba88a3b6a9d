"""The query of `/v1/responses/{id}/input_items`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from vlm_core.errors import shown
from vlm_serve.api.errors import refused

IMAGE_URLS = "message.input_image.image_url"
_INCLUDE = ("include", "include[]")


class ItemQuery(NamedTuple):
    """A page of items: at most `limit`, those after the item with the id `after`."""

    limit: int = 20
    descending: bool = True
    after: str | None = None
    image_urls: bool = False


def item_query(pairs: Sequence[tuple[str, str]]) -> ItemQuery:
    """The parameters of a URL; raises `RequestError` that names a wrong one."""
    query, seen = ItemQuery(), set[str]()
    for name, value in pairs:
        if name in seen and name not in _INCLUDE:
            raise refused(name, "expected once")
        seen.add(name)
        if name == "limit":
            query = query._replace(limit=_limit(value))
        elif name == "order":
            query = query._replace(descending=_one_of("order", value, ("asc", "desc")) == "desc")
        elif name == "after":
            query = query._replace(after=value)
        elif name in _INCLUDE:
            _one_of("include", value, (IMAGE_URLS,))
            query = query._replace(image_urls=True)
        else:
            raise refused(name[:80], "this parameter is not supported", code="unsupported_parameter")
    return query


def _limit(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII) or not 1 <= int(value) <= 100:
        raise refused("limit", f"expected a whole number, 1 to 100, got {shown(value)}")
    return int(value)


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise refused(name, f"expected {' or '.join(map(repr, allowed))}, got {shown(value)}")
    return value
