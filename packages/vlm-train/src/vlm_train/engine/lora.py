"""LoRA adapters of the language model: injection, gradient check, merge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from vlm_core.errors import UserError, choices
from vlm_core.model import VLM
from vlm_core.numerics.frozen_modules import BufferCopies, mark_added
from vlm_core.runtime.verbosity import without_hub_kernels
from vlm_train.config.recipe import Lora


def inject(model: VLM, settings: Lora, stage: str, seed: int) -> dict[str, nn.Parameter]:
    """Put adapters on the targets, which then compute W x + (alpha / rank) B A x; -> their parameters by name.

    B starts at zero, so that nothing changes yet. Raises `UserError` for a target that doesn't exist, isn't a linear
    layer or has a tied weight, and if peft isn't installed.
    """
    try:
        with without_hub_kernels():
            import peft
    except ImportError:
        raise UserError(f"stage {stage}: lora needs peft: pip install 'vlm-train[peft]'") from None
    names = _targets(model, settings, stage)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType]  # peft annotates int, and takes a float
        lora_dropout=settings.dropout,
        target_modules=[name.removeprefix("llm.") for name in names],
    )
    before = {id(p) for p in model.parameters()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model.llm)
    for layer in layers(model).values():
        for added in (layer.lora_A, layer.lora_B, layer.lora_dropout):
            mark_added(added)
    return {name: p for name, p in model.named_parameters() if id(p) not in before}


def _targets(model: VLM, settings: Lora, stage: str) -> list[str]:
    """Names of the modules that match; each pattern must match a module, and only linear layers."""
    modules = {f"llm.{name}": module for name, module in model.llm.named_modules() if name}
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    names: dict[str, None] = {}
    for pattern in settings.targets:
        matches = [name for name in modules if fnmatchcase(name, pattern)]
        if not matches:
            kinds = {f"*.{name.rpartition('.')[2]}" for name in linear}
            raise UserError(
                f"stage {stage}: lora.targets: {pattern!r} matches no module{choices(pattern, kinds)}"
            )
        if odd := [name for name in matches if name not in linear]:
            kind = type(modules[odd[0]]).__name__
            raise UserError(
                f"stage {stage}: lora.targets: {pattern!r} matches {odd[0]}, a {kind}: only linear "
                "layers take an adapter (a convolution's weights are passed to a kernel)"
            )
        names.update(dict.fromkeys(matches))
    _check_not_tied(model, names, stage)
    return list(names)


def _check_not_tied(model: VLM, targets: Iterable[str], stage: str) -> None:
    """Raise `UserError` for a target whose weight another module has, too: merging would change that one as well."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.llm.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(f"llm.{name}")
    for target in targets:
        tied = owners.get(id(model.get_submodule(target).weight), [])
        if others := [name for name in tied if name != f"{target}.weight"]:
            raise UserError(
                f"stage {stage}: lora.targets: {target} shares its weight with {others[0].rpartition('.')[0]}, which "
                "would change when the adapter is merged; take it out of lora.targets"
            )


def layers(model: VLM) -> dict[str, Any]:
    """The adapted layers of the language model by name."""
    from peft.tuners.lora import LoraLayer

    return {f"llm.{n}": m for n, m in model.llm.named_modules() if isinstance(m, LoraLayer)}


@contextmanager
def check_lora_gradients(model: VLM, stage: str) -> Iterator[None]:
    """Check that one backward pass inside reaches every adapter; gradients and buffers are restored on exit.

    Raises `UserError` naming the targets whose adapters get no gradient, such as layers whose weights the model passes
    to a kernel without calling the layer.
    """
    adapted = layers(model)
    called: set[str] = set()
    hooks = [m.register_forward_hook(lambda *_, name=n: called.add(name)) for n, m in adapted.items()]
    try:
        with BufferCopies(model):
            yield
    finally:
        for hook in hooks:
            hook.remove()
    untrained = [name for name, layer in adapted.items() if not _has_gradient(layer)]
    model.zero_grad(set_to_none=True)
    if not untrained:
        return
    kinds = sorted({name.rpartition(".")[2] for name in untrained})
    why = (
        "the first batch gives them no gradient"
        if called.issuperset(untrained)
        else "the model passes their weights to a kernel without calling the layer"
    )
    raise UserError(
        f"stage {stage}: adapters on {len(untrained)} of {len(adapted)} targets would learn nothing, such as "
        f"{untrained[0]}: {why}; take {', '.join(kinds)} out of lora.targets"
    )


def _has_gradient(layer: Any) -> bool:
    """Whether B has a gradient; A gets one once B is no longer zero."""
    grads = [b.weight.grad for b in layer.lora_B.values()]
    return all(g is not None and math.isfinite(n := float(g.norm())) and n > 0 for g in grads)


@torch.no_grad()
def merge(model: VLM) -> None:
    """Add every adapter to its layer's weight and remove it: the model has the spec's modules again."""
    for layer in layers(model).values():
        layer.merge(safe_merge=True)
    take_out(model)


def take_out(model: VLM) -> None:
    """Replace the adapted layers by their base layers."""
    for name, layer in layers(model).items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    del model.llm.peft_config
