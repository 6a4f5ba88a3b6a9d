"""Decoding by a CUDA graph, made up of plain calls: the same tokens, states and logits as without."""

from itertools import islice

import pytest
import torch
from generation_cases import images, prompt

from vlm_core.errors import UserError
from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig


class Counted:
    """A graph decoder by plain calls."""

    def __init__(self, llm, sampler):
        self.llm, self.sampler, self.steps, self.closed = llm, sampler, 0, 0
        self.generator = torch.Generator()

    def start(self, state, ids, generator):
        self.history, self.ids = [(state, None)], ids
        self.generator.set_state(generator.get_state())

    @torch.inference_mode()
    def step(self):
        hidden, state = self.llm(self.llm.embed(self.ids.unsqueeze(1)), state=self.history[-1][0])
        logits = self.llm.logits(hidden[:, -1])
        chosen = self.sampler(logits, self.generator)
        self.ids = chosen.clamp(min=0)
        self.history, self.steps = [self.history[-1], (state, logits)], self.steps + 1
        return chosen.tolist

    def logits(self, *, ahead):
        return self.history[-1 - ahead][1].clone()

    def state(self, *, ahead):
        return self.history[-1 - ahead][0].clone()

    def close(self):
        self.closed += 1


@pytest.fixture
def decoders(tiny_model, monkeypatch):
    made = []
    make = lambda state, sampler: made.append(Counted(tiny_model.llm, sampler)) or made[-1]  # noqa: E731
    monkeypatch.setattr(tiny_model.llm, "cuda_graph_decoder", make)
    return made


def generated(model, decoding, stop=None):
    """Tokens (up to `stop`), state and logits after them, and the state after another prompt."""
    (pixels,) = images(1)
    sample = prompt(model, "is there a circle?", pixels)
    session = Session(model)
    session.prefill([sample], [pixels])
    ids = list(islice(session.tokens(decoding), stop))
    state, logits = session.state, session.next_logits
    session.prefill([sample], [pixels])
    return ids, logits, [state, session.state, session.expand(2).state]


def assert_same(found, wanted):
    (ids, logits, states), (same, others, like) = found, wanted
    assert ids == same
    torch.testing.assert_close(logits, others)
    for before, after in zip(states, like, strict=True):
        for a, b in zip(before, after, strict=True):
            torch.testing.assert_close(a.ssm, b.ssm)
            torch.testing.assert_close(a.conv, b.conv)


@pytest.mark.parametrize("stop", [None, 1, 6, 7])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_of_a_graph_are_the_same_and_leave_their_state(tiny_model, monkeypatch, temperature, stop):
    """A graph begins after a few tokens and runs one ahead of the reader, who may stop at any of them."""
    decoding = GenerationConfig(max_new_tokens=9, temperature=temperature)
    wanted = generated(tiny_model, decoding, stop)
    made = []
    make = lambda state, sampler: made.append(Counted(tiny_model.llm, sampler)) or made[-1]  # noqa: E731
    monkeypatch.setattr(tiny_model.llm, "cuda_graph_decoder", make)
    assert_same(generated(tiny_model, decoding, stop), wanted)
    read = len(wanted[0]) - 5  # by the graph
    assert [(d.steps, d.closed) for d in made] == ([] if read <= 0 else [(read + (stop is not None), 1)])


def test_a_graph_stops_at_the_end_of_the_answer(tiny_model, decoders, monkeypatch):
    """The token that was computed ahead is dropped."""
    eos, config = tiny_model.llm.tokenizer.eos_id, GenerationConfig(max_new_tokens=20)
    session = Session(tiny_model)
    session.prefill([prompt(tiny_model, "a")])
    monkeypatch.setattr("vlm_core.generation.generate.sample", lambda *_: torch.tensor([5]))
    script = iter([6, eos, 7, 8])
    monkeypatch.setattr(
        "vlm_core.generation.sampling.TokenSampler.__call__", lambda *_: torch.tensor([next(script)])
    )
    assert list(session.tokens(config)) == [[5]] * 5 + [[6], [eos]]
    assert next(script) == 8, "one token ahead"
    assert decoders[0].closed == 1
    state = session.state
    fresh = Session(tiny_model)
    fresh.prefill([prompt(tiny_model, "a")])
    for token in [5] * 5 + [6]:
        fresh._decode_token(torch.tensor([token]))
    for a, b in zip(state, fresh.state, strict=True):
        torch.testing.assert_close(a.ssm, b.ssm)


def test_damaged_logits_stop_a_graph(tiny_model, decoders, monkeypatch):
    session = Session(tiny_model)
    session.prefill([prompt(tiny_model, "a")])
    monkeypatch.setattr("vlm_core.generation.generate.sample", lambda *_: torch.tensor([5]))
    nan = lambda self, hidden: torch.full((len(hidden), self.vocab_size), torch.nan)  # noqa: E731
    monkeypatch.setattr(type(tiny_model.llm), "logits", nan)
    with pytest.raises(UserError, match="not finite"):
        list(session.tokens(GenerationConfig(max_new_tokens=9, temperature=1.0)))
