"""The state of a Mamba-1 language model: a value for each layer, or all layers' in two tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlm_llms.mamba.cuda_graph import Buffers
from vlm_ssm import MambaMixer, SSMState


class MambaState(tuple[SSMState, ...]):
    """The state of each layer; its size does not depend on the text's length."""

    def clone(self) -> MambaState:
        return MambaState(SSMState(s.conv.clone(), s.ssm.clone()) for s in self)

    def expand(self, n: int) -> MambaState:
        return MambaState(
            SSMState(s.conv.repeat_interleave(n, 0), s.ssm.repeat_interleave(n, 0)) for s in self
        )

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for layer in self for tensor in layer)

    def to_tensors(self) -> dict[str, Tensor]:
        """`conv` (layers, B, W-1, E) and `ssm` (layers, B, E, S)."""
        return dict(zip(SSMState._fields, buffers_of(self), strict=True))


def initial_buffers(blocks: Sequence[Any], batch: int, like: Tensor) -> Buffers:
    """The state of all layers before the first position: (layers, B, W-1, E), and (layers, B, E, S) in fp32."""
    mixer: MambaMixer = blocks[0].mixer
    conv = like.new_zeros(len(blocks), batch, mixer.d_conv - 1, mixer.d_inner)
    return conv, conv.new_zeros(len(blocks), batch, mixer.d_inner, mixer.d_state, dtype=torch.float32)


def state_buffers(first: SSMState, layers: int) -> list[SSMState]:
    """One allocation for the states of all layers.

    Small states between the large temporary tensors would fragment the allocator's memory, ten MB a layer at width
    2560.
    """
    conv, ssm = (t.new_empty(layers, *t.shape) for t in first)
    return list(map(SSMState, conv.unbind(0), ssm.unbind(0)))


def copied(state: SSMState, buffer: SSMState) -> SSMState:
    """`buffer` with the values of `state`."""
    for old, new in zip(state, buffer, strict=True):
        new.copy_(old)
    return buffer


def state_of(buffers: Sequence[Tensor]) -> MambaState:
    """(layers, B, W-1, E) and (layers, B, E, S) as the state of each layer."""
    conv, ssm = buffers
    return MambaState(map(SSMState, conv.unbind(0), ssm.unbind(0)))


def buffers_of(state: MambaState) -> Buffers:
    """The inverse of `state_of`."""
    return torch.stack([s.conv for s in state]), torch.stack([s.ssm for s in state])
