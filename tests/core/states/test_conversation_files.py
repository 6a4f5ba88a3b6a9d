"""A conversation in a file continues exactly: after any turn, with images waiting, from another process' file."""

import pytest
import torch
from generation_cases import LONG
from PIL import Image

from vlm_core.generation.conversation import Conversation
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.text.template import TEMPLATES

TEMPLATE = TEMPLATES["llava-v1"]
SAMPLED = GenerationConfig(8, temperature=1.0, seed=3)


@pytest.fixture
def picture(tmp_path):
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "x.png")
    return tmp_path / "x.png"


@pytest.mark.parametrize("turns", [1, 2])
@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("decoding", [LONG, SAMPLED], ids=["greedy", "sampled"])
def test_a_loaded_conversation_goes_on_as_the_saved_one(
    tiny_model, picture, tmp_path, turns, waiting, decoding
):
    talk = Conversation(tiny_model, TEMPLATE)
    talk.show(picture)
    for question in ("is there a circle?", "red?")[:turns]:
        list(talk.ask(question, decoding))
    if waiting:
        talk.show(picture)
    talk.save(tmp_path / "talk.state")
    again = Conversation.load(tmp_path / "talk.state", tiny_model, TEMPLATE)
    assert again.messages == talk.messages
    assert again.pending_tokens == talk.pending_tokens
    assert again.history.pieces == talk.history.pieces
    for _ in range(2):
        expected, seen = (list(each.ask("and now?", decoding)) for each in (talk, again))
        assert seen == expected
        assert torch.equal(again.session.next_logits, talk.session.next_logits)
        for a, b in zip(again.session.state, talk.session.state, strict=True):
            assert torch.equal(a.ssm, b.ssm)
            assert torch.equal(a.conv, b.conv)
