"""The connectors' VSS module on a 27×27 grid against running a Mamba layer along each direction in turn, fp32.

    uv run python -m perf.cpu.connectors

A loop gathers the tokens along a route, runs the layer, puts them back and adds up. With shared parameters its layer
is transformers'; with `ssm` and `full` parameters it is our own numba layer, which shows what joining the directions
gives. Training uses transformers' `use_mambapy` path, because its loop's backward is quadratic in the tokens. The floor
is the matrix products alone, where what directions share is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal, NamedTuple

import torch
from perf.lib.common import need_mambapy, parser, start
from perf.lib.contestants import our_mixer, peer_mixer
from perf.lib.contests import agree, inference, on, products, training
from perf.lib.tables import Case, Run, compare
from torch import Tensor, nn

from vlm_connectors.scans import bsm, csm
from vlm_connectors.vss import VSS, tables
from vlm_ssm import MambaMixer

Parameters = Literal["shared", "ssm", "full"]


class Table(NamedTuple):
    kinds: Sequence[Parameters]
    training: bool
    peer: str


class Sizes(NamedTuple):
    widths: Sequence[int]
    grid: int


SHARED: Sequence[Parameters] = ("shared",)
OWN: Sequence[Parameters] = ("ssm", "full")
TABLES = [
    Table(SHARED, False, "transformers"),
    Table(SHARED, True, "mambapy"),
    Table(OWN, False, "own loop"),
    Table(OWN, True, "own loop"),
]
SCANS = {"BSM": bsm, "CSM": csm}
FULL, SMOKE = Sizes((1152, 2560), 27), Sizes((32,), 3)


class Loop(nn.Module):
    """A layer for each route (or the same one), one after the other: (N, H, W, D) -> (N, H, W, D)."""

    def __init__(self, mixers: Sequence[nn.Module], scan_order: Tensor) -> None:
        super().__init__()
        self.mixers, self.scan_order, self.back = nn.ModuleList(mixers), scan_order, scan_order.argsort(-1)

    def forward(self, v: Tensor) -> Tensor:
        rows, total = v.flatten(1, 2), torch.zeros(())
        for mixer, order, back in zip(self.mixers, self.scan_order, self.back, strict=True):
            y = mixer(rows.index_select(1, order))
            total = total + (y[0] if isinstance(y, tuple) else y).index_select(1, back)
        return total.view_as(v)


def own_layers(vss: VSS) -> list[nn.Module]:
    """The module's parameters as one whole MambaMixer a direction."""
    layers = [m for m in vss.mixers if isinstance(m, MambaMixer)]
    for ssm in vss.ssms:
        layer = MambaMixer(layers[0].in_proj.in_features)
        for name, part in [*ssm.named_children(), *ssm.named_parameters(recurse=False)]:
            setattr(layer, name, part)
        layer.in_proj, layer.out_proj = layers[0].in_proj, layers[0].out_proj
        layers.append(layer)
    return [*layers]


def floor(vss: VSS, tokens: int, directions: int, backward: bool) -> Run:
    """A shared x_proj or dt_proj acts on the tokens of every direction; in_proj and out_proj act on each once."""
    own = len(vss.ssms) + len(vss.mixers) > 1
    each = tokens if own else tokens * directions
    weights = [
        (each if name.endswith(("x_proj", "dt_proj")) else tokens, part.weight.detach())
        for name, part in vss.named_modules()
        if isinstance(part, nn.Linear)
    ]
    return products(weights, backward)


def pair(scan: str, kind: Parameters, width: int, grid: int, use_mambapy: bool) -> tuple[VSS, Loop]:
    """Our module, and the loop with the same weights."""
    vss, scan_order = VSS(width, SCANS[scan], parameters=kind), tables(SCANS[scan], grid, grid)
    if kind != "shared":
        return vss, Loop(own_layers(vss), scan_order)
    theirs = peer_mixer(width, use_mambapy)
    vss.mixers[0] = our_mixer(theirs, width)
    return vss, Loop([theirs] * len(scan_order), scan_order)


def case(vss: VSS, loop: Loop, v: Tensor, table: Table) -> dict[str, Run]:
    modules = {"ours": vss, table.peer: loop}
    runs = {name: on("numba", lambda m=m: m(v)) for name, m in modules.items()}
    forward = {name: inference(run) for name, run in runs.items()}
    agree(forward["ours"](), forward[table.peer](), 1e-5)
    beneath = floor(vss, v.shape[1] * v.shape[2], len(loop.scan_order), table.training)
    if not table.training:
        return {**forward, "floor": beneath}
    steps = {name: training(run, [v, *modules[name].parameters()]) for name, run in runs.items()}
    return {**steps, "floor": beneath}


def cases(sizes: Sizes, table: Table) -> Iterator[Case]:
    widths = (
        sizes.widths if table.kinds == SHARED else sizes.widths[:1]
    )  # a width says enough where ours meets ours
    for kind, width, scan in product(table.kinds, widths, SCANS):
        vss, loop = pair(scan, kind, width, sizes.grid, use_mambapy=table.training)
        v = torch.randn(1, sizes.grid, sizes.grid, width, requires_grad=True)
        yield f"{scan}, {kind}, width {width}", case(vss, loop, v, table)


def main() -> None:
    options = start(parser(__doc__, rounds=3))
    need_mambapy()
    for table in TABLES:
        title = (
            f"VSS, {' and '.join(table.kinds)} parameters, {'training step' if table.training else 'forward'}"
        )
        found = cases(SMOKE if options.smoke else FULL, table)
        ratios = [(table.peer, "ours"), ("ours", "floor")]
        compare(title, ["ours", table.peer, "floor"], ratios, found, options.rounds)


if __name__ == "__main__":
    main()
