"""Weights of one part in a safetensors file: written without a second copy, read into memory once.

A module may say in `keeps_fp32` which of its parameters and buffers (dotted names) stay fp32 whatever the rest is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import Tensor, nn

from vlm_core.model_folder.safetensors_file import Stored, check_fit, check_kind, opened

WEIGHTS = "weights.safetensors"


@contextmanager
def empty_parameters() -> Iterator[None]:
    """Modules made inside have their parameters on the meta device, shapes without memory, and real buffers.

    Buffers that no file holds (position tables, normalisation constants) thus have their values.
    """
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not param.is_meta:  # one that is there already may be tied: keep it
            self._parameters[name] = _like(param, param.data.to("meta"))

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _like(old: nn.Parameter, data: Tensor) -> nn.Parameter:
    """A parameter with other data, and with the marks that its module put on the old one."""
    new = nn.Parameter(data, requires_grad=old.requires_grad)
    vars(new).update(vars(old))
    return new


def fp32_names(module: nn.Module) -> set[str]:
    """Names of what stays fp32."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, inner in module.named_modules()
        for name in getattr(inner, "keeps_fp32", ())
    }


def vector_names(module: nn.Module) -> set[str]:
    """Names of vectors (norms, biases), and of what must stay fp32: few numbers, which training never rounds."""
    return fp32_names(module) | {name for name, p in module.named_parameters() if p.ndim < 2}


def derived_floats(module: nn.Module) -> list[str]:
    """Names of floating-point buffers that no file holds."""
    stored = module.state_dict(keep_vars=True)
    return [name for name, b in module.named_buffers() if b.is_floating_point() and name not in stored]


def to_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """As `module.to(dtype)`, tensor by tensor, but what must stay fp32 stays it, unrounded."""
    kept = fp32_names(module)
    held = {
        name: tensor.data.float()
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if name in kept
    }
    module.to(dtype)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name in held:
            tensor.data = held[name]


@contextmanager
def disk_errors() -> Iterator[None]:
    """The errors by which safetensors and `torch.save` report a failing disk, as the `OSError` that they are."""
    try:
        yield
    except SafetensorError as error:
        if code := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from None
        raise
    except RuntimeError as error:
        if "inline_container" in str(error):  # the source file of torch's writer
            raise OSError("the disk is full or fails") from None
        raise


def save_part(module: nn.Module, file: Path) -> None:
    """Write the parameters and persistent buffers; tied ones once. Contiguous tensors go to disk as they lie."""
    with disk_errors():
        save_model(module, str(file))


@torch.no_grad()
def fill(
    module: nn.Module, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Tensor], where: Path
) -> None:
    """Copy tensors of these shapes, which `read` gives by name, into the module's own; `where` is named in errors.

    Raises `UserError` if they don't fit: see `check_fit`.
    """
    own = state(module)
    check_fit(own, {name: Stored(shape) for name, shape in shapes.items()}, where)
    for name in shapes:
        tensor = read(name)
        check_kind(own[name], tensor, name, where)
        own[name].copy_(tensor)


def load_part_weights(
    module: nn.Module, file: Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> None:
    """Put the file's tensors in place of the module's, which may be on the meta device.

    They are read into memory of their own: the file may change afterwards. With `dtype` all but `keeps_fp32` are
    converted. Ties and marks on parameters stay. Raises `UserError` as `fill`.
    """
    own, kept, found = state(module), fp32_names(module), set()
    with opened(file) as stored:
        check_fit(own, stored.tensors, file)
        for name in stored.tensors:
            tensor = stored.read(name)
            if name in kept:
                tensor = tensor.float()
            elif tensor.is_floating_point():
                tensor = tensor.to(dtype or tensor.dtype)
                found.add(tensor.dtype)
            _replace(module, own, name, tensor.to(device))
    if len(found) == 1:
        to_dtype(module, found.pop())  # buffers that no file holds
    module.to(device)


def load_weights(
    model: nn.Module,
    folder: Path,
    parts: Sequence[str],
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """`load_part_weights` for every part of a model folder."""
    for part in parts:
        load_part_weights(getattr(model, part), folder / part / WEIGHTS, dtype, device)


@torch.no_grad()
def copy_from_mapped_files(module: nn.Module) -> None:
    """Copy weights that a library left in mapped files, which may change."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; tied ones are the same object."""
    return dict(module.state_dict(keep_vars=True))


def _replace(module: nn.Module, own: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    """Under this name, and under all that are tied to it."""
    old = own[name]
    new = _like(old, tensor) if isinstance(old, nn.Parameter) else tensor
    for alias, other in own.items():
        if other is old:
            parent, _, leaf = alias.rpartition(".")
            setattr(module.get_submodule(parent), leaf, new)
