"""A test of the encoder and language model suites: damaged asset files raise `UserError`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vlm_core.errors import UserError


def _damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    """(description, content) of damaged versions of a file: truncated, overwritten, replaced by another."""
    yield "empty", b""
    yield "cut in half", content[: len(content) // 2]
    yield "one byte changed", content[: len(content) // 2] + b"\xff" + content[len(content) // 2 + 1 :]
    yield "an empty object", b"{}"
    yield "nested", b"[" * 100_000
    yield "of numbers alone", b'{"model": 1, "vocab": 2, "mean": 3, "config": 4, "hidden_size": "5"}'


def check(read: Callable[[], object], folder: Path) -> None:
    """For each file in `folder` and each damage, `read` succeeds or raises `UserError`."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for what, damaged in _damages(content):
            file.write_bytes(damaged)
            try:
                read()
            except UserError:
                continue
            except BaseException as error:
                raise AssertionError(
                    f"{file.name} {what}: {type(error).__name__}: {error}; expected a UserError that names the file"
                ) from error
        file.write_bytes(content)
