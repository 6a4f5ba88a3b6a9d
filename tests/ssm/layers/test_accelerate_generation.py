"""`accelerate` on small random models of transformers: generation, and the cache that it continues."""

import pytest
import torch
from accelerated_models import KINDS, TOKENS, near, padded, pair

from vlm_ssm.layers import decode


@pytest.fixture
def steps(monkeypatch):
    """Counts the calls of the fused step."""
    calls, fused = [], decode.fused_decode_step
    monkeypatch.setattr(decode, "fused_decode_step", lambda *a, **k: (calls.append(1), fused(*a, **k))[1])
    return calls


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}])
def test_generation(kind, options, steps):
    ours, theirs = pair(kind)
    batch = padded()
    wanted = theirs.generate(**batch, **TOKENS, **options)
    assert torch.equal(ours.generate(**batch, **TOKENS, **options), wanted)
    assert wanted.shape[1] > batch["input_ids"].shape[1] + 4  # it has not ended at once
    single = {name: value[:1] for name, value in batch.items()}
    steps.clear()
    assert torch.equal(ours.generate(**single, **TOKENS), theirs.generate(**single, **TOKENS))
    assert bool(steps) == (kind == "mamba")  # FalconMamba's norms are not in the fused step


def test_sampling_draws_the_same_tokens():
    ours, theirs = pair()
    made = []
    for model in (ours, theirs):
        torch.manual_seed(0)
        made.append(model.generate(**padded(), max_new_tokens=12, do_sample=True, pad_token_id=0, top_k=20))
    assert torch.equal(*made)


def test_generation_in_bf16():
    """Rounding may move a near tie, so that the logits of the steps are compared on the same tokens."""
    ours, theirs = pair(dtype=torch.bfloat16)
    with torch.no_grad():
        ids = torch.randint(1, 52, (1, 10))
        cache = ours(ids[:, :5], use_cache=True).cache
        steps = [ours(ids[:, t : t + 1], cache=cache, use_cache=True).logits for t in range(5, 10)]
        near(torch.cat(steps, 1), theirs(ids).logits[:, 5:], 3e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 7])
def test_the_cache_is_that_of_transformers(kind, length):
    """A cache that one model made, the other continues; prompts may be shorter than the convolution."""
    ours, theirs = pair(kind)
    ids = torch.randint(1, 52, (2, length + 3))
    for first, second in ((ours, theirs), (theirs, ours)):
        with torch.no_grad():
            cache = first(ids[:, :length], use_cache=True).cache
            parts = []
            for t in range(length, length + 3):
                model = second if t % 2 else first
                parts.append(model(ids[:, t : t + 1], cache=cache, use_cache=True).logits)
            near(torch.cat(parts, 1), theirs(ids).logits[:, length:], 1e-5)


def test_several_tokens_continue_from_the_cached_state():
    """transformers restarts the recurrence from zeros there."""
    ours, theirs = pair()
    ids = torch.randint(1, 52, (2, 12))
    with torch.no_grad():
        cache = ours(ids[:, :7], use_cache=True).cache
        near(ours(ids[:, 7:], cache=cache, use_cache=True).logits, theirs(ids).logits[:, 7:], 1e-5)


def test_assisted_decoding_keeps_the_past():
    """The cache then records it, to forget rejected tokens: transformers' own forward pass runs."""
    ours, theirs = pair()
    ids = torch.randint(1, 52, (1, 6))
    made = []
    for model in (ours, theirs):
        with torch.no_grad():
            cache = model(ids[:, :3], use_cache=True).cache
            for layer in cache.layers:
                layer.activate_past_recording()
            if model is ours:
                with pytest.warns(UserWarning, match="assisted decoding"):
                    made.append(model(ids[:, 3:], cache=cache, use_cache=True).logits)
            else:
                made.append(model(ids[:, 3:], cache=cache, use_cache=True).logits)
    near(*made, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_all_positions_masks_the_new_tokens_by_its_end(kind):
    """As for a Transformer's cache; with several new tokens of which some are padding, too."""
    ours, theirs = pair(kind)
    batch = padded(3, 8)
    whole = theirs(**batch).logits
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for cut in (7, 5, 1):
        cache = ours(ids[:, :cut], attention_mask=mask[:, :cut], use_cache=True).cache_params
        logits = ours(ids[:, cut:], cache=cache, attention_mask=mask, use_cache=True).logits
        near(logits[mask[:, cut:] == 1], whole[:, cut:][mask[:, cut:] == 1], 1e-5)
