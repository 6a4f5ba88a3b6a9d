"""A Mamba layer as one operation and as separate ones, on the same inputs: outputs and every gradient."""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from cases import gradients
from torch import Tensor, nn

from vlm_core.interfaces import PADDING
from vlm_ssm import MambaMixer, SegmentBoundaries, SSMState, add_norm_mix, boundaries_of
from vlm_ssm.layers import mixer as mixers

EPS = 1e-5


class Case(NamedTuple):
    batch: int
    length: int
    taps: int = 4
    segmented: bool = False
    state: bool = False
    conv_bias: bool = True
    biases: bool = False
    norm: bool = False
    width: int = 10
    states: int = 3

    def layer(self) -> MambaMixer:
        torch.manual_seed(0)
        layer = MambaMixer(self.width, d_state=self.states, d_conv=self.taps)
        if not self.conv_bias:
            layer.conv1d.bias = None
        if self.biases:
            layer.in_proj, layer.out_proj = (
                nn.Linear(old.in_features, old.out_features) for old in (layer.in_proj, layer.out_proj)
            )
        return layer

    def segments(self) -> SegmentBoundaries | None:
        if not self.segmented:
            return None
        numbers = torch.randint(0, 4, (self.batch, self.length)).sort(1).values
        numbers[0, : self.length // 3] = PADDING
        return boundaries_of(numbers)


def run(
    case: Case, layer: MambaMixer, fused: bool, *, autocast: bool = False, last: bool = True
) -> dict[str, Tensor]:
    """Outputs and gradients by name; `last`: of the states after the layer, too."""
    torch.manual_seed(1)
    norm, segments = nn.RMSNorm(case.width, eps=EPS), case.segments()
    nn.init.uniform_(norm.weight)
    tensors = {"x": torch.randn(case.batch, case.length, case.width)}
    tensors["out"] = torch.randn(tensors["x"].shape).to(torch.bfloat16 if autocast else torch.float32)
    state = SSMState(
        torch.randn(case.batch, case.taps - 1, layer.d_inner),
        torch.randn(case.batch, layer.d_inner, case.states),
    )
    tensors |= {f"before {name}": t for name, t in state._asdict().items()}
    given = {name: t.requires_grad_() for name, t in tensors.items()}
    before = SSMState(given["before conv"], given["before ssm"]) if case.state else None
    device = tensors["x"].device.type
    with as_one_operation(fused), torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
        if case.norm:
            summed, y, after = add_norm_mix(given["x"], given["out"], norm, EPS, layer, segments, before)
        else:
            (y, after), summed = layer(given["x"], segments, before), given["x"]
    outputs = {"y": y, "summed": summed} | (after._asdict() if last else {})
    inputs = given | dict(layer.named_parameters()) | {"norm": norm.weight}
    grads = gradients([t for t in outputs.values() if t.requires_grad], used(inputs, case))
    return outputs | grads


def used(inputs: dict[str, Tensor], case: Case) -> dict[str, Tensor]:
    absent = set() if case.norm else {"out", "norm"}
    absent |= set() if case.state else {"before conv", "before ssm"}
    return {name: t for name, t in inputs.items() if name not in absent}


def as_one_operation(fused: bool) -> Any:
    """Context in which layers run as one operation on every backend, or never."""
    return patch.object(mixers, "fuses", lambda *_: fused)
