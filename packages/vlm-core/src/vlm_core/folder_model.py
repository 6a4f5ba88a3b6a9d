"""From the files of a model folder to the model: its size is compared with its weight files before memory is taken.

A folder may come from a stranger: whatever its small files describe, nothing is built that its weights could not fill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from vlm_core.errors import UserError
from vlm_core.faults import shape_of
from vlm_core.printable import printable
from vlm_core.weight_files import Stored, check_fit, header
from vlm_core.weights import WEIGHTS, attach_parts, empty_parameters, state

M = TypeVar("M", bound=nn.Module)
SLACK = 2048
"""Parameters and buffers that a folder's code may make and drop again: blocks behind the wanted layer, heads."""
MOST = 1 << 16
"""Tensors of any model."""
SMALL = 1 << 24
"""Parameters that any machine holds: what is missing of such a model is told tensor by tensor."""
LARGEST = 1 << 27
"""Numbers in one tensor that no file holds, and in all buffers together."""


def empty_model(build: Callable[[], M], folder: Path, parts: Sequence[str]) -> M:
    """The model that `build` makes of a folder's small files, its parameters on the meta device, its buffers real.

    It is built twice, first without any memory, and compared with the headers of the folder's weight files; a part
    that has none is only kept within bounds. Raises `UserError` for what doesn't fit, and for whatever a part's code
    stumbles over while it reads its files.
    """
    files = {part: folder / part / WEIGHTS for part in parts}
    stored = {part: header(file) for part, file in files.items() if file.exists()}
    with _told(folder):
        with torch.device("meta"), bounded(stored.values()):
            plan = build()
        for part, tensors in stored.items():
            check_fit(state(getattr(plan, part)), tensors, files[part])
        with empty_parameters():
            return build()


def load_model(
    build: Callable[[], M],
    folder: Path,
    parts: Sequence[str],
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> M:
    """`empty_model` with the folder's weights, as `attach_part` reads them."""
    model = empty_model(build, folder, parts)
    attach_parts(model, folder, parts, dtype, device)
    return model


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Whatever the code of a part, or a library below it, makes of damaged files is a fault of the folder."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{folder}: {error}" if str(folder) not in str(error) else str(error)) from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise UserError(
            f"{folder}: a part cannot be built from its files: {type(error).__name__}: {printable(reason, 300)}; "
            "restore the folder from a copy"
        ) from error


def check_plan(
    build: Callable[[], nn.Module], files: Sequence[Path], where: object, per_byte: int = 2
) -> None:
    """Raise `UserError` if `build` makes far more numbers than these weight files can hold, `per_byte` of them a byte.

    For published weights, whose architecture comes from a small file beside them. `build` runs on the meta device.
    """
    stored = _headers(files)
    with torch.device("meta"), bounded(stored, SLACK if stored else MOST // 8):
        count = sum(parameter.numel() for parameter in build().parameters())
    check_size(count, files, where, per_byte)


def check_size(count: int, files: Sequence[Path], where: object, per_byte: int = 2) -> None:
    """Raise `UserError` for a model of so many parameters that these weight files could not hold half of it."""
    held = sum(file.stat().st_size for file in files)
    if count > per_byte * held + SMALL:
        raise UserError(
            f"{where}: describes a model of {count} parameters, but its weight files have {held} bytes"
        )


def _headers(files: Sequence[Path]) -> list[dict[str, Stored]]:
    """Of the files that have one; a damaged file is told where its tensors are read."""
    found = []
    for file in files:
        with suppress(UserError):
            found += [header(file)] if file.suffix == ".safetensors" else []
    return found


class _Bounds:
    """Counts what modules register, and refuses what no weight file explains."""

    def __init__(self, stored: Iterable[Mapping[str, Stored]], slack: int) -> None:
        held = [tensor for tensors in stored for tensor in tensors.values()]
        self.tensors = min(slack + 4 * len(held), MOST)
        self.largest = max([LARGEST, *(tensor.numel for tensor in held)])
        self.buffers = LARGEST

    def count(self, name: str, tensor: Tensor | None, *, derived: bool) -> None:
        """`derived` are buffers that no file holds: they take memory whatever the files say."""
        if tensor is None:
            return
        self.tensors -= 1
        self.buffers -= tensor.numel() if derived else 0
        if self.tensors < 0:
            raise UserError("the small files describe a model of far more layers than the weight files hold")
        if tensor.numel() > self.largest or self.buffers < 0:
            shape = shape_of(tensor.shape)
            raise UserError(
                f"the small files describe a far larger model than the weight files: {name} of {shape}"
            )


@contextmanager
def bounded(stored: Iterable[Mapping[str, Stored]], slack: int = SLACK) -> Iterator[None]:
    """Refuse modules made inside that have far more tensors, or far larger ones, than files with these contents.

    For the meta device, where a tensor takes time and no memory.
    """
    bounds = _Bounds(stored, slack)
    register = nn.Module.register_parameter, nn.Module.register_buffer

    def parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        bounds.count(name, param, derived=False)
        register[0](self, name, param)

    def buffer(self: nn.Module, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        bounds.count(name, tensor, derived=not persistent)
        register[1](self, name, tensor, persistent)

    nn.Module.register_parameter, nn.Module.register_buffer = parameter, buffer
    try:
        yield
    finally:
        nn.Module.register_parameter, nn.Module.register_buffer = register
