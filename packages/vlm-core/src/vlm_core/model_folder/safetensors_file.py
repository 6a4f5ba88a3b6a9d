"""A safetensors file: its header is checked against a model, then tensors are read into memory.

A file may be untrusted, and so are hashes beside it: names, shapes and dtypes are checked. The safetensors library maps
files: one that is then written in place changes the model, or ends the process by SIGBUS. Reading takes about half the
time of hashing the file, and as much memory as the map in use.
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
"""Dtypes of weights. Smaller formats need the scales of their quantiser."""
log = logging.getLogger(__name__)
_LENGTH = 8
"""Bytes of the header's length, at the start of the file."""
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
    """A tensor in a file: its shape, and safetensors' name of its dtype, or None if not known yet."""

    shape: tuple[int, ...]
    dtype: str | None = None

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


class WeightFile:
    """An open file: `tensors` by name, in the file's order; `read` returns one of them."""

    def __init__(self, file: BinaryIO, content: safe_open) -> None:
        self._file, self._before = file, _size_and_time(file)
        parts = {name: content.get_slice(name) for name in content.offset_keys()}
        self.tensors = {name: Stored(tuple(p.get_shape()), p.get_dtype()) for name, p in parts.items()}
        self.metadata: dict[str, str] = content.metadata() or {}
        self.not_finite: list[str] = []

    @cached_property
    def _starts(self) -> dict[str, int]:
        """Offset of each tensor; every dtype must be known. safetensors has checked that there are no gaps."""
        self._file.seek(0)
        first = _LENGTH + int.from_bytes(self._file.read(_LENGTH), "little")
        sizes = (tensor.numel * _NAMES[str(tensor.dtype)].itemsize for tensor in self.tensors.values())
        return dict(zip(self.tensors, accumulate(sizes, initial=first), strict=False))

    def outline(self, name: str) -> Tensor:
        """The tensor's shape and dtype, on the meta device; raises `UserError` for an unknown dtype."""
        shape, dtype = self.tensors[name]
        if dtype not in _NAMES:
            raise UserError(
                f"{self._file.name}: {printable(name, 80)!r} is of type {dtype}, which is not supported"
            )
        return torch.empty(shape, dtype=_NAMES[dtype], device="meta")

    def read(self, name: str) -> Tensor:
        """One tensor of a file that passes `check_fit`; raises `UserError` if the file was changed after opening."""
        stored = self.tensors[name]
        tensor = torch.empty(stored.shape, dtype=_NAMES[str(stored.dtype)])
        content: Any = tensor.view(-1).view(torch.uint8).numpy()
        view = memoryview(content)
        self._file.seek(self._starts[name])
        while view and (count := self._file.readinto(view)):  # pyright: ignore[reportAttributeAccessIssue]
            view = view[count:]
        if view or _size_and_time(self._file) != self._before:
            raise _changed(self._file.name)
        self.not_finite += _not_finite({name: tensor})
        return tensor


def _changed(path: str | Path) -> UserError:
    return UserError(f"{path}: changed while it was read; start again when it is whole")


def _size_and_time(file: BinaryIO) -> tuple[int, int]:
    info = os.fstat(file.fileno())
    return info.st_size, info.st_mtime_ns


@contextmanager
def opened(path: Path, kind: str = "weight file") -> Iterator[WeightFile]:
    """Context with an open file whose header is valid; raises `UserError` for any other, which is no readable `kind`.

    On exit, one warning lists the tensors read that have NaN or infinity.
    """
    with open_regular(path) as file:
        _check_header_size(file, path, kind)
        try:
            with safe_open(path, "pt") as content:
                weights = WeightFile(file, content)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: not a readable {kind}: {printable(error, 200)}") from None
        if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            raise _changed(path)
        yield weights
        _warn(weights.not_finite, path)


def check_header_size(path: Path) -> None:
    """Raise `UserError` for a header above `MAX_HEADER`, which would take minutes and gigabytes to read."""
    with open_regular(path) as file:
        _check_header_size(file, path)


def _check_header_size(file: BinaryIO, path: Path, kind: str = "weight file") -> None:
    size = int.from_bytes(file.read(_LENGTH), "little")
    if MAX_HEADER < size <= os.fstat(file.fileno()).st_size:
        raise UserError(
            f"{path}: not a readable {kind}: a header of {size} bytes; at most {MAX_HEADER} are read"
        )


def header(file: Path) -> dict[str, Stored]:
    """Every tensor of a file, by name; raises `UserError` as `opened`."""
    with opened(file) as stored:
        return stored.tensors


def check_fit(params: Mapping[str, Tensor], stored: Mapping[str, Stored], file: Path) -> None:
    """Raise `UserError` unless a file has exactly the tensors of a model, in their shapes and convertible dtypes.

    Tied tensors are stored once. Missing, unexpected and misshapen tensors have different messages.
    """
    if unexpected := sorted(set(stored) - set(params)):
        raise UserError(f"{file}: does not fit the model of this spec: unexpected {_few(unexpected)}")
    misshapen = [
        f"{k} {s.shape} for {tuple(params[k].shape)}"
        for k, s in stored.items()
        if s.shape != tuple(params[k].shape)
    ]
    if misshapen:
        raise UserError(
            f"{file}: does not fit the model of this spec: wrong shape: {', '.join(sorted(misshapen)[:3])}"
        )
    stored_ids = {id(params[k]) for k in stored}
    missing = [k for k, tensor in params.items() if id(tensor) not in stored_ids]
    if missing:
        raise UserError(f"{file}: {len(missing)} weights are missing, such as {missing[:3]}")
    other_dtypes = [
        f"{k}: {s.dtype}"
        for k, s in stored.items()
        if s.dtype and not _convertible(_NAMES.get(s.dtype), params[k].dtype)
    ]
    if other_dtypes:
        raise UserError(
            f"{file}: does not fit the model of this spec: {listed('of another dtype', other_dtypes)}"
        )


def check_kind(expected: Tensor, tensor: Tensor, name: str, file: Path) -> None:
    """`check_fit` for the dtype of one tensor that has been read already."""
    if not _convertible(tensor.dtype, expected.dtype):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(f"{file}: does not fit the model of this spec: {name} is of another dtype: {kind}")


def _convertible(stored: torch.dtype | None, expected: torch.dtype) -> bool:
    """Whether a stored dtype can be loaded: floats are converted, any other must be equal."""
    return stored == expected or (stored in FLOATS and expected in FLOATS)


def format_of(tensor: Tensor) -> str:
    """safetensors' name of a tensor's dtype."""
    names = {dtype: name for name, dtype in _NAMES.items()}
    return names.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))


def warn_not_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Log one warning that counts and names tensors with NaN or infinity."""
    _warn(_not_finite(tensors), where)


def _warn(not_finite: list[str], where: object) -> None:
    if not_finite:
        log.warning(
            "%s: %s; answers of the model are meaningless", where, listed("with NaN or infinity", not_finite)
        )


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    not_finite = {name: tensor for name, tensor in tensors.items() if not _finite(tensor)}
    return [f"{name}: {int((~t.isfinite()).sum())} of {t.numel()} numbers" for name, t in not_finite.items()]


def _finite(tensor: Tensor) -> bool:
    """One pass without a copy: NaN and infinity propagate to the extremes. Other dtypes are finite."""
    if tensor.is_meta or tensor.dtype not in FLOATS or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.detach())
    return bool(low.isfinite() & high.isfinite())


def _few(names: list[str]) -> list[str]:
    return [printable(name, 80) for name in names[:3]]
