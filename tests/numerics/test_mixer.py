"""The convolution and the Mamba layer against naive definitions."""

import torch
import torch.nn.functional as F

from vlm_core.interfaces import PADDING
from vlm_core.ssm import MambaMixer
from vlm_core.ssm.conv import causal_conv


def test_convolution_equals_torch():
    x, weight, bias = torch.randn(2, 11, 6), torch.randn(6, 4), torch.randn(6)
    wanted = F.conv1d(x.transpose(1, 2), weight.unsqueeze(1), bias, padding=3, groups=6)[..., :11]
    y, state = causal_conv(x, weight, bias)
    torch.testing.assert_close(y, wanted.transpose(1, 2))
    assert torch.equal(state, x[:, -3:])


def test_convolution_window_stays_in_its_segment():
    x, weight = torch.randn(1, 9, 2), torch.randn(2, 4)
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2]])
    y, state = causal_conv(x, weight, None, segments=segments)
    for start, end in ((0, 4), (4, 6), (6, 9)):
        torch.testing.assert_close(y[:, start:end], causal_conv(x[:, start:end], weight, None)[0])
    assert torch.equal(state, x[:, 6:])


def test_convolution_state_waits_behind_padding():
    """Padding in front of a later piece does not separate it from what came before."""
    x, weight = torch.randn(1, 8, 2), torch.randn(2, 4)
    whole, end = causal_conv(x, weight, None)
    _, state = causal_conv(x[:, :5], weight, None)
    padded = torch.cat([torch.zeros(1, 2, 2), x[:, 5:]], dim=1)
    segments = torch.tensor([[PADDING, PADDING, 0, 0, 0]])
    y, after = causal_conv(padded, weight, None, state, segments)
    torch.testing.assert_close(y[:, 2:], whole[:, 5:])
    torch.testing.assert_close(after, end)


def test_short_segment_leaves_no_foreign_state():
    x = torch.randn(1, 5, 2)
    _, state = causal_conv(x, torch.randn(2, 4), None, segments=torch.tensor([[0, 0, 0, 0, 1]]))
    assert torch.equal(state[:, :2], torch.zeros(1, 2, 2))
    assert torch.equal(state[:, 2], x[:, 4])


def test_mixer_initialisation_follows_mamba():
    """A = -1 … -S in every channel, D = 1, softplus(bias) within [1e-3, 1e-1]."""
    mixer = MambaMixer(32, d_state=8)
    assert torch.allclose(mixer.A_log.exp(), torch.arange(1.0, 9).expand(64, 8))
    assert torch.equal(mixer.D, torch.ones(64))
    dt = F.softplus(mixer.dt_proj.bias)
    assert dt.min() >= 1e-3 - 1e-6
    assert dt.max() <= 0.1 + 1e-6
    assert set(dict(mixer.named_parameters())) == {
        "A_log", "D", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias",
        "in_proj.weight", "out_proj.weight",
    }  # fmt: skip
