"""Frames of a stream: VL-Mamba-2.8B in bf16, random weights, on one GPU.

    uv run python -m perf.gpu.frames [--group 1 8]

A frame goes through SigLIP and a connector, and its tokens through the language model, whose state goes on. With 729
tokens a frame the connector is the spec's, with 64 the learned queries of `state-query`. *Language model* continues the
state with embeddings that are there; *whole* starts from pixels on the GPU. A group of frames is encoded together and
read together, which is what a file allows; a camera's frames come one by one. The floor is the language model's matrix
products, recorded as a CUDA graph.
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

CONNECTORS = {729: [], 64: ["connector={type: state-query, queries: 64}"]}
COLUMNS = [
    "tokens a frame, frames together",
    "whole, frames/s",
    "language model, frames/s",
    "language model / floor",
    "whole, ms a frame",
    "language model, ms a frame",
]


def model_of(tokens: int, smoke: bool) -> VLM:
    changes = ["encoder.pretrained=false", *(SMALLEST if smoke else []), *CONNECTORS[tokens]]
    return build(load_spec(SPEC, changes)[0], weights=False, dtype=torch.bfloat16).eval()


def going_on(step: Callable[[Any], Any]) -> Run:
    """Each call goes on from the state of the one before."""
    state = None

    def run() -> None:
        nonlocal state
        state = step(state)

    run = torch.inference_mode()(run)
    for _ in range(CAPTURED + 1):
        run()
    return run


def row(model: VLM, group: int, options: argparse.Namespace) -> list[str]:
    pixels = torch.rand(group, 3, *model.encoder.image_size, dtype=torch.bfloat16)
    with torch.inference_mode():
        embeds = model.encode_images(pixels).flatten(0, 1)[None]
    positions, weights = embeds.shape[1], matrices(model.llm)

    def whole(state: Any, pixels: Tensor = pixels) -> Any:
        return model.next_state(model.encode_images(pixels).flatten(0, 1)[None], state)

    contestants: dict[str, Callable[[], Run]] = {
        "whole": lambda: going_on(whole),
        "llm": lambda: going_on(lambda state: model.next_state(embeds, state)),
        "floor": lambda: replayed(products([(positions, w) for w in weights])),
    }
    seconds = {name: measured(make, options.rounds).seconds / group for name, make in contestants.items()}
    return [
        f"{positions // group}, {group}",
        cell(1 / seconds["whole"]),
        cell(1 / seconds["llm"]),
        quotient(seconds["llm"], seconds["floor"]),
        cell(1e3 * seconds["whole"]),
        cell(1e3 * seconds["llm"]),
    ]


def rows(options: argparse.Namespace) -> Iterator[list[str]]:
    for tokens in CONNECTORS:
        model = model_of(tokens, options.smoke)
        for group in options.group:
            yield row(model, group, options)
        del model


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--group", type=int, nargs="+", default=[1, 8])
    options = start(arguments)
    options.group = [1, 2] if options.smoke else options.group
    table(f"Frames of a stream (median of {options.rounds} rounds), on {DEVICE.type}", COLUMNS, rows(options))


if __name__ == "__main__":
    main()
