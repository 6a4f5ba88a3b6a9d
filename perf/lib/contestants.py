"""Who is measured: our scan and layers and the peers' own code, on the same values.

The peers' scan is transformers' `mamba_selective_scan`, called as its mixer calls it: the Python loop, or mambapy's
`pscan` with `use_mambapy`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import MambaConfig, MambaModel
from transformers.models.mamba import modeling_mamba as peer
from transformers.utils import logging

from vlm_llms.mamba.mamba import MambaLM
from vlm_ssm import MambaMixer, accelerate, ops
from vlm_ssm.registration.inputs import ScanInputs

logging.set_verbosity_error()  # transformers says at each start that its CUDA kernels are missing

Inputs = dict[str, Tensor]


def scan_inputs(length: int, width: int, state: int = 16) -> Inputs:
    """What a layer gives its scan: u, dt, z (1, T, E), A (E, S), B, C (1, T, S), D, bias (E); Δ of 0.001 to 0.1."""
    step = torch.exp(torch.empty(width).uniform_(-6.9, -2.3))
    rows = {name: torch.randn(1, length, width) for name in ("u", "dt", "z")}
    return rows | {
        "A": -torch.arange(1.0, state + 1).repeat(width, 1),
        "B": torch.randn(1, length, state),
        "C": torch.randn(1, length, state),
        "D": torch.ones(width),
        "bias": step + torch.log(-torch.expm1(-step)),
    }


def by_channel(inputs: Inputs) -> Inputs:
    """The same with u and dt as (1, E, T) in memory, as transformers' convolution and dt_proj give them."""
    return inputs | {name: inputs[name].mT.contiguous() for name in ("u", "dt")}


def our_scan(i: Inputs, backend: str) -> Tensor:
    """-> y (1, T, E)."""
    inputs = ScanInputs(
        i["u"][None],
        i["dt"][None],
        i["A"][None],
        i["B"][None, :, :, None],
        i["C"][None, :, :, None],
        i["D"][None],
        i["bias"][None],
        i["z"][:, :, None],
        softplus=True,
    )
    y, _ = ops.scan(inputs, use=backend)
    return y.squeeze(2)


def peer_scan(i: Inputs, use_mambapy: bool) -> Tensor:
    """Inputs `by_channel` -> y (1, E, T)."""
    return peer.mamba_selective_scan(
        i["u"],
        i["dt"],
        i["A"],
        i["B"].mT,
        i["C"].mT,
        D=i["D"],
        z=i["z"].mT,
        delta_bias=i["bias"],
        delta_softplus=True,
        use_mambapy=use_mambapy,
    )


def peer_mixer(width: int, use_mambapy: bool = False) -> nn.Module:
    return peer.MambaMixer(MambaConfig(hidden_size=width, num_hidden_layers=1, use_mambapy=use_mambapy), 0)


def our_mixer(like: nn.Module, width: int) -> MambaMixer:
    """With the weights of a transformers mixer, whose names are the same."""
    mixer = MambaMixer(width)
    mixer.load_state_dict(like.state_dict())
    return mixer


def models(width: int, layers: int, vocabulary: int = 8) -> tuple[MambaLM, MambaModel]:
    """Ours and transformers', with the same random weights."""
    theirs = MambaModel(
        MambaConfig(hidden_size=width, num_hidden_layers=layers, vocab_size=vocabulary)
    ).eval()
    ours = MambaLM(width, layers, vocabulary, load_tokenizer=_no_tokenizer).eval()
    renamed = {k.replace("embeddings.", "embedding."): v for k, v in theirs.state_dict().items()}
    ours.backbone.load_state_dict(renamed)
    return ours, theirs


def accelerated(model: MambaModel) -> MambaModel:
    """The same weights in a second model, whose mixers vlm_ssm computes."""
    with torch.device("meta"):
        other = MambaModel(model.config).eval()
    other.load_state_dict(model.state_dict(), assign=True)
    return accelerate(other)


def _no_tokenizer() -> Any:
    raise AssertionError("nothing is measured on text")


def lower(model: nn.Module) -> None:
    """To bf16 in place; A_log and D stay fp32, as in the released models."""
    for name, parameter in model.named_parameters():
        if name.rsplit(".", 1)[-1] not in ("A_log", "D"):
            parameter.data = parameter.data.bfloat16()
