"""A prompt of 793 tokens (an image and 64 of text) through whole models and single layers, without the head.

    uv run python -m perf.cpu.prefill [--whole-2.8b]

The peer is transformers' `MambaModel` on the same random weights, also with its mixers swapped by
`vlm_ssm.accelerate`; the floor is the matrix products of all layers
alone. In bf16 A_log and D stay fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from perf.lib.common import parser, start
from perf.lib.contestants import accelerated, lower, models
from perf.lib.contests import agree, as_in_vlm, inference, matrices, on, products
from perf.lib.tables import Case, Run, compare

LENGTH = 793
SIZES = {"130m, 24 layers": (768, 24), "2.8b, one layer": (2560, 1)}
SMOKE = {"smoke, 2 layers": (32, 2)}
NAMES = ["ours", "transformers", "accelerated", "floor"]
RATIOS = [("transformers", "ours"), ("transformers", "accelerated"), ("ours", "floor")]


def cases(sizes: dict[str, tuple[int, int]], length: int) -> Iterator[Case]:
    for size, (width, layers) in sizes.items():
        for dtype in (torch.float32, torch.bfloat16):
            yield (
                f"{size}, {'fp32' if dtype == torch.float32 else 'bf16'}",
                case(width, layers, dtype, length),
            )


def case(width: int, layers: int, dtype: torch.dtype, length: int) -> dict[str, Run]:
    ours, theirs = models(width, layers)
    x = torch.randn(1, length, width, dtype=dtype)
    if dtype == torch.bfloat16:
        lower(ours)
        lower(theirs)
    swapped = accelerated(theirs)
    runs = {
        "ours": on("numba", as_in_vlm(x, inference(lambda: ours(x)[0]))),
        "transformers": inference(lambda: theirs(inputs_embeds=x, use_cache=False).last_hidden_state),
        "accelerated": on(
            "numba", inference(lambda: swapped(inputs_embeds=x, use_cache=False).last_hidden_state)
        ),
    }
    if dtype == torch.float32:  # differences of bf16 grow without bound through random layers
        agree(runs["ours"](), runs["transformers"](), 1e-2)
        agree(runs["accelerated"](), runs["transformers"](), 1e-2)
    return {**runs, "floor": as_in_vlm(x, products([(length, w) for w in matrices(ours)]))}


def whole(width: int, layers: int, length: int) -> Iterator[Case]:
    """All layers are copies of one random layer, each in its own memory: 5.3 GB for 64 of width 2560."""
    ours, _ = models(width, 1)
    lower(ours)
    ours.backbone.layers.extend(deepcopy(ours.backbone.layers[0]) for _ in range(layers - 1))
    x = torch.randn(1, length, width, dtype=torch.bfloat16)
    runs = {"ours": on("numba", as_in_vlm(x, inference(lambda: ours(x)[0])))}
    floor = as_in_vlm(x, products([(length, w) for w in matrices(ours)]))
    yield f"2.8b, {layers} layers, bf16", {**runs, "floor": floor}


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--whole-2.8b", dest="whole", action="store_true", help="all 64 layers, bf16")
    options = start(arguments)
    length = 32 if options.smoke else LENGTH
    found = cases(SMOKE if options.smoke else SIZES, length)
    compare(f"Prefill of {length} tokens", NAMES, RATIOS, found, options.rounds)
    if options.whole:
        found = whole(32, 3, length) if options.smoke else whole(2560, 64, length)
        title = f"Prefill of {length} tokens, the whole 2.8b"
        compare(title, ["ours", "floor"], [("ours", "floor")], found, options.rounds)


if __name__ == "__main__":
    main()
