"""Sessions saved anywhere: after any prompt, in the middle of an answer, of any batch; each continues bit by bit."""

import random

import pytest
import torch
from generation_cases import LONG, prompt
from tiny_transformers import write_tiny

from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.generation.session_file import load_session, save_session
from vlm_core.model_folder.assemble import build
from vlm_core.model_folder.weights import to_dtype
from vlm_core.spec.spec import Spec
from vlm_core.text.template import TEMPLATES

TEMPLATE = TEMPLATES["short"]
WORDS = ["is there", "a circle", "red", "what color", "on the white ground", "the shape"]


@pytest.fixture(scope="module", params=["mamba", "mamba-bfloat16", "llama-bfloat16", "gemma2"])
def model(request, tiny_spec, tmp_path_factory):
    name, _, dtype = request.param.partition("-")
    llm = {"type": "transformers", "model": str(write_tiny(name, tmp_path_factory.mktemp("llm")))}
    model = build(
        Spec.model_validate(tiny_spec if name == "mamba" else {**tiny_spec, "llm": llm}), weights=False
    )
    if dtype:
        to_dtype(model, torch.bfloat16)
    return model


def continued(session, questions):
    """All that follows: the rest of the answer, a further turn, its answer."""
    fork = session.fork()
    rest = list(fork.tokens(LONG))
    if session.model.llm.pads_between or len({len(q) for q in questions}) == 1:
        fork.prefill(questions)
        rest += list(fork.tokens(GenerationConfig(6, temperature=0.8, seed=1)))
    return rest, fork.next_logits


@pytest.mark.parametrize("seed", range(8))
def test_a_session_continues_from_a_file(model, tmp_path, seed):
    draw = random.Random(seed)
    batch = draw.choice([1, 1, 2, 3])

    def questions():
        return [prompt(model, " ".join(draw.sample(WORDS, draw.randint(1, 4)))) for _ in range(batch)]

    session = Session(model)
    session.prefill(questions())
    for _, _ in zip(session.tokens(LONG), range(draw.randrange(7)), strict=False):
        pass
    save_session(session, tmp_path / "s.state", TEMPLATE)
    loaded = load_session(tmp_path / "s.state", model, TEMPLATE).session
    assert torch.equal(loaded.next_logits, session.next_logits)
    tensors = session.state.to_tensors()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in loaded.state.to_tensors().items())
    more = questions()
    (seen, logits), (expected, other) = continued(loaded, more), continued(session, more)
    assert seen == expected
    assert torch.equal(logits, other)
