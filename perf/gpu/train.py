"""Training steps of VL-Mamba-2.8B on one GPU, random weights: tokens a second, share of the peak, memory as estimated.

    uv run python -m perf.gpu.train

Each stage of the spec trains its own parts under bf16 autocast with AdamW: one image and 256 positions of text a
sample, as `--check` assumes, a step a micro-batch. The share of the peak (MFU) divides `--check`'s FLOPs of such a
step by its time and the GPU's peak rate. The estimate is that of `--check --gpus 1`, which counts no temporary buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from perf.lib.common import parser
from perf.lib.gpu import DEVICE, clock, gigabytes, peak, reset, start
from perf.lib.tables import number, ratio, table, turns

from vlm_core.diagnose.costs.estimate import TEXT_TOKENS, Assumptions, StageEstimate, estimate_costs
from vlm_core.diagnose.costs.gpus import GPUS
from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.model import PARTS, VLM
from vlm_core.model_folder.assemble import build
from vlm_core.spec.spec import Spec, load_spec

SPEC = Path(__file__).parents[2] / "specs" / "vl-mamba-2.8b.yaml"
SMOKE = [
    "encoder={type: timm, model: vit_tiny_patch16_224, model_args: {depth: 2}, image_size: 32}",
    "llm={type: mamba, d_model: 32, n_layer: 2, vocab_size: 96}",
    "train.max_length=300",
]
COLUMNS = [
    "stage",
    "micro-batch",
    "tokens/s",
    "samples/s",
    "MFU",
    "peak GB",
    "estimate GB",
    "peak / estimate",
    "ms a step",
]


def peak_rate() -> float:
    """FLOP/s by the maker's data sheet; nan for a device that the table doesn't name."""
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else ""
    words = name.replace("-", " ").split()
    return next((g.peak for g in GPUS.values() if g.name.split("-")[0] in words), float("nan"))


def step(model: VLM, advice: StageEstimate) -> Callable[[], object]:
    """A micro-batch forward and backward, and the optimizer."""
    for part in PARTS:
        getattr(model, part).requires_grad_(part in advice.facts.trainable)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=DEVICE.type == "cuda")
    grid, batch, length = model.image_tokens_by_default, advice.micro, advice.length
    pixels = torch.rand(batch, 3, *model.encoder.image_size)
    ids = torch.randint(model.llm.vocab_size, (batch, length))
    image_mask = (torch.arange(length) < grid).expand(batch, -1)

    def run() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            hidden, _ = model(ids, image_mask, pixels)
            logits = model.llm.logits(hidden[:, grid - 1 : -1].flatten(0, 1))
        F.cross_entropy(logits.float(), ids[:, grid:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def rows(spec: Spec, told: list[StageEstimate], rounds: int) -> Iterator[list[str]]:
    for advice in told:
        reset()
        model = build(spec, weights=False).train()
        time = turns({"step": step(model, advice)}, rounds, clock=clock)["step"].median
        found, expected = peak(), advice.memory["DDP"].total / 1e9
        del model
        samples = advice.micro / time
        mfu = samples * advice.flops / peak_rate()
        yield [
            advice.facts.name,
            str(advice.micro),
            number(samples * advice.length),
            number(samples),
            f"{mfu:.0%}" if mfu == mfu else "",
            gigabytes(found),
            number(expected),
            ratio(found / expected) if found == found else "",
            number(time * 1e3),
        ]


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the spec")
    options = start(arguments)
    spec = load_spec(SPEC, ["encoder.pretrained=false", *(SMOKE if options.smoke else []), *options.set])[0]
    with torch.device("cpu"):
        told = estimate_costs(
            spec, build_on_meta(spec), Assumptions(text=16 if options.smoke else TEXT_TOKENS)
        ).stages
    table(
        f"Training on one GPU (median of {options.rounds} steps)", COLUMNS, rows(spec, told, options.rounds)
    )


if __name__ == "__main__":
    main()
