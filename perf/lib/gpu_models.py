"""Whole language models with random weights in bf16: ours, and a Transformer of the same size from transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from vlm_core.generation.sampling import TokenSampler
from vlm_llms.mamba.mamba import MambaLM


class Size(NamedTuple):
    """Mamba-2.8B beside a GPT-NeoX of Pythia-2.8B's shape: the pair that the Mamba paper compares."""

    width: int = 2560
    mamba_layers: int = 64
    layers: int = 32
    heads: int = 32
    vocabulary: int = 50280


FULL, SMOKE = Size(), Size(32, 2, 2, 2, 96)


def mamba(size: Size) -> MambaLM:
    model = MambaLM(
        size.width, size.mamba_layers, size.vocabulary, dtype=torch.bfloat16, load_tokenizer=_no_tokenizer
    )
    return model.eval()


def transformer(size: Size, positions: int) -> nn.Module:
    """With SDPA and transformers' own caches."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    config = GPTNeoXConfig(
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        vocab_size=size.vocabulary,
        max_position_embeddings=positions,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        bos_token_id=0,
        eos_token_id=0,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return GPTNeoXForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def _no_tokenizer() -> Any:
    raise AssertionError("nothing is measured on text")


def our_eager_prefill(model: MambaLM, x: Tensor) -> Callable[[], Any]:
    """x (B, T, M) -> logits of the last position, state; launched layer by layer."""

    def run() -> Any:
        hidden, state = model(x)
        return model.logits(hidden[:, -1]), state

    return torch.inference_mode()(run)


CAPTURED = 3
"""Calls of a length until it is replayed: the first is launched, the second captured."""


def pieces(model: MambaLM, batch: int, length: int) -> Iterator[slice]:
    """The parts of an input in which sessions read it; the first one may be shorter."""
    size = max(1, (model.prefill_chunk or length) // batch)
    for end in range((length - 1) % size + 1, length + 1, size):
        yield slice(max(0, end - size), end)


def our_prefill(model: MambaLM, x: Tensor) -> Callable[[], Any]:
    """As `our_eager_prefill`, the way that sessions prefill: CUDA graphs by length, long inputs in pieces."""
    parts = list(pieces(model, *x.shape[:2]))

    def run() -> Any:
        logits = state = None
        for piece in parts:
            logits, state = model.prefill(x[:, piece], state=state)
        return logits, state

    run = torch.inference_mode()(run)
    for _ in range(CAPTURED if len(parts) < CAPTURED else 0):
        run()
    return run


def state_after(model: MambaLM, batch: int, context: int) -> tuple[Tensor, Any]:
    """Logits and state after a random context that never exists as a whole."""
    logits = state = None
    for piece in pieces(model, batch, context):
        x = torch.randn(batch, piece.stop - piece.start, model.dim, dtype=torch.bfloat16)
        logits, state = model.prefill(x, state=state)
    assert logits is not None
    return logits, state


def our_tokens(
    model: MambaLM, after: Tensor | tuple[Tensor, Any], count: int, record: bool
) -> Callable[[], Any]:
    """Greedy, `count` tokens a call, each call going on where the last one ended; every id reaches the host.

    `after`: a prompt (B, T, M), or logits and state. With `record`, a token is a CUDA graph, as in sessions.
    """
    with torch.inference_mode():
        logits, state = our_prefill(model, after)() if isinstance(after, Tensor) else after
        ids = logits.argmax(-1)
        sampler = TokenSampler(0.0, 1.0, model.vocab_size)
        graph = model.cuda_graph_decoder(state, sampler) if record else None
        if graph is not None:
            graph.start(state, ids, Generator(ids.device))

    def eager() -> None:
        nonlocal ids, state
        for _ in range(count):
            hidden, state = model(model.embed(ids.unsqueeze(1)), state=state)
            ids = model.logits(hidden[:, -1]).argmax(-1)
            ids.tolist()

    def recorded() -> None:
        assert graph is not None
        read = graph.step()
        for left in range(count - 1, -1, -1):
            following = graph.step() if left else read  # one token ahead of the reader
            read()
            read = following

    return torch.inference_mode()(eager if graph is None else recorded)


def peer_prefill(model: Any, x: Tensor) -> Callable[[], Any]:
    """x (B, T, M) -> logits of the last position, cache."""

    def run() -> Any:
        output = model(inputs_embeds=x, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1], output.cache

    return torch.inference_mode()(run)


def peer_tokens(model: Any, x: Tensor, count: int) -> Callable[[], Any]:
    """As ours, launched kernel by kernel; its cache grows."""
    logits, cache = peer_prefill(model, x)()

    def run() -> None:
        nonlocal logits, cache
        for _ in range(count):
            output = model(logits.argmax(-1, keepdim=True), cache=cache, use_cache=True)
            logits, cache = output.logits[:, -1], output.cache

    return torch.inference_mode()(run)
