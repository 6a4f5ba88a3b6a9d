"""The sampler against a definition that sorts everything and counts draws."""

import math
import random
from dataclasses import replace

import pytest
import torch

from vlm_core.generation.sampling import TokenSampler
from vlm_serve.engine.request import SamplingParams
from vlm_serve.engine.sampling.row_sampler import SORTED_AT_FIRST, Choice, RowSampler, uniform

VOCABULARY = 600


def definition(logits, params, generated, prompt, allowed=None):
    """Probability of each id, in the documented order of steps, one id at a time."""
    x = [float(value) for value in logits]
    for i, bias in params.logit_bias.items():
        x[i] += bias
    for i in range(len(x)):
        x[i] -= params.frequency_penalty * generated.count(i)
        x[i] -= params.presence_penalty * (i in generated)
        if params.repetition_penalty != 1 and (i in generated or i in prompt):
            x[i] = x[i] / params.repetition_penalty if x[i] > 0 else x[i] * params.repetition_penalty
        if allowed is not None and not allowed[i]:
            x[i] = -math.inf
    top = max(x)
    weights = {i: math.exp((value - top) / params.temperature) for i, value in enumerate(x)}
    order = sorted(weights, key=lambda i: -weights[i])[: params.top_k or None]
    total, kept, before = sum(weights[i] for i in order), [], 0.0
    for i in order:
        if before < params.top_p * total and weights[i] >= params.min_p * weights[order[0]]:
            kept.append(i)
        before += weights[i]
    total = sum(weights[i] for i in kept)
    return {i: weights[i] / total for i in kept}


class Odd:
    def allowed(self):
        return torch.arange(VOCABULARY) % 2 == 1


@pytest.mark.parametrize("seed", range(30))
def test_log_probabilities_are_those_of_the_definition(seed):
    draw = random.Random(seed)
    params = SamplingParams(
        temperature=draw.choice([0.3, 1.0, 2.0]),
        top_k=draw.choice([0, 0, 5, 500]),
        top_p=draw.choice([1.0, 0.9, 0.3, 0.999]),
        min_p=draw.choice([0.0, 0.05]),
        logit_bias=draw.choice([{}, {3: 5.0, 4: -100.0}]),
        frequency_penalty=draw.choice([0.0, 0.7]),
        presence_penalty=draw.choice([0.0, -0.5]),
        repetition_penalty=draw.choice([1.0, 1.5, 0.7]),
        seed=seed,
        logprobs=20,
    )
    prompt = [draw.randrange(VOCABULARY) for _ in range(20)]
    constraint = Odd() if draw.random() < 0.3 else None
    sampler, generated = RowSampler(params, VOCABULARY, prompt, constraint), []
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * draw.choice([0.1, 3.0])
    for _ in range(6):
        p = definition(
            logits, params, generated, prompt, None if constraint is None else constraint.allowed()
        )
        choice = sampler.choose(logits)
        assert choice.token in p
        assert choice.logprob == pytest.approx(math.log(p[choice.token]), abs=1e-3)
        expected = sorted(p.values(), reverse=True)[:20]
        assert [math.exp(value) for _, value in choice.top] == pytest.approx(expected, rel=1e-3)
        for token, logprob in choice.top:
            assert logprob == pytest.approx(math.log(p[token]), abs=1e-3)
        generated.append(choice.token)


def test_frequencies_are_the_probabilities():
    params = SamplingParams(temperature=1.0, top_p=0.95)
    logits = torch.cat([torch.linspace(0, 3, 20), torch.full((VOCABULARY - 20,), -50.0)])
    p, counts, draws = definition(logits, params, [], []), {}, 4_000
    for seed in range(draws):
        token = (
            RowSampler(SamplingParams(temperature=1.0, top_p=0.95, seed=seed), VOCABULARY, [])
            .choose(logits)
            .token
        )
        counts[token] = counts.get(token, 0) + 1
    squared = sum((counts.get(i, 0) - draws * q) ** 2 / (draws * q) for i, q in p.items())
    assert set(counts) <= set(p)
    assert abs(squared - len(p)) < 6 * math.sqrt(2 * len(p)), "chi squared"


def test_draws_depend_on_the_seed_and_the_number_alone():
    assert uniform(3, 5) == uniform(3, 5) != uniform(5, 3)
    numbers = [uniform(seed, n) for seed in range(50) for n in range(50)]
    assert len(set(numbers)) == 2500
    assert all(0 <= number < 1 for number in numbers)
    assert abs(sum(numbers) / 2500 - 0.5) < 0.03


def test_a_flat_distribution_is_sorted_completely():
    """top_p needs more ids than are sorted at first."""
    params = SamplingParams(temperature=1.0, top_p=0.9, logprobs=0)
    choice = RowSampler(params, VOCABULARY, []).choose(torch.zeros(VOCABULARY))
    assert round(math.exp(-choice.logprob)) in (540, 541)  # 0.9 of them, up to rounding
    assert SORTED_AT_FIRST < 540


@pytest.mark.parametrize("temperature", [1e-5, 1e-9, 2.0**-126, 1e-45, 5e-324, 0.0])
@pytest.mark.parametrize(
    "others",
    [{}, {"top_p": 0.5}, {"top_k": 3, "min_p": 0.1}, {"repetition_penalty": 0.01, "logit_bias": {3: -100.0}}],
)
def test_towards_temperature_zero_the_largest_is_taken(temperature, others):
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1)) * 30
    greedy = RowSampler(SamplingParams(temperature=0.0, **others), VOCABULARY, [1, 2], Odd())
    sampler = RowSampler(
        SamplingParams(temperature=temperature, logprobs=2, **others), VOCABULARY, [1, 2], Odd()
    )
    for _ in range(3):
        choice = sampler.choose(logits)
        assert choice.token == greedy.choose(logits).token
        assert choice.logprob == 0 or temperature == 0


@pytest.mark.parametrize("temperature", [1e-5, 2.0**-126])
def test_both_samplers_scale_alike(temperature):
    """Equal logits stay equally likely at any temperature, and a difference is a difference."""
    logits = torch.full((VOCABULARY,), -5.0)
    logits[[7, 11]] = 3.0
    logits[13] = 2.99
    params = SamplingParams(temperature=temperature)
    drawn = {RowSampler(replace(params, seed=n), VOCABULARY, []).choose(logits).token for n in range(40)}
    ids = TokenSampler(temperature, 1.0, VOCABULARY)(logits.repeat(40, 1), torch.Generator().manual_seed(0))
    assert drawn == set(ids.tolist()) == {7, 11}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite(bad):
    logits = torch.zeros(VOCABULARY)
    logits[5] = bad
    assert RowSampler(SamplingParams(), VOCABULARY, []).choose(logits) == Choice(-1)


def test_the_logits_are_not_modified():
    logits = torch.randn(VOCABULARY)
    before = logits.clone()
    params = SamplingParams(logit_bias={1: 2.0}, frequency_penalty=1, repetition_penalty=2, top_k=3)
    RowSampler(params, VOCABULARY, [1, 2], Odd()).choose(logits)
    assert torch.equal(logits, before)
