"""One token at batch 1, with logits, after a short prompt.

    uv run python -m perf.cpu.decode

The peer is transformers' `MambaForCausalLM` with its cache, on the same random weights. The floor is reading as many
bytes as the weights have, once: one `torch.sum` over them as fp32, with all threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature

import torch
from perf.lib.common import parser, start
from perf.lib.contestants import lower, models
from perf.lib.contests import agree, inference, on
from perf.lib.tables import Case, Run, compare
from torch import Tensor, nn
from transformers import MambaForCausalLM, MambaModel

from vlm_llms.mamba.mamba import MambaLM

SIZES = {"130m": (768, 24, 50280), "2.8b, 8 of 64 layers": (2560, 8, 50280)}  # width, layers, vocabulary
SMOKE = {"smoke": (32, 2, 96)}
PROMPT = 8
NAMES = ["ours", "transformers", "floor"]
RATIOS = [("transformers", "ours"), ("ours", "floor")]


def our_step(model: MambaLM, prompt: Tensor) -> Callable[[], Tensor]:
    """Each call is one more token -> logits (1, 1, V)."""
    _, state = on("numba", torch.no_grad()(lambda: model(model.embed(prompt))))()
    token = prompt[:, -1:]

    def step() -> Tensor:
        nonlocal state
        hidden, state = model(model.embed(token), state=state)
        return model.logits(hidden)

    return on("numba", inference(step))


def peer_step(body: MambaModel, prompt: Tensor) -> Callable[[], Tensor]:
    """The same of transformers, whose cache changes in place."""
    with torch.device("meta"):
        model = MambaForCausalLM(body.config).eval()
    model.backbone, model.lm_head.weight = body, body.embeddings.weight
    name = "cache" if "cache" in signature(model.forward).parameters else "cache_params"  # before 5.24
    with torch.no_grad():
        cache = {name: getattr(model(prompt, use_cache=True), name)}
    token = prompt[:, -1:]
    return inference(lambda: model(token, **cache, use_cache=True).logits)


def reading(model: nn.Module) -> Callable[[], Tensor]:
    """The tied embedding is counted once, as it is read: by the logits."""
    count = sum(p.numel() * p.element_size() for p in model.parameters())
    weights = torch.ones(count // 4)
    return lambda: weights.sum()


def cases(sizes: dict[str, tuple[int, int, int]]) -> Iterator[Case]:
    for size, shape in sizes.items():
        for dtype in (torch.float32, torch.bfloat16):
            yield f"{size}, {'fp32' if dtype == torch.float32 else 'bf16'}", case(shape, dtype)


def case(shape: tuple[int, int, int], dtype: torch.dtype) -> dict[str, Run]:
    ours, theirs = models(*shape)
    if dtype == torch.bfloat16:
        lower(ours)
        lower(theirs)
    prompt = torch.randint(shape[2], (1, PROMPT))
    runs = {"ours": our_step(ours, prompt), "transformers": peer_step(theirs, prompt)}
    if dtype == torch.float32:  # differences of bf16 grow without bound through random layers
        agree(runs["ours"](), runs["transformers"](), 1e-2)
    return {**runs, "floor": reading(ours)}


def main() -> None:
    options = start(parser(__doc__, rounds=21))
    found = cases(SMOKE if options.smoke else SIZES)
    compare("One token", NAMES, RATIOS, found, options.rounds, rates=NAMES[:2])


if __name__ == "__main__":
    main()
