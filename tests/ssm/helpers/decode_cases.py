"""A Mamba layer, a token and a state for tests of the decoding step, and that step on numba and on plain torch."""

import torch

from vlm_ssm import MambaMixer, SSMState

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
DTYPES = list(LIMITS)


def mixer_of(width=24, state=8, taps=4, dtype=torch.float32, **options):
    """A layer with parameters that all matter."""
    torch.manual_seed(0)
    mixer = MambaMixer(width, d_state=state, d_conv=taps, **options)
    with torch.no_grad():
        mixer.A_log += 0.3 * torch.randn_like(mixer.A_log)
        mixer.D += torch.randn_like(mixer.D)
    return mixer.to(dtype).eval()


def token_and_state(mixer, dtype=torch.float32, batch=1):
    conv = torch.randn(batch, mixer.d_conv - 1, mixer.d_inner).to(dtype)
    return torch.randn(batch, 1, mixer.in_proj.in_features).to(dtype), SSMState(
        conv, torch.randn(batch, mixer.d_inner, mixer.d_state)
    )


def named(y, state):
    return {"y": y, "conv": state.conv, "ssm": state.ssm}


def fast_and_plain(module, x, state, monkeypatch):
    """The same call on numba and on plain torch."""
    made = []
    for backend in ("numba", "torch"):
        monkeypatch.setenv("VLM_SCAN_BACKEND", backend)
        with torch.no_grad():
            made.append(module(x, state=state))
    monkeypatch.delenv("VLM_SCAN_BACKEND")
    return made
