"""JSON objects with a checksum of their content, which is verified when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from vlm_core.errors import UserError
from vlm_core.io.files import json_object

KEY = "sha256"


def checksum(content: Mapping[str, Any]) -> str:
    """sha256 of all keys except `KEY`, independent of their order."""
    plain = json.loads(json.dumps({key: value for key, value in content.items() if key != KEY}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its checksum under `KEY`."""
    return {**content, KEY: checksum(content)}


def verified(text: str, where: object, max_values: int | None = None) -> dict[str, Any]:
    """The JSON object made by `with_checksum`, including `KEY`; raises `UserError` if it is missing or wrong.

    `max_values` is as in `json_object`.
    """
    content = json_object(text, f"{where}: damaged", max_values)
    if KEY not in content:
        raise UserError(
            f"{where}: damaged, or of an earlier version: it has no checksum of its content ({KEY!r})"
        )
    if content[KEY] != checksum(content):
        raise UserError(f"{where}: damaged: its content differs from its checksum")
    return content
