"""Connectors on a GPU: what each costs beside LLaVA's MLP, beside its matrix products alone, and on plain torch.

    uv run python -m perf.gpu.connectors

A grid of 27×27 features of SigLIP-SO400M (1152) becomes tokens of Mamba-2.8B (2560). fp32 parameters, autocast to
bf16, as in training, whose step is forward and backward to the gradient of every parameter and of the features.
*Kernels* are the connector's launches replayed as a CUDA graph: what the GPU needs. The floor is the products alone in
bf16, replayed as well, in which what directions share is computed once.
Without a GPU the same runs on the CPU's backends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import torch
from perf.lib.common import parser
from perf.lib.contests import agree, inference, on, products, training
from perf.lib.gpu import DEVICE, FAST, clock, replayed, start
from perf.lib.tables import Case, Run, compare
from torch import Tensor, nn

from vlm_connectors.configs import MLPConfig, VSSL2Config, VSSMLPConfig
from vlm_connectors.scans import bsm, csm
from vlm_connectors.vss import tables
from vlm_core.plugins.config import ConnectorConfig


class Sizes(NamedTuple):
    batches: tuple[int, ...]
    grid: int
    width: int
    model: int


FULL, SMOKE = Sizes((1, 8), 27, 1152, 2560), Sizes((1,), 3, 32, 64)
MLP = MLPConfig()
SCANS = {"bsm": bsm, "csm": csm}
CONFIGS: dict[str, ConnectorConfig] = {
    "MLP": MLP,
    **{f"VSS-MLP, {s.upper()}": VSSMLPConfig(scan=s) for s in SCANS},
    **{f"VSS-L2, {s.upper()}": VSSL2Config(scan=s) for s in SCANS},
}


def computed(connector: nn.Module, features: Tensor) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            return connector(features)

    return forward


def floor(connector: nn.Module, config: ConnectorConfig, features: Tensor, backward: bool) -> Run:
    """x_proj and dt_proj act on the tokens of every direction, all others on each token once."""
    tokens, side = features[..., 0].numel(), features.shape[1]
    scan = getattr(config, "scan", None)
    directions = len(tables(SCANS[scan], side, side)) if scan else 1
    weights = [
        (tokens * (directions if n.endswith(("x_proj", "dt_proj")) else 1), m.weight.detach().bfloat16())
        for n, m in connector.named_modules()
        if isinstance(m, nn.Linear)
    ]
    return replayed(products(weights, backward))


def work(connector: nn.Module, features: Tensor, backward: bool) -> Callable[[], object]:
    run = computed(connector, features)
    return training(run, [features, *connector.parameters()]) if backward else inference(run)


def cases(sizes: Sizes, backward: bool) -> Iterator[Case]:
    for batch, (name, config) in product(sizes.batches, CONFIGS.items()):
        features = torch.randn(batch, sizes.grid, sizes.grid, sizes.width, requires_grad=True)
        connector, mlp = (c.build(sizes.width, sizes.model) for c in (config, MLP))
        run = work(connector, features, backward)
        runs: dict[str, Run] = {"kernels": replayed(on(FAST, run)), FAST: on(FAST, run)}
        if config is not MLP:
            runs["torch"] = on("torch", run)
            plain = inference(computed(connector, features))
            agree(on(FAST, plain)(), on("torch", plain)(), 1e-2)
            runs["MLP"] = on(FAST, work(mlp, features, backward))
        runs["floor"] = floor(connector, config, features, backward)
        yield f"{name}, batch {batch}", runs


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--batches", type=int, nargs="+", default=FULL.batches)
    options = start(arguments)
    sizes = SMOKE if options.smoke else FULL._replace(batches=tuple(options.batches))
    names = ["kernels", FAST, "MLP", "torch", "floor"]
    ratios = [("kernels", "floor"), (FAST, "floor"), (FAST, "MLP"), ("torch", FAST)]
    for title, backward in (("Connectors, forward", False), ("Connectors, forward and backward", True)):
        compare(title, names, ratios, cases(sizes, backward), options.rounds, clock=clock)


if __name__ == "__main__":
    main()
