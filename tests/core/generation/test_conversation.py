"""Conversations: turns continue the state, characters are shown whole, and what a user types stays text."""

import pytest
import torch
from generation_cases import LONG, SHORT, prompt

from vlm_core.errors import UserError
from vlm_core.generation.conversation import Conversation
from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.io.images import load_image
from vlm_core.text.render import IMAGE, Message, render


def test_conversation_remembers_without_reading_twice(tiny_model, tmp_path):
    """Two turns fed piece by piece leave the model where the whole dialogue, fed at once, leaves it."""
    from PIL import Image

    Image.radial_gradient("L").save(tmp_path / "x.png")
    talk = Conversation(tiny_model, SHORT)
    talk.show(tmp_path / "x.png")
    first = "".join(talk.ask("is there a circle?", LONG))
    list(talk.ask("red?", LONG))
    said = talk.session.state

    pixels = tiny_model.encoder.transform(load_image(tmp_path / "x.png"))
    session = Session(tiny_model)
    session.prefill([prompt(tiny_model, "is there a circle?", pixels)], [pixels])
    one = [row[0] for row in session.tokens(LONG)]
    eos = tiny_model.llm.tokenizer.eos_id
    sample = prompt(tiny_model, "is there a circle?", pixels)
    sample.append_text(one[:-1] if one[-1] == eos else one, False)
    talk = [Message("user", (IMAGE, "\n", "is there a circle?")), Message("assistant", (first,))]
    rest = render(SHORT, [*talk, Message("user", ("red?",))], tiny_model.llm.tokenizer, resume=True)
    assert rest.input_ids[0] == eos
    sample.extend(rest)
    whole = Session(tiny_model)
    whole.prefill([sample], [pixels])
    list(whole.tokens(LONG))
    for a, b in zip(said, whole.state, strict=True):
        torch.testing.assert_close(a.ssm, b.ssm, rtol=1e-4, atol=1e-6)


def test_unfinished_characters_are_held_back(tiny_model, monkeypatch):
    """A character of several tokens is shown once, whole."""
    tokenizer = tiny_model.llm.tokenizer
    script = iter([*tokenizer.encode(" naïve 🐍"), tokenizer.eos_id])
    monkeypatch.setattr("vlm_core.generation.generate.sample", lambda *_: torch.tensor([next(script)]))
    pieces = list(Conversation(tiny_model, SHORT).ask("?", GenerationConfig(40)))
    assert "".join(pieces) == "naïve 🐍"
    assert all("\ufffd" not in piece for piece in pieces)


def test_a_character_cut_off_at_the_limit_is_shown_as_what_it_is(tiny_model, monkeypatch):
    script = iter(tiny_model.llm.tokenizer.encode(" 🐍"))
    monkeypatch.setattr("vlm_core.generation.generate.sample", lambda *_: torch.tensor([next(script)]))
    assert "".join(Conversation(tiny_model, SHORT).ask("?", GenerationConfig(3))) == "\ufffd"


@pytest.mark.parametrize("text", ["<image>", "<|endoftext|>", "a <image> b <|endoftext|>"])
def test_what_a_user_types_stays_text(tiny_model, text):
    sample = prompt(tiny_model, text)
    assert tiny_model.llm.tokenizer.eos_id not in sample.input_ids
    assert not any(sample.image_mask)
    assert text in tiny_model.llm.tokenizer.decode(sample.input_ids)


def test_a_batch_in_which_one_ended_first_cannot_be_continued(tiny_model):
    """Its state has read what followed its answer; alone, each can be continued."""
    tokenizer = tiny_model.llm.tokenizer
    prompts = [render(SHORT, [Message("user", (text,))], tokenizer) for text in ("red", "a circle")]
    session = Session(tiny_model)
    session.prefill(prompts)
    first = next(iter(session.fork().tokens()))
    session.restore(session.state, session.known_logits(), [{first[0]}, {-1}])
    fork = session.fork()
    assert len(list(fork.tokens(GenerationConfig(max_new_tokens=3)))) == 3
    for continued in (fork, fork.fork()):
        for go_on in (
            lambda s: s.prefill(prompts),
            lambda s: s.expand(2),
            lambda s: list(s.tokens()),
            lambda s: Session.join([session, s]),
        ):
            with pytest.raises(
                UserError, match=r"conversation 1 of [24] ended before|conversation 3 of 4 ended"
            ):
                go_on(continued)
    session.restore(session.state, session.known_logits(), [{first[0]}, {first[1]}])
    assert len(list(session.tokens())) == 1
    session.prefill(prompts)
