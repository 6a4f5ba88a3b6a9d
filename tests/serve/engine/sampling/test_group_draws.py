"""Draws of a group at once are those of each answer's own sampler."""

import pytest
import torch

from vlm_serve.engine.request import SamplingParams
from vlm_serve.engine.sampling.group_draws import Draw, GroupDraws, drawn
from vlm_serve.engine.sampling.row_sampler import RowSampler

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS, V = 16, 5000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_draws_equal_those_of_samplers(dtype):
    torch.manual_seed(0)
    temperatures = [0.0, 0.3, 1.0, 2.0, 1e-40, 0.7] + [1.0] * (ROWS - 6)
    samplers = [RowSampler(SamplingParams(temperature=t, seed=i), V, []) for i, t in enumerate(temperatures)]
    draws, chosen = None, set()
    for step in range(20):
        logits = (4 * torch.randn(ROWS, V)).to(dtype)
        rows = [sampler.draw() for sampler in samplers]
        assert [row is None for row in rows] == [t == 0 for t in temperatures]
        on_device = logits.to(DEVICE)
        draws = draws or GroupDraws(on_device, ROWS, V)
        draws.set(on_device, on_device.argmax(-1), rows, step % 2)
        (ids,) = draws.run()
        expected = [sampler.choose(row).token for sampler, row in zip(samplers, logits, strict=True)]
        assert ids.tolist() == expected
        chosen |= set(expected)
    assert len(chosen) > 100


def test_draws_that_come_later_are_known(monkeypatch):
    """A step is launched before the token of the step before it is counted."""
    sampler = RowSampler(SamplingParams(temperature=1.0, seed=3), V, [])
    later = [sampler.draw(ahead) for ahead in range(3)]
    for draw in later:
        assert sampler.draw() == draw
        sampler.count(5)
    assert len({draw.uniform for draw in later}) == 3


@pytest.mark.parametrize(
    "others",
    [
        {"top_k": 5},
        {"top_p": 0.9},
        {"min_p": 0.1},
        {"logprobs": 0},
        {"logit_bias": {3: 1.0}},
        {"frequency_penalty": 0.5},
        {"presence_penalty": 0.5},
        {"repetition_penalty": 1.5},
        {"temperature": 0.0},
    ],
    ids=str,
)
def test_whatever_else_is_asked_for_is_chosen_on_the_host(others):
    sampler = RowSampler(SamplingParams(**{"temperature": 1.0, **others}), V, [1, 2])
    assert sampler.draw() is None
    assert sampler.needs_no_host == (others == {"temperature": 0.0})
    assert not RowSampler(SamplingParams(temperature=1.0), V, [], constraint=object()).needs_no_host


def test_rows_that_are_not_finite_stay_so():
    logits, number = torch.randn(3, V, device=DEVICE), torch.full((3,), 0.5, device=DEVICE)
    assert (drawn(logits, number, number) < V).all()
    draws = GroupDraws(logits, 4, V)
    logits[1] = torch.nan
    draws.set(logits, torch.tensor([7, -1, 9], device=DEVICE), [Draw(1.0, 0.5), Draw(1.0, 0.5), None], 0)
    ids = draws.run()[0].tolist()
    assert ids[1:3] == [-1, 9]
    assert 0 <= ids[0] < V
