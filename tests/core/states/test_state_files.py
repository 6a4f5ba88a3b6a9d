"""State files of sessions and conversations: what they hold, and what can't be saved."""

import os

import pytest
import torch
from generation_cases import LONG, prompt

from vlm_core.errors import UserError
from vlm_core.generation.conversation import Conversation
from vlm_core.generation.generate import Session
from vlm_core.generation.prefix_reader import PrefixReader
from vlm_core.generation.session_file import load_session, save_session
from vlm_core.model_folder.assemble import load
from vlm_core.states.cache import StateCache
from vlm_core.text.template import TEMPLATES

TEMPLATE = TEMPLATES["llava-v1"]


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load(tiny_folder)[0]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_session_of_several_sequences(model, tmp_path, batch):
    session = Session(model)
    session.prefill([prompt(model, text) for text in ("red?", "is there a circle?", "a")[:batch]])
    save_session(session, tmp_path / "s.state", TEMPLATE)
    loaded = load_session(tmp_path / "s.state", model, TEMPLATE).session
    assert torch.equal(loaded.next_logits, session.next_logits)
    assert loaded.ends == session.ends
    assert loaded.generate(LONG) == session.generate(LONG)
    if batch > 1:
        with pytest.raises(UserError, match=r"s\.state: .*not of a conversation"):
            Conversation.load(tmp_path / "s.state", model, TEMPLATE)


def test_a_state_read_from_a_cache_is_saved_alike(model, tmp_path):
    cache, files = StateCache(), []
    for i in range(2):
        session = Session(model)
        history = PrefixReader(model, TEMPLATE, cache).read(session, prompt(model, "red?"))
        save_session(session, tmp_path / str(i), TEMPLATE, history)
        files.append((tmp_path / str(i)).read_bytes())
    assert files[0] == files[1]


def test_what_cannot_be_saved(model, tmp_path):
    with pytest.raises(UserError, match="nothing to save"):
        Conversation(model, TEMPLATE).save(tmp_path / "x")
    talk = Conversation(model, TEMPLATE)
    list(talk.ask("red?", LONG))
    (tmp_path / "photo.png").write_text("precious")
    with pytest.raises(UserError, match=r"photo\.png exists and is no state file; name another file"):
        talk.save(tmp_path / "photo.png")
    assert (tmp_path / "photo.png").read_text() == "precious"
    with pytest.raises(UserError, match="a folder; name a file"):
        talk.save(tmp_path)
    with pytest.raises(UserError, match=r"photo\.png: not a folder; nothing can be written there"):
        talk.save(tmp_path / "photo.png" / "x")
    talk.save(tmp_path / "new" / "x")
    talk.save(tmp_path / "new" / "x")
    assert sorted(os.listdir(tmp_path / "new")) == ["x"]
