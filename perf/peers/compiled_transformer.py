"""A Transformer as its documentation says to run it fast: a static cache and `torch.compile(mode="reduce-overhead")`.

Each token is then one replay of a CUDA graph of fused kernels, as a token of ours is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from perf.lib.gpu import DEVICE
from torch import Tensor

Run = Callable[[], Any]
RECORDING = 3  # calls until a graph is replayed: compile, record, replay
MODE: dict[str, Any] = {"mode": "reduce-overhead"} if DEVICE.type == "cuda" else {"backend": "eager"}
"""Without a GPU the model is only traced, which shows that it can be."""
HEAD = ("num_attention_heads", "hidden_size", "num_hidden_layers")


def static_cache(model: Any, batch: int, context: int, room: int) -> Any:
    """A cache for `context` positions, filled with random values, and `room` more.

    A token's time does not depend on the values, so that no prefill of a long context is needed.
    """
    from transformers import StaticCache

    heads, width, layers = (getattr(model.config, name) for name in HEAD)
    like = next(model.parameters())
    cache = StaticCache(config=model.config, max_cache_len=context + room)
    shape = (batch, heads, context, width // heads)
    for layer in range(layers):
        key, value = (torch.randn(shape, dtype=like.dtype, device=like.device) for _ in range(2))
        cache.update(key, value, layer)
    return cache


def compiled_tokens(model: Any, batch: int, context: int, count: int) -> Run:
    """Greedy, `count` tokens a call, each call from `context` positions on; compiled by the first calls."""
    with torch.no_grad():
        cache = static_cache(model, batch, context, count)

    def decode(ids: Tensor) -> Tensor:
        return model(ids, cache=cache, use_cache=True).logits[:, -1].argmax(-1, keepdim=True)

    compiled = torch.compile(decode, fullgraph=True, dynamic=False, **MODE)
    ids = torch.zeros(batch, 1, dtype=torch.long, device=next(model.parameters()).device)
    lengths = [layer.cumulative_length for layer in cache.layers]

    def run() -> None:
        nonlocal ids
        for length in lengths:
            length.fill_(context)
        for _ in range(count):
            torch.compiler.cudagraph_mark_step_begin()
            ids = compiled(ids).clone()

    return warmed(torch.no_grad()(run))


def compiled_prefill(model: Any, x: Tensor) -> Run:
    """x (B, T, M) -> logits of the last position; the cache is an output."""

    def prefill(x: Tensor) -> Any:
        output = model(inputs_embeds=x, use_cache=True, logits_to_keep=1)
        layers = output.cache.layers
        return output.logits[:, -1], [(layer.keys, layer.values) for layer in layers]

    compiled = torch.compile(prefill, dynamic=False, **MODE)

    def run() -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(x)

    return warmed(torch.no_grad()(run))


def warmed(run: Run) -> Run:
    for _ in range(RECORDING):
        run()
    return run
