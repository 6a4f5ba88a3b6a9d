"""Groups of sequences, chosen so that logits are equal to the bit, and shared states that members join and leave."""

import random

import pytest
import torch
from tiny_transformers import write_tiny

from vlm_core.model_folder.assemble import build
from vlm_core.spec.spec import Spec
from vlm_serve.engine.batching import decode_groups
from vlm_serve.engine.batching.decode_groups import ROWS, Batching, Group
from vlm_serve.engine.batching.state_costs import StateCosts


@pytest.fixture(scope="module")
def transformers_model(tiny_spec, tmp_path_factory):
    llm = {"type": "transformers", "model": str(write_tiny("llama", tmp_path_factory.mktemp("llm")))}
    return build(Spec.model_validate({**tiny_spec, "llm": llm}), weights=False)


def states_of(model, count):
    with torch.inference_mode():
        prompts = [torch.tensor([[17 * i + 1, i + 2, 5]]) for i in range(count)]
        return [model.forward_embeds(model.llm.embed(ids))[1] for ids in prompts]


def test_groups_of_mamba_on_a_cpu_have_any_size(served):
    assert Batching.of(served[0]) == Batching(ROWS)


def test_transformers_are_decoded_one_by_one(transformers_model):
    assert Batching.of(transformers_model) == Batching(1)


def test_a_model_whose_logits_depend_on_the_number_of_rows_is_padded(served, monkeypatch):
    logits_of = decode_groups._Probe.logits_of

    def by_rows(probe, rows):
        return logits_of(probe, rows) + len(rows)

    monkeypatch.setattr(decode_groups._Probe, "logits_of", by_rows)
    assert Batching.of(served[0]) == Batching(ROWS, padded=True)


def test_a_model_whose_logits_depend_on_the_company_is_decoded_one_by_one(served, monkeypatch):
    logits_of = decode_groups._Probe.logits_of

    def by_company(probe, rows):
        logits = logits_of(probe, rows)
        return logits + logits.mean()

    monkeypatch.setattr(decode_groups._Probe, "logits_of", by_company)
    assert Batching.of(served[0]) == Batching(1)


@pytest.mark.parametrize("batching", [Batching(ROWS), Batching(ROWS, padded=True), Batching(3)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_members_come_and_go(served, batching, seed):
    """Each member's logits are those that it has alone, in the same padding, or of a state that is no slot."""
    draw, model, alone_batching = random.Random(seed), served[0], batching if batching.padded else Batching(1)
    states, together, alone = states_of(model, 12), Group(model, batching), {}
    outside = list(range(12))
    for _ in range(30):
        leaving = [member for member in together.members if draw.random() < 0.2]
        room = batching.rows - (len(together.members) - len(leaving))
        joining = draw.sample(outside, min(room, draw.randrange(3), len(outside)))
        for member in joining:
            alone[member] = Group(model, alone_batching)
            alone[member].change([], [(member, states[member])])
        together.change(leaving, [(member, states[member]) for member in joining])
        outside = [member for member in range(12) if member not in together.members]
        if not together.members:
            continue
        ids = [draw.randrange(300) for _ in together.members]
        logits = together.step(ids)
        for row, member, token in zip(logits, together.members, ids, strict=True):
            assert torch.equal(row, alone[member].step([token])[0])
        member = draw.choice(together.members)
        seen, expected = together.taken(member).to_tensors(), alone[member].taken(member).to_tensors()
        assert all(torch.equal(seen[name], expected[name]) for name in expected)


def test_a_group_has_no_more_slots_than_there_are(served):
    model = served[0]
    assert [Group(model, Batching(ROWS), most).rows for most in (1, 5, ROWS, 40)] == [1, 5, ROWS, ROWS]
    assert Group(model, Batching(ROWS, padded=True), 5).rows == ROWS
    group, states = Group(model, Batching(ROWS), 2), states_of(model, 3)
    with pytest.raises(AssertionError, match="full"):
        group.change([], list(enumerate(states)))


def test_costs_of_states(served, transformers_model):
    model = served[0]
    (state,) = states_of(model, 1)
    assert StateCosts.of(model) == StateCosts(state.nbytes)
    grows = StateCosts.of(transformers_model)
    assert grows.per_position > 0
    with torch.inference_mode():
        ids = torch.zeros(1, 200, dtype=torch.long)
        _, state = transformers_model.forward_embeds(transformers_model.llm.embed(ids))
    assert grows.bytes(200) == pytest.approx(state.nbytes, rel=0.01)
