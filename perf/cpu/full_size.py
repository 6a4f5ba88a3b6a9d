"""The whole VL-Mamba-2.8B with random weights in bf16: assembled, saved, loaded, and asked about an image.

    uv run python -m perf.cpu.full_size [--folder DIR]

Needs 14 GB of memory and 7 GB of disk below DIR, which are given back. Assembling and using are processes of their own,
so that each one's peak memory is its own. Floors are measured in the same process: for image and prompt the matrix
products of the linear layers alone, in fp32 where the CPU has no bf16; for one token, reading as many bytes as the
language model has. The files were just written, so the system still holds them in memory. The tokenizer is learnt from
easy-VQA, as the real one is a download.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from perf.lib.common import parser, start
from perf.lib.contests import inference, matrices, on, products
from perf.lib.tables import Run, compare, number, ratio, table

from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.io.images import load_image
from vlm_core.model import PARTS, VLM
from vlm_core.model_folder import assemble
from vlm_core.model_folder.weights import WEIGHTS
from vlm_core.numerics.low_precision_matmul import native
from vlm_core.runtime.peak_rss import peak_rss
from vlm_core.spec.spec import Spec, load_spec
from vlm_core.text.render import IMAGE, Message, render

ROOT = Path(__file__).parents[2]
SPEC, PICTURE = ROOT / "specs" / "vl-mamba-2.8b.yaml", ROOT / "docs" / "img" / "triangle.png"
TOKENIZER = "{vocab_size: 384, dataset: {type: easy-vqa, split: train, images: false}}"
SMOKE = [
    "encoder={type: timm, model: vit_tiny_patch16_224, model_args: {depth: 2}, image_size: 32}",
    f"llm={{type: mamba, d_model: 32, n_layer: 2, tokenizer: {TOKENIZER}}}",
]
BANDWIDTH = 2**30  # bytes, far more than any cache holds
Row = list[str]


def spec(smoke: bool) -> Spec:
    return load_spec(
        SPEC, ["train=null", "template=short", *(SMOKE if smoke else [f"llm.tokenizer={TOKENIZER}"])]
    )[0]


def step(name: str, weights: int, run: Callable[[], Any]) -> tuple[Row, Any]:
    """A row of seconds and peak memory so far, and what `run` returned."""
    begin = time.perf_counter()
    result = run()
    seconds, held = time.perf_counter() - begin, peak_rss()
    share = ratio(held / weights) if weights else ""
    return [name, number(seconds), f"{held / 1e9:.2f}", share], result


def make(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Assemble and save."""
    torch.set_num_threads(options.threads)
    plan = spec(options.smoke)
    built, model = step("assemble", 0, lambda: assemble.build(plan, weights=False, dtype=torch.bfloat16))
    saved, _ = step("save", 0, lambda: assemble.save(model, plan, folder))
    for row in (built, saved):
        row[3] = ratio(float(row[2]) * 1e9 / size(folder))
    return [built, saved]


def size(folder: Path) -> int:
    """Bytes of all weights."""
    return sum((folder / part / WEIGHTS).stat().st_size for part in PARTS)


def use(options: argparse.Namespace, folder: Path, rows: list[Row]) -> None:
    """Load, answer, and only then measure speed, which needs memory of its own."""
    torch.set_num_threads(options.threads)
    weights = size(folder)
    loaded, (model, plan) = step("load", weights, lambda: assemble.load(folder))
    pixels = model.encoder.transform(load_image(PICTURE))
    question = Message("user", (IMAGE, "\n", "what color is the shape?"))
    sample = render(plan.template, [question], model.llm.tokenizer, [model.image_tokens(pixels)])
    session = Session(model)

    def answer(tokens: int) -> list[Any]:
        session.prefill([sample], [pixels])
        return list(session.tokens(GenerationConfig(max_new_tokens=tokens)))

    first, _ = step("image, prompt and 8 tokens", weights, lambda: answer(8))
    columns = ["", "seconds", "peak memory so far, GB", "peak / weights"]
    table(f"Memory: {weights / 1e9:.2f} GB of bf16 weights", columns, [*rows, loaded, first])
    speed(model, sample.input_ids, pixels[None], options.rounds)


def speed(model: VLM, ids: list[int], pixels: torch.Tensor, rounds: int) -> None:
    """Image and prompt once a round without a further warm-up: the answer before was one, and they are long."""
    visual = on("numba", inference(lambda: model.encode_images(pixels)))
    grid = model.image_tokens(pixels[0])
    x = torch.randn(1, len(ids), model.llm.dim, dtype=torch.bfloat16)
    cases = [
        (
            f"image: encoder and connector, {grid} tokens",
            {"ours": visual, "floor": floor(grid, [*matrices(model.encoder), *matrices(model.connector)])},
        ),
        (
            f"prefill of {len(ids)} tokens",
            {
                "ours": on("numba", inference(lambda: model.forward_embeds(x)[0])),
                "floor": floor(len(ids), matrices(model.llm)),
            },
        ),
    ]
    compare("Image and prompt", ["ours", "floor"], [("ours", "floor")], cases, rounds, warm_up=False)
    steps = {"ours": token(model, x), "floor": reading(model.llm)}
    compare(
        "One token", ["ours", "floor"], [("ours", "floor")], [("2.8b", steps)], 8 * rounds, ["ours", "floor"]
    )


def floor(tokens: int, weights: list[torch.Tensor]) -> Run:
    """The products alone; in fp32, with one matrix for each shape, where the CPU has no bf16 instructions."""
    if not native(weights[0].dtype):
        stand_in = {shape: torch.randn(shape) for shape in {w.shape for w in weights}}
        weights = [stand_in[w.shape] for w in weights]
    return products([(tokens, w) for w in weights])


def token(model: VLM, x: torch.Tensor) -> Run:
    """Each call is one more token of greedy decoding, as `vlm-chat` takes it."""
    session = Session(model)
    with torch.inference_mode():
        logits, session._state = model.prefill(x[:, :8], None, None)
        session._predict(logits)
    stream = session.tokens(GenerationConfig(max_new_tokens=10**6))
    return lambda: next(stream)


def reading(model: torch.nn.Module) -> Run:
    """As many bytes as the weights have, read as fp32 by all threads; the tied embedding once."""
    count = sum(p.numel() * p.element_size() for p in model.parameters())
    whole, rest = divmod(count, BANDWIDTH)
    block = torch.ones(min(count, BANDWIDTH) // 4)

    def run() -> None:
        for _ in range(whole):
            block.sum()
        block[: rest // 4].sum()

    return run


def main() -> None:
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--folder", type=Path, help="where the 7 GB go; default: the system's own place")
    options = start(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place) / "model"
        rows = apart(make, options, folder)
        apart(use, options, folder, rows)


def apart(run: Callable[..., Any], *arguments: Any) -> Any:
    """In a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


if __name__ == "__main__":
    main()
