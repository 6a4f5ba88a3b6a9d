"""Decoding as a CUDA graph: all launches of a token are one, and the state changes in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlm_core.ssm import MambaMixer, SSMState
from vlm_core.ssm.gpu_step import stack

if TYPE_CHECKING:
    from vlm_llms.mamba import MambaLM, MambaState

WARM_UP = 2  # runs before the recording, in which kernels are compiled and libraries find their memory


class RecordedMamba:
    """One token a call; the model's weights must stay where they are."""

    def __init__(self, model: MambaLM, mixers: list[MambaMixer], state: MambaState) -> None:
        self.model, self.mixers, self._type = model, mixers, type(state)
        dtype = model.backbone.embedding.weight.dtype
        self.conv = torch.stack([s.conv.to(dtype) for s in state])
        self.ssm = torch.stack([s.ssm.float() for s in state])
        self.ids = torch.zeros(self.conv.shape[1], dtype=torch.long, device=self.conv.device)
        before = self.conv.clone(), self.ssm.clone()
        self.graph, self.out = self._recorded()
        self.conv.copy_(before[0])
        self.ssm.copy_(before[1])

    def _recorded(self) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Recording runs nothing, warming up does, on whatever the state is."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self._run()
        return graph, out

    def _run(self) -> Tensor:
        x, (norms, last_norm, eps) = self.model.embed(self.ids.unsqueeze(1)), self.model.norms()
        conv, ssm = self.conv.unbind(0), self.ssm.unbind(0)
        hidden, _, _ = stack(x, self.mixers, conv, ssm, norms, last_norm, eps, (self.conv, self.ssm))
        return self.model.logits(hidden[:, -1])

    def __call__(self, ids: Tensor) -> Tensor:
        """Ids (B) -> logits (B, V), which the next call overwrites."""
        self.ids.copy_(ids)
        self.graph.replay()
        return self.out

    def state(self) -> MambaState:
        """A copy."""
        return self._type(map(SSMState, self.conv.clone().unbind(0), self.ssm.clone().unbind(0)))
