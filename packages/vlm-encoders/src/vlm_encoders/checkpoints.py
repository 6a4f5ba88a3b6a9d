"""Weight files: where they are, what is in them, and whether they fit."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vlm_core.errors import UserError

PACKAGE = "python:"
WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts put the tensors of a model."""


def locate(where: str) -> Path:
    """A path, or `python:<package>/<path inside it>`; the package is found without importing it."""
    if not where.startswith(PACKAGE):
        path = Path(where).expanduser()
        if not path.is_file():
            raise UserError(f"{where}: no such weight file")
        return path
    package, _, inside = where.removeprefix(PACKAGE).partition("/")
    top, *parents = package.split(".")
    spec = importlib.util.find_spec(top) if top else None
    if spec is None or not inside:
        reason = f"the package {top!r} is not installed" if inside else "expected python:<package>/<path>"
        raise UserError(f"{where}: {reason}")
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *parents, inside)
        if path.is_file():
            return path
    raise UserError(f"{where}: the package {top!r} is installed but holds no such file")


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or a PyTorch checkpoint, by name; no pickled code is run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: not a plain checkpoint: it is damaged or holds objects that could run code "
            "when loaded; save its tensors as .safetensors"
        ) from None
    except Exception as error:  # the readers raise whatever a damaged file makes them stumble over
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(f"{path}: cannot read these weights: {reason:.200}") from None
    return _tensors(path, content)


def _tensors(path: Path, content: object) -> dict[str, Tensor]:
    """The mapping of names to tensors, taken out of the wrapper if there is one."""
    if isinstance(content, Mapping):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    tensors = content if isinstance(content, Mapping) else {}
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path}: expected a mapping of names to tensors, got {type(content).__name__}")
    return dict(tensors)


def load(
    module: nn.Module,
    tensors: dict[str, Tensor],
    *,
    source: str,
    target: str,
    match: Literal["names", "order"] = "names",
) -> None:
    """Copy tensors into `module`, all of them and nothing else.

    `match="order"` pairs them by position, for files whose names differ. Raises `UserError` naming what does
    not fit and on which side.
    """
    own = module.state_dict()
    if match == "order":
        tensors = _in_order(own, tensors, source, target)
    problems = [
        _listed(f"missing from the file, though {target} needs them", [k for k in own if k not in tensors]),
        _listed(f"in the file, though {target} has no such tensor", [k for k in tensors if k not in own]),
        _listed(
            f"of another shape in the file than in {target}",
            [
                f"{k}: {_shape(tensors[k])} instead of {_shape(own[k])}"
                for k in own
                if k in tensors and tensors[k].shape != own[k].shape
            ],
        ),
    ]
    if any(problems):
        raise UserError(f"{source}: does not fit {target}: {'; '.join(filter(None, problems))}")
    module.load_state_dict(tensors)


def _in_order(
    own: Mapping[str, Tensor], tensors: dict[str, Tensor], source: str, target: str
) -> dict[str, Tensor]:
    pairs = zip(own, tensors, strict=False)
    wrong = next((f for f in enumerate(pairs) if own[f[1][0]].shape != tensors[f[1][1]].shape), None)
    if wrong:
        i, (mine, theirs) = wrong
        raise UserError(
            f"{source}: match: order fails at tensor {i + 1} of {len(tensors)}: the file has {theirs} "
            f"{_shape(tensors[theirs])}, {target} wants {mine} {_shape(own[mine])}; "
            "it is another model or another order"
        )
    if len(own) != len(tensors):
        raise UserError(
            f"{source}: match: order needs as many tensors as the model has: "
            f"{len(tensors)} in the file, {len(own)} in {target}"
        )
    return dict(zip(own, tensors.values(), strict=True))


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def _listed(what: str, names: list[str]) -> str:
    """`3 of another shape … (a, b, c)`, at most three by name; empty if there are none."""
    if not names:
        return ""
    more = ", …" if len(names) > 3 else ""
    return f"{len(names)} {what} ({', '.join(names[:3])}{more})"
