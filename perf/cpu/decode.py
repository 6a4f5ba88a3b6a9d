"""One token of each sequence, with logits, after a short prompt: batch 1 against transformers, then larger batches.

    uv run python -m perf.cpu.decode

The peer is transformers' `MambaForCausalLM` with its cache, on the same random weights, also with its mixers swapped
by `vlm_ssm.accelerate`. The floor is reading as many bytes as the weights have, once: one `torch.sum` over them as
fp32, with all threads. Batches are also run layer by layer, with torch's products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature

import torch
from perf.lib.common import parser, start
from perf.lib.contestants import accelerated, lower, models
from perf.lib.contests import agree, inference, on
from perf.lib.tables import Case, Run, compare, number, ratio, table, turns
from torch import Tensor, nn
from transformers import MambaForCausalLM, MambaModel

from vlm_llms.mamba.mamba import MambaLM
from vlm_ssm.layers import decode

SIZES = {"130m": (768, 24, 50280), "2.8b, 8 of 64 layers": (2560, 8, 50280)}  # width, layers, vocabulary
SMOKE = {"smoke": (32, 2, 96)}
PROMPT = 8
NAMES = ["ours", "transformers", "accelerated", "floor"]
RATIOS = [("transformers", "ours"), ("transformers", "accelerated"), ("ours", "floor")]
BATCHES = [1, 2, 4, 8, 16]
BY_LAYERS = [4, 8, 16]  # also measured layer by layer


def our_step(model: MambaLM, prompt: Tensor) -> Callable[[], Tensor]:
    """Each call is one more token -> logits (B, 1, V)."""
    _, state = on("numba", torch.no_grad()(lambda: model(model.embed(prompt))))()
    token = prompt[:, -1:]

    def step() -> Tensor:
        nonlocal state
        hidden, state = model(model.embed(token), state=state)
        return model.logits(hidden)

    return on("numba", inference(step))


def by_layers(step: Run) -> Run:
    """The same, layer by layer."""

    def run() -> object:
        most, decode.MOST_ROWS = decode.MOST_ROWS, 0
        try:
            return step()
        finally:
            decode.MOST_ROWS = most

    return run


def peer_step(body: MambaModel, prompt: Tensor) -> Callable[[], Tensor]:
    """The same of transformers, whose cache changes in place."""
    with torch.device("meta"):
        model = MambaForCausalLM(body.config).eval()
    model.backbone, model.lm_head.weight = body, body.embeddings.weight
    name = "cache" if "cache" in signature(model.forward).parameters else "cache_params"  # before 5.24
    with torch.no_grad():
        cache = {name: getattr(model(prompt, use_cache=True), name)}
    token = prompt[:, -1:]
    return on("numba", inference(lambda: model(token, **cache, use_cache=True).logits))


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
    runs = {
        "ours": our_step(ours, prompt),
        "transformers": peer_step(theirs, prompt),
        "accelerated": peer_step(accelerated(theirs), prompt),
    }
    if dtype == torch.float32:  # differences of bf16 grow without bound through random layers
        logits = {name: run() for name, run in runs.items()}  # once: each call is the next token
        agree(logits["ours"], logits["transformers"], 1e-2)
        agree(logits["accelerated"], logits["transformers"], 1e-2)
    return {**runs, "floor": reading(ours)}


def batch_row(size: str, shape: tuple[int, int, int], dtype: torch.dtype, rounds: int) -> list[str]:
    """Tokens/s of each batch; the gain of eight sequences over one; the time of eight over the floor."""
    ours, _ = models(*shape)
    if dtype == torch.bfloat16:
        lower(ours)
    prompts = {batch: torch.randint(shape[2], (batch, PROMPT)) for batch in BATCHES}
    runs: dict[str, Run] = {str(batch): our_step(ours, prompt) for batch, prompt in prompts.items()}
    runs |= {f"layers {batch}": by_layers(our_step(ours, prompts[batch])) for batch in BY_LAYERS}
    times = {name: time.median for name, time in turns({**runs, "floor": reading(ours)}, rounds).items()}
    return [
        f"{size}, {'fp32' if dtype == torch.float32 else 'bf16'}",
        ratio(8 * times["1"] / times["8"]),
        ratio(times["8"] / times["floor"]),
        *(number(batch / times[str(batch)]) for batch in BATCHES),
        *(number(batch / times[f"layers {batch}"]) for batch in BY_LAYERS),
    ]


def main() -> None:
    options = start(parser(__doc__, rounds=21))
    sizes = SMOKE if options.smoke else SIZES
    compare("One token", NAMES, RATIOS, cases(sizes), options.rounds, rates=NAMES[:3])
    columns = ["", "tokens/s, batch 8 / 1", "batch 8 / floor"]
    columns += [f"batch {batch}, tokens/s" for batch in BATCHES]
    columns += [f"batch {batch} by layers, tokens/s" for batch in BY_LAYERS]
    dtypes = (torch.float32, torch.bfloat16)
    rows = (batch_row(*size, dtype, options.rounds) for size in sizes.items() for dtype in dtypes)
    table(f"One token of each sequence (medians of {options.rounds} interleaved rounds)", columns, rows)


if __name__ == "__main__":
    main()
