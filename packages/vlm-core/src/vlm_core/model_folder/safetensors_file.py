"""A safetensors file: what its header says is held against a model, then tensors are read into memory of their own.

A file may come from a stranger, and hashes beside it are the stranger's, too: names, shapes and number formats decide.
A tensor of the library is the mapped file: a file that is then written in place changes the model, or ends the process
by SIGBUS. Reading costs about half as much time as the file's hash, and no more memory than the map when it is used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.io.files import open_regular
from vlm_core.markup.printable import printable
from vlm_core.model_folder.checkpoint_errors import listed

MAX_HEADER = 16 * 2**20
"""Bytes of a header; that of 40 000 tensors takes 5 MB."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What plain weights are stored as. Smaller formats mean nothing without the scales of their quantiser."""
log = logging.getLogger(__name__)
_LENGTH = 8
"""Bytes in front of the header, which say how long it is."""
_NAMES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class Stored(NamedTuple):
    """A tensor in a file: its shape, and the name that safetensors has for its number format, if it is known yet."""

    shape: tuple[int, ...]
    dtype: str | None = None

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


class WeightFile:
    """An open file: what it holds by name, in the order in which it holds it, and tensors as they are asked for."""

    def __init__(self, file: BinaryIO, content: safe_open) -> None:
        self._file, self._before = file, _size_and_time(file)
        parts = {name: content.get_slice(name) for name in content.offset_keys()}
        self.tensors = {name: Stored(tuple(p.get_shape()), p.get_dtype()) for name, p in parts.items()}
        self.metadata: dict[str, str] = content.metadata() or {}
        self.poisoned: list[str] = []

    @cached_property
    def _starts(self) -> dict[str, int]:
        """Where each tensor begins, if every format is known; safetensors itself has checked that there are no gaps."""
        self._file.seek(0)
        first = _LENGTH + int.from_bytes(self._file.read(_LENGTH), "little")
        sizes = (tensor.numel * _NAMES[str(tensor.dtype)].itemsize for tensor in self.tensors.values())
        return dict(zip(self.tensors, accumulate(sizes, initial=first), strict=False))

    def read(self, name: str) -> Tensor:
        """One tensor of a file that fits: see `check_fit`; `UserError` if the file was changed since it was opened."""
        stored = self.tensors[name]
        tensor = torch.empty(stored.shape, dtype=_NAMES[str(stored.dtype)])
        content: Any = tensor.view(-1).view(torch.uint8).numpy()
        view = memoryview(content)
        self._file.seek(self._starts[name])
        while view and (count := self._file.readinto(view)):  # pyright: ignore[reportAttributeAccessIssue]
            view = view[count:]
        if view or _size_and_time(self._file) != self._before:
            raise _changed(self._file.name)
        self.poisoned += _not_finite({name: tensor})
        return tensor


def _changed(path: str | Path) -> UserError:
    return UserError(f"{path}: changed while it was read; start again when it is whole")


def _size_and_time(file: BinaryIO) -> tuple[int, int]:
    facts = os.fstat(file.fileno())
    return facts.st_size, facts.st_mtime_ns


@contextmanager
def opened(path: Path) -> Iterator[WeightFile]:
    """The file, its header looked at; raises `UserError` for what is none.

    At the end, one warning tells which of the tensors that were read hold NaN or infinity.
    """
    with open_regular(path) as file:
        _check_header_size(file, path)
        try:
            with safe_open(path, "pt") as content:
                found = WeightFile(file, content)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: not a readable weight file: {printable(error, 200)}") from None
        if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            raise _changed(path)
        yield found
        _warn(found.poisoned, path)


def check_header_size(path: Path) -> None:
    """Raise `UserError` for a header that would take minutes and gigabytes to read."""
    with open_regular(path) as file:
        _check_header_size(file, path)


def _check_header_size(file: BinaryIO, path: Path) -> None:
    size = int.from_bytes(file.read(_LENGTH), "little")
    if MAX_HEADER < size <= os.fstat(file.fileno()).st_size:
        raise UserError(
            f"{path}: not a readable weight file: a header of {size} bytes; at most {MAX_HEADER} are read"
        )


def header(file: Path) -> dict[str, Stored]:
    """Every tensor of a file, by name; raises `UserError` as `opened`."""
    with opened(file) as stored:
        return stored.tensors


def check_fit(own: Mapping[str, Tensor], stored: Mapping[str, Stored], file: Path) -> None:
    """Raise `UserError` unless a file has every tensor of a model, in its shape and kind of number, and no other.

    Tied tensors are stored once. Missing, unexpected and misshapen ones are told apart.
    """
    if unexpected := sorted(set(stored) - set(own)):
        raise UserError(f"{file}: does not fit the model of this spec: unexpected {_few(unexpected)}")
    wrong = [
        f"{k} {s.shape} for {tuple(own[k].shape)}"
        for k, s in stored.items()
        if s.shape != tuple(own[k].shape)
    ]
    if wrong:
        raise UserError(
            f"{file}: does not fit the model of this spec: wrong shape: {', '.join(sorted(wrong)[:3])}"
        )
    there = {id(own[k]) for k in stored}
    missing = [k for k, tensor in own.items() if id(tensor) not in there]
    if missing:
        raise UserError(f"{file}: {len(missing)} weights are missing, such as {missing[:3]}")
    odd = [
        f"{k}: {s.dtype}"
        for k, s in stored.items()
        if s.dtype and not _holds(_NAMES.get(s.dtype), own[k].dtype)
    ]
    if odd:
        raise UserError(f"{file}: does not fit the model of this spec: {listed('of another dtype', odd)}")


def check_kind(own: Tensor, tensor: Tensor, name: str, file: Path) -> None:
    """As `check_fit`, of one tensor that has been read already."""
    if not _holds(tensor.dtype, own.dtype):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(f"{file}: does not fit the model of this spec: {name} is of another dtype: {kind}")


def _holds(stored: torch.dtype | None, own: torch.dtype) -> bool:
    """Whether numbers of one format can be another's: floats are converted, all else is as it is."""
    return stored == own or (stored in FLOATS and own in FLOATS)


def format_of(tensor: Tensor) -> str:
    """What safetensors calls the number format of a tensor."""
    names = {dtype: name for name, dtype in _NAMES.items()}
    return names.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))


def warn_not_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Log one warning that names and counts what holds NaN or infinity: a model of it answers nonsense."""
    _warn(_not_finite(tensors), where)


def _warn(poisoned: list[str], where: object) -> None:
    if poisoned:
        log.warning(
            "%s: %s; what the model answers means nothing", where, listed("with NaN or infinity", poisoned)
        )


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    poisoned = {name: tensor for name, tensor in tensors.items() if not _finite(tensor)}
    return [f"{name}: {int((~t.isfinite()).sum())} of {t.numel()} numbers" for name, t in poisoned.items()]


def _finite(tensor: Tensor) -> bool:
    """One pass without a copy: NaN and infinity reach the extremes. Numbers that have none are finite."""
    if tensor.is_meta or tensor.dtype not in FLOATS or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.detach())
    return bool(low.isfinite() & high.isfinite())


def _few(names: list[str]) -> list[str]:
    return [printable(name, 80) for name in names[:3]]
