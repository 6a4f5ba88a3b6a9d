"""The choice of the next id."""

import pytest
import torch

from vlm_core.errors import UserError
from vlm_core.generation.sampling import GenerationConfig, TokenSampler, sample, scaled


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("damage", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_an_error(temperature, damage):
    logits, decoding = torch.randn(3, 7), GenerationConfig(temperature=temperature)
    assert sample(logits.clone(), decoding, torch.Generator()).shape == (3,)
    logits[1, 4] = damage
    with pytest.raises(UserError, match="not finite"):
        sample(logits, decoding, torch.Generator())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_padding_of_the_vocabulary_is_never_chosen(temperature):
    logits = torch.zeros(50, 9)
    logits[:, 6:] = 100
    chosen = TokenSampler(temperature, 1.0, 6)(logits, torch.Generator().manual_seed(0))
    assert 0 <= int(chosen.min()) <= int(chosen.max()) < 6


@pytest.mark.parametrize("temperature", [1e-5, 2.0**-126, 1e-45, 5e-324])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_limit_of_low_temperatures_is_greedy(temperature, dtype):
    logits = torch.stack([torch.randperm(500) for _ in range(20)]).sub(200).mul(100).to(dtype)
    logits[:, ::7] = -torch.inf
    drawn = TokenSampler(temperature, 0.9, 500)(logits.clone(), torch.Generator())
    best = logits.max(-1, keepdim=True).values
    assert torch.equal(logits.gather(-1, drawn[:, None]), best)


def test_scaled_logits_have_the_same_softmax():
    logits = torch.randn(4, 100)
    for temperature in (0.3, 1.0, 2.0):
        expected = (logits.double() / temperature).softmax(-1)
        torch.testing.assert_close(scaled(logits, temperature).softmax(-1).double(), expected)
