"""Checkpoints: trained parts, optimizer and position, in folders that are whole or not there."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor

from vlm_core.assemble import load_part
from vlm_core.errors import UserError
from vlm_core.folder import MANIFEST, verify_folder, write_folder
from vlm_core.model import VLM

OPTIMIZER, POSITION = "optimizer.safetensors", "position.json"


@dataclass(frozen=True)
class Position:
    """Where a run stands: `step` steps of stage number `stage` are done."""

    stage: int
    step: int
    tokens: int = 0
    dropped: int = 0


def _names(model: VLM) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def optimizer_tensors(model: VLM, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimizer state keyed by parameter name and slot, so that it survives any change of grouping."""
    names = _names(model)
    return {
        f"{names[parameter]}|{slot}": value.detach().contiguous()
        for parameter, state in optimizer.state.items()
        for slot, value in state.items()
    }


def restore_optimizer(model: VLM, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put saved state back; every parameter that has steps behind it must find its own."""
    by_name = {name: parameter for parameter, name in _names(model).items()}
    for key, value in tensors.items():
        name, slot = key.split("|")
        parameter = by_name[name]
        home = "cpu" if slot == "step" else parameter.device
        optimizer.state[parameter][slot] = value.to(home)


def save(
    root: Path, name: str, model: VLM, parts: list[str], optimizer: torch.optim.Optimizer, position: Position
) -> Path:
    """Write `root/<stage>-<name>-<step>`; a checkpoint of the same position is left as it is."""
    path = root / f"{position.stage:02d}-{name}-{position.step:08d}"
    if path.exists():
        return path

    def write(folder: Path) -> None:
        for part in parts:
            save_model(getattr(model, part), str(folder / f"{part}.safetensors"))
        save_file(optimizer_tensors(model, optimizer), str(folder / OPTIMIZER))
        (folder / POSITION).write_text(json.dumps(asdict(position)) + "\n")

    write_folder(path, write, {"parts": parts})
    return path


def rotate(root: Path, keep: int) -> None:
    """Remove the oldest checkpoints, after the newest is complete."""
    for old in complete(root)[:-keep]:
        shutil.rmtree(old)


def complete(root: Path) -> list[Path]:
    """Finished checkpoints, oldest first; what a kill left half-written has no manifest or another name."""
    return sorted(p for p in root.glob("[0-9]*") if (p / MANIFEST).is_file()) if root.is_dir() else []


def restore(path: Path, model: VLM) -> tuple[Position, dict[str, Tensor]]:
    """Load trained parts into `model` and return the position and the optimizer's tensors.

    Raises `UserError` naming the damaged file if any byte differs from what was written.
    """
    try:
        manifest = verify_folder(path)
    except UserError as error:
        raise UserError(f"{error}\nremove {path} to resume from the checkpoint before it") from None
    for part in manifest["parts"]:
        load_part(getattr(model, part), path / f"{part}.safetensors")
    position = Position(**json.loads((path / POSITION).read_text()))
    return position, load_file(path / OPTIMIZER)
