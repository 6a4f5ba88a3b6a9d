"""A language model reads a long input on a CPU in pieces of time."""

import pytest
import torch

from vlm_core.interfaces import PADDING
from vlm_llms.mamba.mamba import MambaLM
from vlm_ssm.layers import chunked_inference

LENGTH = 300


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("continued", [False, True])
@torch.no_grad()
def test_pieces_equal_the_whole(batch, segmented, continued, monkeypatch):
    """Padding anywhere, also over a whole piece; the given state is not changed."""
    torch.manual_seed(0)
    model = MambaLM(16, 3, 8, d_state=4, load_tokenizer=lambda: None).eval()
    x, segments = torch.randn(batch, LENGTH, 16), None
    live = torch.ones(batch, LENGTH, dtype=torch.bool)
    if segmented:
        segments = torch.zeros(batch, LENGTH, dtype=torch.long)
        segments[:, 150:] = 1
        segments[0, 100:170] = PADDING
        live = segments != PADDING
    state = model(torch.randn(batch, 5, 16))[1] if continued else None
    before = None if state is None else state.clone()
    assert model._piece_length(x) is None
    hidden, after = model(x, segments=segments, state=state)
    monkeypatch.setattr(chunked_inference, "ROWS", 64 * batch)
    assert model._piece_length(x) == 64
    pieces, after_pieces = model(x, segments=segments, state=state)
    torch.testing.assert_close(pieces[live], hidden[live], atol=1e-5, rtol=1e-5)
    for a, b in zip(after, after_pieces, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    if before is not None:
        assert all(
            torch.equal(a, b)
            for old, new in zip(before, state, strict=True)
            for a, b in zip(old, new, strict=True)
        )


def test_a_hook_or_a_gradient_means_the_whole(monkeypatch):
    monkeypatch.setattr(chunked_inference, "ROWS", 64)
    model, x = MambaLM(16, 2, 8, load_tokenizer=lambda: None), torch.randn(1, LENGTH, 16)
    assert model._piece_length(x) is None
    with torch.no_grad():
        assert model._piece_length(x) == 64
        lengths = []
        model.blocks[1].register_forward_hook(lambda module, args, outs: lengths.append(outs[0].shape[1]))
        model(x)
    assert lengths == [LENGTH]
