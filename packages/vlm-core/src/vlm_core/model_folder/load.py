"""Builds the model of a folder; its size is compared with the weight files before memory is allocated.

A folder is untrusted: its small files may describe a model that its weight files can't fill, which is a `UserError`.
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
"""Parameters of a model small enough for any machine: its missing tensors are reported by name."""


def empty_model(build: Callable[[], M], folder: Path, parts: Sequence[str]) -> M:
    """The model that `build` makes from a folder's small files, with parameters on the meta device and real buffers.

    It is first built entirely on the meta device and compared with the headers of the weight files; a part without
    weight file is only limited in size. Raises `UserError` if they don't fit, and for any error of `build`.
    """
    files = {part: folder / part / WEIGHTS for part in parts}
    stored = {part: header(file) for part, file in files.items() if file.exists()}
    with _folder_errors(folder):
        with torch.device("meta"), bounded(stored.values()):
            meta_model = build()
        for part, tensors in stored.items():
            check_fit(state(getattr(meta_model, part)), tensors, files[part])
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
def _folder_errors(folder: Path) -> Iterator[None]:
    """Turn any exception inside into a `UserError` naming the folder; damaged files cause exceptions of any type."""
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
    """Raise `UserError` if `build` makes far more parameters than these weight files contain, at `per_byte` per byte.

    For published weights, whose architecture is in a small file beside them. `build` runs on the meta device.
    """
    stored = _headers(files)
    with torch.device("meta"), bounded(stored, SLACK if stored else MOST // 8):
        count = sum(parameter.numel() for parameter in build().parameters())
    check_size(count, files, where, per_byte)


def check_size(count: int, files: Sequence[Path], where: object, per_byte: int = 2) -> None:
    """Raise `UserError` for a model of `count` parameters, of which these weight files can't contain half."""
    file_bytes = sum(file.stat().st_size for file in files)
    if count > per_byte * file_bytes + SMALL:
        raise UserError(
            f"{where}: describes a model of {count} parameters, but its weight files have {file_bytes} bytes"
        )


def _headers(files: Sequence[Path]) -> list[dict[str, Stored]]:
    """Headers of the safetensors files; a damaged file is reported later, when its tensors are read."""
    headers = []
    for file in files:
        with suppress(UserError):
            headers += [header(file)] if file.suffix == ".safetensors" else []
    return headers
