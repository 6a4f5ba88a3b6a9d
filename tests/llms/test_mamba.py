"""Own Mamba-1 against transformers on the same weights, and its checkpoints in both published formats."""

import pytest
import torch

from vlm_core.interfaces import PADDING, parameter_count
from vlm_llms.mamba.mamba import MambaLM
from vlm_llms.mamba.mamba_config import MambaConfig
from vlm_llms.mamba.mamba_shape import PUBLISHED
from vlm_ssm.layers import chunked_inference

LONG = 300


@pytest.mark.parametrize("form", ["hf_folder", "original_folder"])
def test_logits_equal_transformers(theirs, form, request):
    own = MambaConfig(weights=str(request.getfixturevalue(form))).build().eval()
    ids = torch.randint(0, 64, (2, 21))
    with torch.no_grad():
        hidden, _ = own(own.embed(ids))
        torch.testing.assert_close(own.logits(hidden), theirs(ids).logits, atol=2e-5, rtol=1e-5)


def test_gradients_equal_transformers(theirs, hf_folder):
    own = MambaConfig(weights=str(hf_folder)).build()
    ids = torch.randint(0, 64, (2, 15))
    own.logits(own(own.embed(ids))[0]).sin().sum().backward()
    theirs.zero_grad()
    theirs(ids).logits.sin().sum().backward()
    wanted = {k.replace("embeddings", "embedding"): p.grad for k, p in theirs.named_parameters()}
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=2e-3, rtol=2e-3, msg=name)


def test_padding_anywhere_takes_part_in_nothing():
    """Pieces of different length with padding scattered among them equal singles without any."""
    torch.manual_seed(0)
    own = MambaConfig(d_model=16, n_layer=3, vocab_size=8, d_state=4).build().eval()
    pieces = [[torch.randn(1, n, 16) for n in lengths] for lengths in ([5, 1, 2], [2, 3, 4], [7, 2, 1])]
    state, outs = None, [[], [], []]
    with torch.no_grad():
        for k in range(3):
            length = max(row[k].shape[1] for row in pieces) + 2
            x, segments = torch.randn(3, length, 16), torch.full((3, length), PADDING)
            places = [torch.randperm(length)[: row[k].shape[1]].sort().values for row in pieces]
            for i, place in enumerate(places):
                x[i, place], segments[i, place] = pieces[i][k][0], 0
            hidden, state = own(x, segments=segments, state=state)
            for i, place in enumerate(places):
                outs[i].append(hidden[i, place])
        for out, row in zip(outs, pieces, strict=True):
            torch.testing.assert_close(torch.cat(out), own(torch.cat(row, 1))[0][0], atol=1e-5, rtol=1e-4)


SIZES = {"130m": 129.1, "370m": 371.5, "790m": 793.2, "1.4b": 1372.2, "2.8b": 2768.3}
"""Millions of parameters."""


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes(size):
    """Without network or weights; what a 2.8b of either data is called comes to the same."""
    with torch.device("meta"):
        own = MambaConfig(weights=f"state-spaces/mamba-{size}", dtype="bfloat16").build(weights=False)
    assert parameter_count(own) / 1e6 == pytest.approx(SIZES[size], abs=0.1)
    names = {name for name, shape in PUBLISHED.items() if shape.model_dump() == own.shape}
    more = {"state-spaces/mamba-2.8b-slimpj", "xiuyul/mamba-2.8b-zephyr"} if size == "2.8b" else set()
    assert names == {f"state-spaces/mamba-{size}", f"state-spaces/mamba-{size}-hf"} | more
    assert own.vocab_size == 50280


def test_the_recurrence_stays_in_fp32():
    torch.manual_seed(0)
    fields = {"d_model": 32, "n_layer": 3, "vocab_size": 64, "d_state": 4}
    own = MambaConfig(**fields, dtype="bfloat16").build().eval()
    torch.manual_seed(0)
    exact = MambaConfig(**fields).build().eval()
    for name, p in own.named_parameters():
        fine = name.endswith(("A_log", "mixer.D", "dt_proj.bias"))
        assert p.dtype == (torch.float32 if fine else torch.bfloat16), name
        assert not name.endswith(("A_log",)) or p._no_weight_decay
    table = own.backbone.embedding.weight
    assert torch.equal(table, exact.backbone.embedding.weight.bfloat16()), "one seed, one set of weights"
    ids = torch.randint(0, 64, (1, 12))
    with torch.no_grad():
        wanted = exact.logits(exact(exact.embed(ids))[0])
        hidden, state = own(own.embed(ids[:, :-1]))
        last, _ = own(own.embed(ids[:, -1:]), state=state)
        seen = own.logits(torch.cat([hidden, last], 1)).float()
    assert seen.isfinite().all()
    assert (seen - wanted).abs().max() <= 0.03 * wanted.abs().max()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("continued", [False, True])
@torch.no_grad()
def test_a_long_input_in_pieces_of_time_equals_the_whole(batch, segmented, continued, monkeypatch):
    """Padding anywhere, also over a whole piece; the given state is not changed."""
    torch.manual_seed(0)
    model = MambaLM(16, 3, 8, d_state=4, load_tokenizer=lambda: None).eval()
    x, segments = torch.randn(batch, LONG, 16), None
    live = torch.ones(batch, LONG, dtype=torch.bool)
    if segmented:
        segments = torch.zeros(batch, LONG, dtype=torch.long)
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


def test_a_hook_or_a_gradient_means_a_long_input_at_once(monkeypatch):
    monkeypatch.setattr(chunked_inference, "ROWS", 64)
    model, x = MambaLM(16, 2, 8, load_tokenizer=lambda: None), torch.randn(1, LONG, 16)
    assert model._piece_length(x) is None
    with torch.no_grad():
        assert model._piece_length(x) == 64
        lengths = []
        model.blocks[1].register_forward_hook(lambda module, args, outs: lengths.append(outs[0].shape[1]))
        model(x)
    assert lengths == [LONG]
