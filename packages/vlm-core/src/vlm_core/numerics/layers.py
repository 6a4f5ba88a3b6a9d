"""The layers of a vision tower or a language model: the units of FSDP and of activation checkpointing."""

from __future__ import annotations

from torch import nn


def transformer_layers(module: nn.Module) -> list[nn.Module]:
    """The members of the outermost module lists with several modules of one type, in order."""
    layers: list[nn.Module] = []
    for child in module.children():
        members = list(child.children())
        listed = isinstance(child, nn.ModuleList | nn.Sequential) and len(members) > 1
        if listed and len({type(m) for m in members}) == 1 and any(True for _ in members[0].parameters()):
            layers += members
        else:
            layers += transformer_layers(child)
    return layers
