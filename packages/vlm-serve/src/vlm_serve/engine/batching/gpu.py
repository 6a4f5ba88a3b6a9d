"""The device of an engine: what its threads launch on, how much memory is free there, and whether it still works."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from vlm_core.errors import UserError
from vlm_core.model import VLM
from vlm_core.units import size
from vlm_serve.engine.batching.state_costs import StateCosts
from vlm_serve.engine.settings import EngineSettings

PART, LONGEST_PART = 32, 1024
"""Lengths of parts of prompts that are captured at the start: multiples, and the longest."""
log = logging.getLogger(__name__)
SHARE = 0.9
"""Of the free memory, for states that live and states that are cached; the rest is for prompts that are read."""


def launching_on(device: torch.device) -> AbstractContextManager[Any]:
    """Context in which kernels are launched on this device; every thread has one of its own."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a GPU, with those that torch keeps for its next tensors; None for a CPU."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def state_budget(settings: EngineSettings, costs: StateCosts, free: int | None) -> int | None:
    """The budget of live states: that of the settings, or what a GPU with `free` bytes has room for.

    Raises `UserError` for a budget that is too small for one answer, or too large for the GPU.
    """
    least, budget = costs.bytes(1), settings.state_bytes
    if budget is not None and budget < least:
        text = f"one answer's state has {least} bytes, the budget of all states {budget}"
        raise UserError(f"{text}: --state-memory, or state_bytes, must be larger")
    if free is None:
        return budget
    room, cached = int(SHARE * free), settings.cache_bytes
    if room - cached < (budget or least):
        text = f"the GPU has {size(free)} free, of which {SHARE:.0%} may hold states: cached ones take {size(cached)}"
        live = f"one answer's takes {size(least)}" if budget is None else f"live ones {size(budget)}"
        raise UserError(f"{text}, {live}: --cache-memory or --state-memory must be smaller")
    wanted = settings.slots * costs.bytes(settings.max_positions)
    if budget is None and wanted > room - cached:
        log.warning("the GPU has room for %s of live states, not for %s", size(room - cached), size(wanted))
        return room - cached
    return budget


@torch.inference_mode()
def capture_parts(model: VLM, longest: int) -> None:
    """Capture an image of one view, and parts of prompts of all lengths up to `longest`: no request waits for it."""
    weight = next(model.llm.parameters())
    pixels = torch.zeros(1, 3, *model.encoder.image_size, device=weight.device)
    lengths = range(PART, min(longest, LONGEST_PART) + 1, PART)
    for _ in range(2):  # a graph is captured at its second call
        model.encode_images(pixels)
        for length in lengths:
            model.prefill(weight.new_zeros(1, length, model.llm.dim))


def is_lost(device: torch.device) -> bool:
    """Whether a GPU answers no more, as after a fault in a kernel, until its process ends."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False
