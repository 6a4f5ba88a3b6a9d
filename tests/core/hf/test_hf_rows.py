"""Rows of datasets, as the collator for transformers' Trainer reads them."""

import pytest
from PIL import Image

from vlm_core.errors import UserError
from vlm_core.hf.collator import parse_row
from vlm_core.text.render import IMAGE, Message

LLAVA = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a cat"}]
TURNS = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a cat"}]
PICTURE = Image.new("RGB", (4, 4))


def test_llavas_turns():
    talk = parse_row({"id": "7", "image": PICTURE, "conversations": LLAVA})
    assert talk.messages == [Message("user", (IMAGE, "\nwhat?")), Message("assistant", ("a cat",))]
    assert len(talk.images) == 1
    assert talk.system is None


@pytest.mark.parametrize(
    "row",
    [
        {"images": [PICTURE], "conversations": [{"from": "system", "value": "be kind"}, *LLAVA]},
        {"image": PICTURE, "conversations": LLAVA, "system": "be kind"},
        {"messages": TURNS, "system": "be kind"},
        {"messages": [{"role": "system", "content": "be kind"}, *TURNS], "system": "be kind"},
        {"prompt": "what?", "completion": "a cat", "system": "be kind"},
    ],
)
def test_a_system_text_of_its_own(row):
    """In every form, as vlm-train reads it."""
    talk = parse_row(row)
    assert talk.system == "be kind"
    assert [message.role for message in talk.messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": LLAVA, "image": PICTURE, "images": [PICTURE]}, "it has image and images"),
        ({"conversations": [*LLAVA, {"from": "system", "value": "no"}]}, "from 'system': expected human"),
        ({"conversations": [{"from": "system", "value": "be kind"}]}, "only a system turn"),
        ({"conversations": [{"from": "bot", "value": "a"}]}, "from 'bot': expected human or gpt"),
        ({"conversations": [7]}, "a turn 7: expected a dictionary"),
        ({"messages": TURNS, "system": 3}, "system 3: expected text"),
        (
            {"messages": [{"role": "system", "content": "be kind"}, *TURNS], "system": "be brief"},
            "two system prompts",
        ),
    ],
)
def test_rows_that_cannot_be_read(row, message):
    with pytest.raises(UserError, match=message):
        parse_row(row)
