"""Whole language models with random weights in bf16: ours, and a Transformer of the same size from transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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
    """With SDPA; the cache is its own."""
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


def our_prefill(model: MambaLM, x: Tensor) -> Callable[[], Any]:
    """x (B, T, M) -> logits of the last position, state: in pieces and as CUDA graphs where sessions do so."""
    size = max(1, (model.prefill_chunk or x.shape[1]) // len(x))

    def run() -> Any:
        logits = state = None
        for end in range((x.shape[1] - 1) % size + 1, x.shape[1] + 1, size):
            logits, state = model.prefill(x[:, max(0, end - size) : end], state=state)
        return logits, state

    return torch.inference_mode()(run)


def peer_prefill(model: Any, x: Tensor) -> Callable[[], Any]:
    def run() -> Any:
        output = model(inputs_embeds=x, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1], output.past_key_values

    return torch.inference_mode()(run)


def our_tokens(model: MambaLM, x: Tensor, count: int, record: bool) -> Callable[[], Any]:
    """Greedy, `count` tokens a call, each call going on where the last one ended."""
    with torch.inference_mode():
        logits, state = our_prefill(model, x)()
        sampler = TokenSampler(0.0, 1.0, model.vocab_size)
        decoder = model.cuda_graph_decoder(state, sampler) if record else None
        if decoder is not None:
            decoder.start(state, logits.argmax(-1), torch.Generator(x.device))

    def run() -> None:
        nonlocal logits, state
        read = None
        for _ in range(count):
            if decoder is None:
                hidden, state = model(model.embed(logits.argmax(-1).unsqueeze(1)), state=state)
                logits = model.logits(hidden[:, -1])
            else:  # ids are read one token late, as sessions do
                following = decoder.step()
                if read is not None:
                    read()
                read = following

    return torch.inference_mode()(run)


def peer_tokens(model: Any, x: Tensor, count: int) -> Callable[[], Any]:
    """As ours; its cache grows."""
    logits, cache = peer_prefill(model, x)()

    def run() -> None:
        nonlocal logits, cache
        for _ in range(count):
            output = model(logits.argmax(-1, keepdim=True), past_key_values=cache, use_cache=True)
            logits, cache = output.logits[:, -1], output.past_key_values

    return torch.inference_mode()(run)
