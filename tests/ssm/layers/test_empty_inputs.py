"""Layers on no sequences and on no positions: results of the right shapes, and gradients of zero.

Not by the loop `reference`, which goes from position to position.
"""

import pytest
import torch
from cases import ALL

from vlm_core.interfaces import PADDING
from vlm_ssm import MambaMixer, boundaries_of


@pytest.mark.parametrize("backend", [name for name in ALL if name != "reference"])
@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0), (0, 0)])
def test_a_layer_and_its_gradients(backend, segmented, batch, length, monkeypatch):
    monkeypatch.setenv("VLM_SCAN_BACKEND", backend)
    mixer, x = MambaMixer(12, d_state=3), torch.randn(batch, length, 12, requires_grad=True)
    segments = torch.full((batch, length), PADDING) if segmented else None
    y, state = mixer(x, segments)
    assert y.shape == x.shape
    assert (state.conv.shape, state.ssm.shape) == ((batch, 3, 24), (batch, 24, 3))
    grads = torch.autograd.grad(y.sum(), [x, *mixer.parameters()], allow_unused=True)
    assert grads[0] is None or grads[0].shape == x.shape
    assert all(grad is None or not grad.any() for grad in grads)
    with torch.no_grad():
        assert mixer(x, segments)[0].shape == x.shape


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)])
def test_boundaries(batch, length):
    reset, history, left_pad = boundaries_of(torch.full((batch, length), PADDING))
    assert (reset.shape, history.shape, left_pad.tolist()) == ((batch, length), (batch, length), [0] * batch)
