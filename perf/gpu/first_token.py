"""From an image to the first token of the answer: VL-Mamba-2.8B in bf16, random weights, as sessions run it.

    uv run python -m perf.gpu.first_token [--batches 1 8]

Pixels on the GPU go through encoder and connector; the 729 image embeddings and 64 of text through the language model;
the id of the first token is read by the host. The parts are timed alone as well. *Eager* launches layer by layer. The
floor is the matrix products of all parts, recorded as a CUDA graph.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from perf.lib.common import parser
from perf.lib.contests import matrices, products
from perf.lib.gpu import DEVICE, replayed, start
from perf.lib.gpu_contests import cell, measured, quotient
from perf.lib.gpu_models import CAPTURED
from perf.lib.gpu_trained import SMALLEST, SPEC
from perf.lib.tables import Run, table
from torch import Tensor

from vlm_core.model import VLM
from vlm_core.model_folder.assemble import build
from vlm_core.spec.spec import load_spec

TEXT = 64
COLUMNS = [
    "",
    "whole / floor",
    "whole, ms",
    "encoder and connector, ms",
    "prompt, ms",
    "eager, ms",
    "floor, ms",
]


def warmed(run: Callable[[], Any]) -> Run:
    run = torch.inference_mode()(run)
    for _ in range(CAPTURED):
        run()
    return run


def eager(model: VLM, ids: Tensor, mask: Tensor, pixels: Tensor) -> Run:
    def run() -> Any:
        hidden, _ = model.llm(model.embed(ids, mask, model.connector(model.encoder(pixels))))
        return model.llm.logits(hidden[:, -1]).argmax(-1).tolist()

    return torch.inference_mode()(run)


def floor(model: VLM, batch: int, length: int) -> Run:
    """Linear layers of the encoder act on its grid, those of the rest on their positions."""
    grid = model.image_tokens_by_default
    counts = {"encoder": grid, "connector": grid, "llm": length}
    weights = [(batch * n, w) for part, n in counts.items() for w in matrices(getattr(model, part))]
    return replayed(products(weights))


def rows(model: VLM, options: argparse.Namespace) -> Iterator[list[str]]:
    grid = model.image_tokens_by_default
    for batch in options.batches:
        pixels = torch.randn(batch, 3, *model.encoder.image_size, dtype=torch.bfloat16)
        ids = torch.randint(model.llm.vocab_size, (batch, grid + TEXT))
        mask = (torch.arange(grid + TEXT) < grid).expand(batch, -1)
        with torch.inference_mode():
            embeds = model.encode_images(pixels)

        def prompt(embeds: Tensor, ids: Tensor = ids, mask: Tensor = mask) -> Any:
            logits, _ = model.prefill(model.embed(ids, mask, embeds))
            return logits.argmax(-1).tolist()

        def whole(pixels: Tensor = pixels, prompt: Callable[[Tensor], Any] = prompt) -> Any:
            return prompt(model.encode_images(pixels))

        contestants: dict[str, Callable[[], Run]] = {
            "whole": lambda whole=whole: warmed(whole),
            "image": lambda pixels=pixels: warmed(lambda: model.encode_images(pixels)),
            "prompt": lambda prompt=prompt, embeds=embeds: warmed(lambda: prompt(embeds)),
            "eager": lambda i=ids, m=mask, p=pixels: eager(model, i, m, p),
            "floor": lambda n=batch: floor(model, n, grid + TEXT),
        }
        times = {name: measured(make, options.rounds).seconds for name, make in contestants.items()}
        yield [
            f"batch {batch}",
            quotient(times["whole"], times["floor"]),
            *(cell(1e3 * seconds) for seconds in times.values()),
        ]


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options = start(arguments)
    options.batches = [1] if options.smoke else options.batches
    spec = load_spec(SPEC, ["encoder.pretrained=false", *(SMALLEST if options.smoke else [])])[0]
    model = build(spec, weights=False, dtype=torch.bfloat16).eval()
    title = f"From an image to the first token (median of {options.rounds} rounds), on {DEVICE.type}"
    table(title, COLUMNS, rows(model, options))


if __name__ == "__main__":
    main()
