"""Writing what a command was asked for."""

from __future__ import annotations

from pathlib import Path

from vlm_core.errors import UserError


def write(path: Path, content: str | bytes) -> None:
    """Replace the file at once, so that no moment leaves half of it; folders are made."""
    draft = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        draft.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot write this file: {error.strerror}") from None
