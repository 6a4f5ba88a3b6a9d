"""The layers of a tower or of a language model: what is gathered, or computed again, as one."""

from __future__ import annotations

from torch import nn


def transformer_layers(module: nn.Module) -> list[nn.Module]:
    """Members of the outermost lists of several modules of one kind, in order."""
    found: list[nn.Module] = []
    for child in module.children():
        members = list(child.children())
        listed = isinstance(child, nn.ModuleList | nn.Sequential) and len(members) > 1
        if listed and len({type(m) for m in members}) == 1 and any(True for _ in members[0].parameters()):
            found += members
        else:
            found += transformer_layers(child)
    return found
