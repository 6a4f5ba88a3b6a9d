"""Mamba-1 language model with the parameter names of the `state-spaces` checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from vlm_core.interfaces import PADDING, LanguageModel, Sampler, Tokenizer
from vlm_core.io.files import read_json
from vlm_core.numerics.cuda_graphs import CudaGraphs, usable
from vlm_core.numerics.state_tensors import check_state_tensors
from vlm_llms.mamba.buckets import padded_to_bucket
from vlm_llms.mamba.cuda_graph import Buffers, CudaGraphDecoder, IdleDecoders
from vlm_llms.mamba.slots import MambaSlots
from vlm_llms.mamba.state import MambaState, buffers_of, copied, initial_buffers, state_buffers, state_of
from vlm_llms.tokenizer.tokenizer import FastTokenizer
from vlm_ssm import (
    MambaMixer,
    SegmentBoundaries,
    SSMState,
    add_norm_mix,
    boundaries_of,
    cast_parameters,
    linear,
)
from vlm_ssm.layers import decode
from vlm_ssm.layers.chunked_inference import in_pieces, piece_length
from vlm_ssm.layers.hooked_modules import add_rms_norm, has_no_hooks, plain
from vlm_ssm.mamba_layer import MambaStack

ASSET = "mamba.json"
EPS = 1e-5
GRAPH_POSITIONS = 8192
"""Positions of a batch beyond which computing takes longer than launching: such a prefill is no CUDA graph."""


class Block(nn.Module):
    """residual += out; out = mixer(norm(residual)). Sum and norm are one pass over memory.

    The residual is fp32 whatever the dtype of the weights.
    """

    def __init__(self, mixer: MambaMixer, dim: int) -> None:
        super().__init__()
        self.norm, self.mixer = nn.RMSNorm(dim, eps=EPS), mixer

    def forward(
        self,
        residual: Tensor,
        out: Tensor | None,
        boundaries: SegmentBoundaries | None,
        state: SSMState | None,
    ) -> tuple[Tensor, Tensor, SSMState]:
        return add_norm_mix(residual, out, self.norm, EPS, self.mixer, boundaries, state)


class Backbone(nn.Module):
    """Embedding, blocks, final norm."""

    def __init__(
        self, embedding: nn.Embedding, layers: Sequence[nn.Module], dim: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.embedding, self.layers = embedding, nn.ModuleList(layers)
        self.norm_f = nn.RMSNorm(dim, eps=EPS, dtype=dtype)


def _wide(index: Tensor, x: Tensor) -> Tensor:
    """(B, T) positions as an index into (B, T, M)."""
    return index.unsqueeze(-1).expand_as(x)


class MambaLM(LanguageModel):
    """Mamba-1 with RMSNorm before each mixer, an fp32 residual and the output tied to the embedding.

    Parameters have `dtype`, except those in `SelectiveSSM.keeps_fp32`.
    """

    joins_states = True
    prefill_chunk = 8192

    def __init__(
        self,
        d_model: int,
        n_layer: int,
        vocab_size: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        *,
        init_std: float = 0.02,
        dtype: torch.dtype = torch.float32,
        load_tokenizer: Callable[[], Tokenizer],
    ) -> None:
        super().__init__(load_tokenizer)
        self.dim, self.vocab_size = d_model, vocab_size
        self._prefill_graphs, self._decoders = CudaGraphs(), IdleDecoders()
        self.shape = {
            "d_model": d_model,
            "n_layer": n_layer,
            "vocab_size": vocab_size,
            "d_state": d_state,
            "d_conv": d_conv,
            "expand": expand,
            "dt_rank": dt_rank,
        }
        layers = []
        for _ in range(n_layer):
            layers.append(Block(MambaMixer(d_model, d_state, d_conv, expand, dt_rank), d_model))
            cast_parameters(layers[-1], dtype)
        embedding = nn.Embedding(vocab_size, d_model)  # fp32: torch 2.8 draws other numbers in bf16
        self.backbone = Backbone(embedding, layers, d_model, dtype)
        self._init(n_layer, init_std)
        embedding.to(dtype)

    @torch.no_grad()
    def _init(self, n_layer: int, std: float) -> None:
        """As the released models: embeddings with a small std, output projections scaled by 1/√n_layer."""
        nn.init.normal_(self.backbone.embedding.weight, std=std)
        for block in self.backbone.layers:
            block.mixer.out_proj.weight /= math.sqrt(n_layer)  # pyright: ignore

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.backbone.embedding(input_ids)

    def forward(
        self, x: Tensor, *, segments: Tensor | None = None, state: MambaState | None = None
    ) -> tuple[Tensor, MambaState]:
        if state is not None and segments is None and decode.can_fuse(x, mixers := self._plain_mixers()):
            return self._step(x, mixers, state)
        boundaries = order = None
        if segments is not None:  # whatever is in it: asking would make the host wait for a GPU
            order = (segments != PADDING).int().argsort(dim=1, stable=True)  # padding to the front
            x, boundaries = x.gather(1, _wide(order, x)), boundaries_of(segments.gather(1, order))
        if length := self._piece_length(x):
            hidden, state = in_pieces(self._run_blocks, x, boundaries, state, length)
        else:
            hidden, state = self._run_blocks(x, boundaries, state)
        if order is not None:
            hidden = hidden.gather(1, _wide(order.argsort(dim=1), hidden))
        return hidden, state

    def _piece_length(self, x: Tensor) -> int | None:
        """Positions of a piece if `forward` computes x in pieces: a long inference on a CPU, every module plain."""
        if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        mixers, dtype = self._plain_mixers(), self.backbone.norm_f.weight.dtype
        length = piece_length(x, mixers[0].d_inner) if mixers else 0
        if not 0 < length < x.shape[1] or not all(mixer.can_fuse(dtype) for mixer in mixers):
            return None
        return length

    def _run_blocks(
        self, x: Tensor, boundaries: SegmentBoundaries | None, state: MambaState | None
    ) -> tuple[Tensor, MambaState]:
        """x (B, T, M), padding in front only -> the last norm's output (B, T, M), and the state after it."""
        residual, out, states, buffers = x.float(), None, [], []
        # a CUDA graph has memory of its own, and each copy is a launch
        gather = not torch.is_grad_enabled() and not (x.is_cuda and torch.cuda.is_current_stream_capturing())
        for i, block in enumerate(self.backbone.layers):
            residual, out, layer_state = block(residual, out, boundaries, state[i] if state else None)
            if not buffers and gather:
                buffers = state_buffers(layer_state, len(self.backbone.layers))
            states.append(copied(layer_state, buffers[i]) if buffers else layer_state)
        _, hidden = add_rms_norm(residual, out, self.backbone.norm_f, EPS)
        return hidden, MambaState(states)

    @property
    def blocks(self) -> list[Block]:
        return cast(list[Block], list(self.backbone.layers))

    def _plain_mixers(self) -> list[MambaMixer]:
        """The mixers of all blocks; an empty list if a block or norm is hooked, wrapped or replaced."""
        ready = plain(self.backbone.norm_f, nn.RMSNorm) and all(
            type(b) is Block and has_no_hooks(b) and plain(b.norm, nn.RMSNorm) for b in self.blocks
        )
        return [b.mixer for b in self.blocks] if ready else []

    def _stack(self, mixers: list[MambaMixer]) -> MambaStack:
        return MambaStack(mixers, [b.norm.weight for b in self.blocks], self.backbone.norm_f.weight, EPS)

    def _step(
        self, x: Tensor, mixers: list[MambaMixer], state: MambaState, memory: Buffers | None = None
    ) -> tuple[Tensor, MambaState]:
        """One token, all layers in one call; the state after it is in `memory`, if given."""
        convs, ssms = [s.conv for s in state], [s.ssm for s in state]
        hidden, *after = decode.fused_decode_step(x, self._stack(mixers), convs, ssms, memory)
        return hidden, state_of(after)

    @torch.inference_mode()
    def _step_in_place(self, x: Tensor, buffers: Buffers) -> Tensor:
        """One token x (B, 1, M) -> hidden states; `buffers` are the states before and after it."""
        if decode.can_fuse(x, mixers := self._plain_mixers()):
            return self._step(x, mixers, state_of(buffers), buffers)[0]
        hidden, state = self(x, state=state_of(buffers))
        for buffer, after in zip(buffers, buffers_of(state), strict=True):
            buffer.copy_(after)
        return hidden

    def prefill(
        self, x: Tensor, *, segments: Tensor | None = None, state: MambaState | None = None
    ) -> tuple[Tensor, MambaState]:
        """As `LanguageModel.prefill`; on a GPU padded to a few lengths, each of which becomes a CUDA graph."""
        if not self._as_graph(x):
            return cast(tuple[Tensor, MambaState], super().prefill(x, segments=segments, state=state))
        inputs = self._graph_inputs(x, segments, state)
        logits, *after = self._prefill_graphs.call(self._last_logits, [self], *inputs)
        return logits, state_of(after)

    def next_state(self, x: Tensor, *, state: MambaState | None = None) -> MambaState:
        """As `LanguageModel.next_state`; on a GPU a CUDA graph, as `prefill`."""
        if not self._as_graph(x):
            return self(x, state=state)[1]
        return state_of(
            self._prefill_graphs.call(self._buffers_after, [self], *self._graph_inputs(x, None, state))
        )

    @staticmethod
    def _as_graph(x: Tensor) -> bool:
        """Whether several positions x (B, T, M) are processed as a CUDA graph."""
        return x.shape[1] > 1 and x.shape[:2].numel() <= GRAPH_POSITIONS and usable(x)

    def _graph_inputs(
        self, x: Tensor, segments: Tensor | None, state: MambaState | None
    ) -> tuple[Tensor, ...]:
        """x and segments padded to a few lengths, and the state's buffers."""
        buffers = initial_buffers(self.blocks, len(x), x) if state is None else buffers_of(state)
        return *padded_to_bucket(x, segments), *buffers

    def _last_logits(self, x: Tensor, segments: Tensor, conv: Tensor, ssm: Tensor) -> tuple[Tensor, ...]:
        hidden, state = self(x, segments=segments, state=state_of((conv, ssm)))
        return self.logits(hidden[:, -1]), *buffers_of(state)

    def _buffers_after(self, x: Tensor, segments: Tensor, conv: Tensor, ssm: Tensor) -> tuple[Tensor, ...]:
        return buffers_of(self(x, segments=segments, state=state_of((conv, ssm)))[1])

    def state_from_tensors(self, tensors: Mapping[str, Tensor]) -> MambaState:
        like = dict(zip(SSMState._fields, self._initial_buffers(1), strict=True))
        return state_of(list(check_state_tensors(tensors, like, batch_dim=1).values()))

    def join_states(self, states: Sequence[MambaState]) -> MambaState:
        return state_of([torch.cat(parts, dim=1) for parts in zip(*map(buffers_of, states), strict=True)])

    def decode_slots(self, count: int) -> MambaSlots:
        return MambaSlots(self._step_in_place, self._initial_buffers(count))

    def _initial_buffers(self, batch: int) -> Buffers:
        return initial_buffers(self.blocks, batch, self.backbone.embedding.weight)

    def cuda_graph_decoder(self, state: MambaState, sampler: Sampler) -> CudaGraphDecoder | None:
        """A CUDA graph a token, captured once for a batch size and sampler; None without a current GPU and Triton."""
        weight = self.backbone.embedding.weight
        if not usable(weight) or not plain(self.backbone.embedding, nn.Embedding):
            return None
        mixers, batch = self._plain_mixers(), len(state[0].conv)
        if not decode.can_fuse(weight.new_empty(batch, 1, self.dim), mixers):
            return None
        return self._decoders.take(
            (batch, sampler), [self], lambda: self._graph_decoder(mixers, batch, sampler)
        )

    def _graph_decoder(self, mixers: list[MambaMixer], batch: int, sampler: Sampler) -> CudaGraphDecoder:
        weight = self.backbone.embedding.weight
        step = decode.gpu_step(weight.device)

        def decode_token(ids: Tensor, before: Buffers, after: Buffers) -> Tensor:
            x, (conv, ssm) = self.embed(ids.unsqueeze(1)), (t.unbind(0) for t in before)
            hidden, _, _ = step(x, self._stack(mixers), conv, ssm, after)
            return self.logits(hidden[:, -1])

        buffers = self._initial_buffers(batch)
        return CudaGraphDecoder(decode_token, sampler, buffers, self.vocab_size, weight.dtype, state_of)

    def output_projection(self) -> tuple[Tensor, Tensor | None] | None:
        """The embedding's weight and no bias; None if the embedding is wrapped."""
        weight = self.backbone.embedding.weight
        return (weight, None) if isinstance(weight, nn.Parameter) else None

    def logits(self, hidden: Tensor) -> Tensor:
        return linear(hidden, self.backbone.embedding.weight)

    def save_assets(self, folder: Path) -> None:
        super().save_assets(folder)
        (folder / ASSET).write_text(json.dumps(self.shape, indent=1) + "\n")


def from_folder(assets: Path) -> MambaLM:
    """The architecture that `save_assets` wrote, without weights; the tokenizer is read when first used."""
    shape = read_json(assets / ASSET)
    return MambaLM(**shape, load_tokenizer=lambda: FastTokenizer.load(assets))
