"""What the header of a weight file says, held against a model before any tensor is read.

A file may come from a stranger, and hashes beside it are the stranger's, too: names, shapes and number formats decide.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.faults import listed
from vlm_core.files import open_regular
from vlm_core.printable import printable

MAX_HEADER = 16 * 2**20
"""Bytes of a header; that of 40 000 tensors takes 5 MB."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What plain weights are stored as. Smaller formats mean nothing without the scales of their quantiser."""
log = logging.getLogger(__name__)
_NAMES = {
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
    "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64, "U8": torch.uint8,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


class Stored(NamedTuple):
    """A tensor in a file: its shape, and the name that safetensors has for its number format, if it is known yet."""

    shape: tuple[int, ...]
    dtype: str | None = None

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


@contextmanager
def opened(file: Path) -> Iterator[safe_open]:
    """A safetensors file, its header looked at; raises `UserError` for what is none."""
    check_header_size(file)
    try:
        with safe_open(file, "pt") as stored:
            yield stored
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: not a readable weight file: {printable(error, 200)}") from None


def check_header_size(file: Path) -> None:
    """Raise `UserError` for a header that would take minutes and gigabytes to read."""
    with open_regular(file) as stream:
        head = stream.read(8)
    size = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if MAX_HEADER < size <= file.stat().st_size:
        raise UserError(
            f"{file}: not a readable weight file: a header of {size} bytes; at most {MAX_HEADER} are read"
        )


def contents(stored: safe_open) -> dict[str, Stored]:
    """Every tensor of an opened file, by name."""
    slices = {name: stored.get_slice(name) for name in list(stored.keys())}
    return {name: Stored(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}


def header(file: Path) -> dict[str, Stored]:
    """Every tensor of a file, by name; raises `UserError` as `opened`."""
    with opened(file) as stored:
        return contents(stored)


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
        raise UserError(
            f"{file}: does not fit the model of this spec: {listed('of another kind of number', odd)}"
        )


def check_kind(own: Tensor, tensor: Tensor, name: str, file: Path) -> None:
    """As `check_fit`, of one tensor that has been read already."""
    if not _holds(tensor.dtype, own.dtype):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(
            f"{file}: does not fit the model of this spec: {name} is of another kind of number: {kind}"
        )


def _holds(stored: torch.dtype | None, own: torch.dtype) -> bool:
    """Whether numbers of one format can be another's: floats are converted, all else is as it is."""
    return stored == own or (stored in FLOATS and own in FLOATS)


def format_of(tensor: Tensor) -> str:
    """What safetensors calls the number format of a tensor."""
    names = {dtype: name for name, dtype in _NAMES.items()}
    return names.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))


def warn_not_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Log one warning that names and counts what holds NaN or infinity: a model of it answers nonsense."""
    poisoned = {name: tensor for name, tensor in tensors.items() if not _finite(tensor)}
    if poisoned:
        counts = [
            f"{name}: {int((~t.isfinite()).sum())} of {t.numel()} numbers" for name, t in poisoned.items()
        ]
        log.warning(
            "%s: %s; what the model answers means nothing", where, listed("with NaN or infinity", counts)
        )


def _finite(tensor: Tensor) -> bool:
    """One pass without a copy: NaN and infinity reach the extremes. Numbers that have none are finite."""
    if tensor.is_meta or tensor.dtype not in FLOATS or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.detach())
    return bool(low.isfinite() & high.isfinite())


def _few(names: list[str]) -> list[str]:
    return [printable(name, 80) for name in names[:3]]
