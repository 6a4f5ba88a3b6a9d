"""A safetensors file whose tensors are read into memory of their own.

A tensor of the library is the mapped file: a file that is then written in place changes the model, or ends the process
by SIGBUS. Reading costs about half as much time as the file's hash, and no more memory than the map when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vlm_core.errors import UserError

_LENGTH = 8
"""Bytes in front of the header, which say how long it is."""


class WeightFile:
    """Shapes by name, and tensors as they are asked for."""

    def __init__(self, file: BinaryIO, header: safe_open) -> None:
        self._file, self._before = file, _state(file)
        self._start: dict[str, int] = {}
        self._like: dict[str, Tensor] = {}  # mapped, and never looked into
        at = _LENGTH + int.from_bytes(file.read(_LENGTH), "little")
        for name in header.offset_keys():
            self._start[name], self._like[name] = at, header.get_tensor(name)
            at += self._like[name].nbytes
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._like.items()}

    def read(self, name: str) -> Tensor:
        """One tensor; raises `UserError` if the file was changed since it was opened."""
        tensor = torch.empty_like(self._like[name], memory_format=torch.contiguous_format)
        content: Any = tensor.view(-1).view(torch.uint8).numpy()
        view = memoryview(content)
        self._file.seek(self._start[name])
        while view and (count := self._file.readinto(view)):  # pyright: ignore[reportAttributeAccessIssue]
            view = view[count:]
        if view or _state(self._file) != self._before:
            raise UserError(f"{self._file.name}: changed while it was read; start again when it is whole")
        return tensor


def _state(file: BinaryIO) -> tuple[int, int]:
    facts = os.fstat(file.fileno())
    return facts.st_size, facts.st_mtime_ns


@contextmanager
def opened(path: Path) -> Iterator[WeightFile]:
    """The file, open for reading; raises `UserError` naming it where it can't be read."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb", buffering=0))
            content = WeightFile(file, stack.enter_context(safe_open(path, "pt")))  # pyright: ignore[reportArgumentType]
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: not a readable weight file: {error}") from None
        try:
            yield content
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
