"""The choice of the next id."""

import pytest
import torch

from vlm_core.errors import UserError
from vlm_core.generation.sampling import GenerationConfig, TokenSampler, sample


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
