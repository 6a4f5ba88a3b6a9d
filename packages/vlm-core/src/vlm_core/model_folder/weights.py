"""Weights of one part in a safetensors file: written without a second copy, read into memory once.

`keeps_fp32` of a module lists its parameters and buffers (dotted names) that stay fp32 when a model is converted.
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
    """Context in which new modules have parameters on the meta device and real buffers.

    Non-persistent buffers (position tables, normalisation constants) thus have their values.
    """
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not param.is_meta:  # one on meta already may be tied: keep it
            self._parameters[name] = _like(param, param.data.to("meta"))

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _like(old: nn.Parameter, data: Tensor) -> nn.Parameter:
    """A parameter with other data and the old one's `requires_grad` and attributes."""
    new = nn.Parameter(data, requires_grad=old.requires_grad)
    vars(new).update(vars(old))
    return new


def fp32_names(module: nn.Module) -> set[str]:
    """Names of parameters and buffers that stay fp32."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, inner in module.named_modules()
        for name in getattr(inner, "keeps_fp32", ())
    }


def vector_names(module: nn.Module) -> set[str]:
    """Names of vectors (norms, biases) and of what stays fp32: few numbers, which training never rounds."""
    return fp32_names(module) | {name for name, p in module.named_parameters() if p.ndim < 2}


def derived_floats(module: nn.Module) -> list[str]:
    """Names of non-persistent floating-point buffers."""
    stored = module.state_dict(keep_vars=True)
    return [name for name, b in module.named_buffers() if b.is_floating_point() and name not in stored]


def to_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """`module.to(dtype)`, except that `keeps_fp32` stays fp32, unrounded."""
    names = fp32_names(module)
    fp32_tensors = {
        name: tensor.data.float()
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if name in names
    }
    module.to(dtype)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name in fp32_tensors:
            tensor.data = fp32_tensors[name]


@contextmanager
def disk_errors() -> Iterator[None]:
    """Context that turns the disk errors of safetensors and `torch.save` into `OSError`."""
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
    """Write the parameters and persistent buffers; tied ones once. Contiguous tensors are not copied."""
    with disk_errors():
        save_model(module, str(file))


@torch.no_grad()
def fill(
    module: nn.Module, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Tensor], where: Path
) -> None:
    """Copy the tensors that `read` returns by name into the module's parameters and buffers, in place.

    `shapes` are theirs; `where` is named in errors. Raises `UserError` as `check_fit`.
    """
    params = state(module)
    check_fit(params, {name: Stored(shape) for name, shape in shapes.items()}, where)
    for name in shapes:
        tensor = read(name)
        check_kind(params[name], tensor, name, where)
        params[name].copy_(tensor)


def load_part_weights(
    module: nn.Module, file: Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> None:
    """Replace the module's tensors, which may be on the meta device, by the file's.

    They are read, not mapped: the file may change afterwards. With `dtype` all but `keeps_fp32` are converted. Ties and
    attributes of parameters stay. Raises `UserError` as `fill`.
    """
    params, fp32, dtypes = state(module), fp32_names(module), set()
    with opened(file) as stored:
        check_fit(params, stored.tensors, file)
        for name in stored.tensors:
            tensor = stored.read(name)
            if name in fp32:
                tensor = tensor.float()
            elif tensor.is_floating_point():
                tensor = tensor.to(dtype or tensor.dtype)
                dtypes.add(tensor.dtype)
            _replace(module, params, name, tensor.to(device))
    if len(dtypes) == 1:
        to_dtype(module, dtypes.pop())  # for non-persistent buffers
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
    """Copy a module's CPU tensors into memory: a library may have mapped them from files, which may change."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; tied ones are the same object."""
    return dict(module.state_dict(keep_vars=True))


def _replace(module: nn.Module, params: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    """Replace a tensor under its name and under all names that are tied to it."""
    old = params[name]
    new = _like(old, tensor) if isinstance(old, nn.Parameter) else tensor
    for alias, other in params.items():
        if other is old:
            parent, _, leaf = alias.rpartition(".")
            setattr(module.get_submodule(parent), leaf, new)
