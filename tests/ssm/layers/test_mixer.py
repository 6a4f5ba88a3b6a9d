"""The Mamba layer: its initialisation, and every backend against the reference."""

import pytest
import torch
import torch.nn.functional as F
from cases import FAST, assert_near, error, gradients

from vlm_core.interfaces import PADDING
from vlm_ssm import MambaMixer, SSMState

SEGMENTS = torch.tensor([[PADDING] * 3 + [0] * 20 + [1] * 17, [4] * 30 + [7] * 10])


def test_mixer_initialisation_follows_mamba():
    """A = -1 … -S in every channel, D = 1, softplus(bias) within [1e-3, 1e-1]."""
    mixer = MambaMixer(32, d_state=8)
    assert torch.allclose(mixer.A_log.exp(), torch.arange(1.0, 9).expand(64, 8))
    assert torch.equal(mixer.D, torch.ones(64))
    dt = F.softplus(mixer.dt_proj.bias)
    assert dt.min() >= 1e-3 - 1e-6
    assert dt.max() <= 0.1 + 1e-6
    assert set(dict(mixer.named_parameters())) == {
        "A_log",
        "D",
        "conv1d.weight",
        "conv1d.bias",
        "x_proj.weight",
        "dt_proj.weight",
        "dt_proj.bias",
        "in_proj.weight",
        "out_proj.weight",
    }


def run(mixer, backend, monkeypatch, segments=None, continued=False):
    """Output, states and the gradients of the input, the states before and every parameter."""
    monkeypatch.setenv("VLM_SCAN_BACKEND", backend)
    torch.manual_seed(1)
    like = mixer.in_proj.weight
    x = torch.randn(2, 40, like.shape[1]).to(like.dtype).requires_grad_()
    inputs, state = {"x": x} | dict(mixer.named_parameters()), None
    if continued:
        conv = torch.randn(2, mixer.d_conv - 1, mixer.d_inner).to(like.dtype)
        state = SSMState(conv, torch.randn(2, mixer.d_inner, mixer.d_state))
        inputs |= {name: t.requires_grad_() for name, t in state._asdict().items()}
    y, after = mixer(x, segments, state)
    return {"y": y} | after._asdict() | gradients([y, *after], inputs)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("width", "state", "taps"), [(12, 8, 4), (9, 1, 2), (24, 20, 4), (5, 3, 1)])
@pytest.mark.parametrize("segments", [None, SEGMENTS])
@pytest.mark.parametrize("continued", [False, True])
def test_mixer_equals_the_reference(backend, width, state, taps, segments, continued, monkeypatch):
    """Odd widths, windows from one tap on, segments behind padding, a state to continue."""
    torch.manual_seed(0)
    mixer = MambaMixer(width, d_state=state, d_conv=taps)
    if continued and taps == 1:
        pytest.skip("there is no conv state")
    found, wanted = (run(mixer, name, monkeypatch, segments, continued) for name in (backend, "reference"))
    assert_near(found, wanted, 5e-6)


@pytest.mark.parametrize("backend", FAST)
def test_bf16_mixer_equals_the_reference(backend, monkeypatch):
    """bf16 weights: as far from the fp32 layer as the reference is, or less."""
    torch.manual_seed(0)
    mixer = MambaMixer(24, d_state=8).bfloat16()
    exact = MambaMixer(24, d_state=8)
    exact.load_state_dict(mixer.state_dict())
    found, reference = (run(mixer, name, monkeypatch, SEGMENTS) for name in (backend, "reference"))
    wanted = run(exact, "reference", monkeypatch, SEGMENTS)
    for name, t in wanted.items():
        assert found[name].dtype == reference[name].dtype
        assert error(found[name], t) <= max(1e-2, 2 * error(reference[name], t)), name


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_mixer_without_bias_of_the_convolution(backend, monkeypatch):
    """As checkpoints with `conv_bias: false` have it."""
    torch.manual_seed(0)
    bare, zero = MambaMixer(9, d_state=3), MambaMixer(9, d_state=3)
    zero.load_state_dict(bare.state_dict())
    zero.conv1d.bias.data.zero_()
    bare.conv1d.bias = None
    found, wanted = (run(mixer, backend, monkeypatch) for mixer in (bare, zero))
    del wanted["grad conv1d.bias"]
    assert_near(found, wanted, 1e-6)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("cut", [1, 3, 33])
def test_pieces_equal_whole(backend, cut, monkeypatch):
    """A layer fed piece by piece, also by pieces shorter than its window."""
    monkeypatch.setenv("VLM_SCAN_BACKEND", backend)
    mixer, x, state, ys = MambaMixer(12, d_state=8), torch.randn(2, 40, 12), None, []
    whole, last = mixer(x)
    for piece in (x[:, :cut], x[:, cut : cut + 2], x[:, cut + 2 :]):
        y, state = mixer(piece, state=state)
        ys.append(y)
    assert_near({"y": torch.cat(ys, 1)} | state._asdict(), {"y": whole} | last._asdict(), 2e-6)
