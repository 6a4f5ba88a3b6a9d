"""Trained parameters of a stage, their parameter groups, and the optimizer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from vlm_core.errors import UserError
from vlm_core.model import PARTS, VLM
from vlm_core.runtime.verbosity import without_hub_kernels
from vlm_train.config.train import Stage


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with one learning rate and one weight decay; `label` is the part or pattern that selects them."""

    label: str
    lr: float
    weight_decay: float
    decays: bool
    parameters: dict[str, nn.Parameter]


def freeze(model: VLM, stage: Stage, adapters: Iterable[nn.Parameter] = ()) -> None:
    """Require gradients of exactly the parameters that `stage` trains: with LoRA `adapters`, not the model's own.

    All other modules are in evaluation mode. Raises `UserError` for a pattern that matches no parameter of the trained
    parts, or if nothing is left to train.
    """
    for part in PARTS:
        module: nn.Module = getattr(model, part)
        module.requires_grad_(part in stage.trainable)
        if part in stage.trainable and not any(True for _ in module.parameters()):
            raise UserError(
                f"stage {stage.name}: trainable: {part} has no parameters to train; remove it from trainable"
            )
    if stage.lora:
        model.llm.requires_grad_(False)
        for parameter in adapters:
            parameter.requires_grad_(True)
    candidates = trained(model, stage)
    for pattern in stage.frozen:
        for name in matching(pattern, candidates, f"stage {stage.name}: frozen"):
            candidates[name].requires_grad_(False)
    if not trained(model, stage):
        raise UserError(f"stage {stage.name}: frozen leaves nothing to train: remove a pattern")
    model.train()


def trained(model: VLM, stage: Stage) -> dict[str, nn.Parameter]:
    """Every parameter that has a gradient, by name, part by part in the order of `trainable`; ties appear once."""
    return {
        f"{part}.{name}": parameter
        for part in stage.trainable
        for name, parameter in getattr(model, part).named_parameters()
        if parameter.requires_grad
    }


def matching(pattern: str, names: Iterable[str], where: str) -> list[str]:
    """The names that a pattern fits; `UserError` with the nearest names if it fits none."""
    names = list(names)
    matches = [name for name in names if fnmatchcase(name, pattern)]
    if not matches:
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.2) or names[:3]
        raise UserError(
            f"{where}: {pattern!r} matches no trained parameter; the nearest are {', '.join(near)}"
        )
    return matches


def decays(parameter: nn.Parameter) -> bool:
    """Vectors (biases, norms, D) and whatever is marked `_no_weight_decay` (A_log) get no weight decay."""
    return parameter.ndim >= 2 and not getattr(parameter, "_no_weight_decay", False)


def parameter_groups(model: VLM, stage: Stage) -> list[ParameterGroup]:
    """Every trained parameter in exactly one group: that of the first pattern that matches, or its part's.

    Parameters with and without weight decay are separate groups. Raises `UserError` for a pattern that matches no
    parameter, or only those of earlier patterns.
    """
    parameters = trained(model, stage)
    owner: dict[str, int] = {}
    for i, group in enumerate(stage.groups):
        where = f"stage {stage.name}: groups.{i}"
        fits = matching(group.match, parameters, where)
        free = [name for name in fits if name not in owner]
        if not free:
            raise UserError(f"{where}: earlier groups have taken all that {group.match!r} fits; move it up")
        owner.update(dict.fromkeys(free, i))
    groups = []
    for part in stage.trainable:
        names = [name for name in parameters if name.startswith(f"{part}.")]
        for i in (None, *range(len(stage.groups))):
            group = None if i is None else stage.groups[i]
            lr = stage.rate(part) if group is None or group.lr is None else group.lr
            wd = stage.decay(part) if group is None or group.weight_decay is None else group.weight_decay
            label = part if group is None else group.match
            for decay in (True, False):
                mine = {
                    n: parameters[n] for n in names if owner.get(n) == i and decays(parameters[n]) == decay
                }
                if mine:
                    groups.append(ParameterGroup(label, lr, wd if decay else 0.0, decay, mine))
    assert sum(len(g.parameters) for g in groups) == len(parameters)
    return groups


def optimizer(parameter_groups: Sequence[ParameterGroup], kind: str = "adamw") -> torch.optim.Optimizer:
    """AdamW over the groups; `peak` is what the schedule scales. Fused where a GPU holds the weights."""
    groups = [
        {"params": params, "lr": g.lr, "peak": g.lr, "weight_decay": g.weight_decay}
        for g in parameter_groups
        for params in _alike(g.parameters.values())
    ]
    if kind == "adamw-8bit":
        return _eight_bit(groups)
    fused = all(p.device.type == "cuda" for g in groups for p in g["params"])
    return torch.optim.AdamW(groups, fused=True) if fused else torch.optim.AdamW(groups)


def _alike(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Sharded and replicated parameters in separate lists: an optimizer kernel takes one kind only."""
    by_kind: dict[bool, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_kind.setdefault(isinstance(parameter, DTensor), []).append(parameter)
    return list(by_kind.values())


def _eight_bit(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """AdamW with 8-bit moments; bitsandbytes keeps those of small tensors in 32 bits."""
    try:
        with without_hub_kernels():
            from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise UserError(
            f"optimizer: adamw-8bit needs bitsandbytes, which can't be imported ({error}); "
            "pip install 'vlm-train[8bit]', or set optimizer: adamw"
        ) from None
    return AdamW8bit(groups)
