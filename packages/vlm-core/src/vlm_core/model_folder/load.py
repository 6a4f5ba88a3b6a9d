"""From the files of a model folder to the model: its size is compared with its weight files before memory is taken.

A folder may come from a stranger: whatever its small files describe, nothing is built that its weights could not fill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from vlm_core.errors import UserError, one_line
from vlm_core.model_folder.build_limits import MOST, SLACK, bounded
from vlm_core.model_folder.safetensors_file import Stored, check_fit, header
from vlm_core.model_folder.weights import WEIGHTS, empty_parameters, load_weights, state

M = TypeVar("M", bound=nn.Module)
SMALL = 1 << 24
"""Parameters that any machine holds: what is missing of such a model is told tensor by tensor."""


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
    """`empty_model` with the folder's weights, as `load_part_weights` reads them."""
    model = empty_model(build, folder, parts)
    load_weights(model, folder, parts, dtype, device)
    return model


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Whatever the code of a part, or a library below it, makes of damaged files is a fault of the folder."""
    try:
        yield
    except UserError as error:
        if str(folder) in str(error):
            raise
        raise UserError(f"{folder}: {error.lines[0]}", *error.lines[1:]) from error
    except Exception as error:
        raise UserError(
            f"{folder}: a part cannot be built from its files: {type(error).__name__}: {one_line(error)}; "
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
