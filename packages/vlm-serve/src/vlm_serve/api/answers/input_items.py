"""The list of a response's input items: the conversation that it answered."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from vlm_core.errors import shown
from vlm_serve.api.errors import refused
from vlm_serve.api.schema.input_items import ItemQuery
from vlm_serve.api.stored_responses import StoredItem
from vlm_serve.engine.request import ImageFile, VideoFile


def item_list(items: Sequence[StoredItem], query: ItemQuery) -> dict[str, Any]:
    """A page of items; raises `RequestError` if `query.after` is none of them."""
    ordered, start = list(items), 0
    if query.descending:
        ordered.reverse()
    if query.after is not None:
        ids = [item.id for item in ordered]
        if query.after not in ids:
            raise refused("after", f"this response has no input item {shown(query.after)}")
        start = ids.index(query.after) + 1
    page = ordered[start : start + query.limit]
    return {
        "object": "list",
        "data": [_item(item, query.image_urls) for item in page],
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": start + len(page) < len(ordered),
    }


def _item(item: StoredItem, image_urls: bool) -> dict[str, Any]:
    urls, content = iter(item.urls), list[dict[str, Any]]()
    for part in item.message.parts:
        if not isinstance(part, str):
            url = _url(part, next(urls)) if image_urls else None
            content.append({"type": "input_image", "detail": "auto", "file_id": None, "image_url": url})
        elif item.role == "assistant":
            content.append({"type": "output_text", "text": part, "annotations": []})
        else:
            content.append({"type": "input_text", "text": part})
    return {
        "id": item.id,
        "type": "message",
        "role": item.role,
        "status": item.status,
        "content": content,
    }


def _url(file: ImageFile | VideoFile, url: str) -> str:
    is_data = url[:5].lower() == "data:"
    return url + b64encode(file.data).decode() if is_data else url
