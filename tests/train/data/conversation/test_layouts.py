"""Columns as hub datasets have them become LLaVA's turns; what is none of the known forms is named."""

import pytest
from shards import said, turns

from vlm_core.errors import BadSample, UserError
from vlm_train.data.conversation.columns import Columns

CHAT = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a cat"}]
PARTS = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "see"},
            {"type": "image", "text": None},
            {"type": "text", "text": "what?"},
        ],
    },
    {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
]


def row(record, images=1, **given):
    return Columns(given, record.keys(), "here").row(record, ["x"] * images, "here", "name")


@pytest.mark.parametrize(
    ("record", "images", "given", "expected"),
    [
        ({"conversations": turns("<image>\nwhat?", "a cat")}, 1, {}, ["<image>\nwhat?", "a cat"]),
        (
            {"conversations": [{"from": "user", "value": "hi"}, {"from": "assistant", "value": "yo"}]},
            0,
            {},
            ["hi", "yo"],
        ),
        ({"messages": CHAT}, 1, {}, ["<image>\nwhat?", "a cat"]),
        ({"messages": CHAT}, 0, {}, ["what?", "a cat"]),
        ({"conversations": CHAT * 2}, 2, {}, ["<image>\n<image>\nwhat?", "a cat", "what?", "a cat"]),
        ({"messages": PARTS}, 1, {}, ["see\n<image>\nwhat?", "a cat"]),
        (
            {"texts": [{"user": "a?", "assistant": "b"}, {"user": "c?", "assistant": "d", "source": "s"}]},
            1,
            {},
            ["<image>\na?", "b", "c?", "d"],
        ),
        ({"question": "what?", "answer": "a cat"}, 1, {}, ["<image>\nwhat?", "a cat"]),
        ({"question": "is <image> it?", "answer": "a cat"}, 1, {}, ["is <image> it?", "a cat"]),
        ({"caption": "a cat"}, 1, {}, ["<image>", "a cat"]),
        ({"text": "a cat", "url": "u"}, 1, {"caption": "text"}, ["<image>", "a cat"]),
        (
            {"query": "a?", "label": "b", "caption": "c"},
            0,
            {"question": "query", "answer": "label"},
            ["a?", "b"],
        ),
        ({"question": "a?", "answer": "b", "caption": "c"}, 0, {}, ["a?", "b"]),
    ],
)
def test_layouts(record, images, given, expected):
    assert said(row(record, images, **given)) == expected


def test_id_and_category_are_taken_and_default():
    found = row({"id": 7, "kind": "easy", "caption": "c"}, category="kind")
    assert (found["id"], found["category"]) == ("7", "easy")
    assert row({"caption": "c"})["id"] == "name"


@pytest.mark.parametrize(
    ("record", "images", "reason", "message"),
    [
        ({"question": "q", "answer": None}, 0, "schema", "turn 1: expected"),
        ({"question": "q", "answer": ["a"]}, 0, "schema", "turn 1: expected"),
        ({"question": "<image><image>", "answer": "a"}, 1, "placeholders", "2 <image> .*but 1 images"),
        ({"caption": "c"}, 0, "placeholders", "a caption, but no image"),
        ({"conversations": turns("what?", "a cat")}, 1, "placeholders", "0 <image> .*but 1 images"),
        (
            {"messages": [*CHAT, {"role": "system", "content": "be nice"}]},
            0,
            "schema",
            "turn 2: a system message",
        ),
        ({"messages": None}, 0, "schema", "must be a non-empty list"),
        ({"messages": ["hi"]}, 0, "schema", "turn 0: expected"),
        ({"messages": []}, 1, "schema", "must be a non-empty list"),
        ({"texts": ["hi"]}, 0, "schema", "texts must be a list of mappings"),
        ({"caption": "c", "category": 3}, 1, "schema", "category must be text"),
        ({"caption": "\ud800"}, 1, "schema", "surrogate"),
    ],
)
def test_bad_records(record, images, reason, message):
    with pytest.raises(BadSample, match=message) as caught:
        row(record, images)
    assert caught.value.reason == reason
    assert str(caught.value).startswith("here")


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (["a", "b"], {}, r"no column holds a conversation; possible: conversations; .*the columns are: a, b"),
        (
            ["query", "answer"],
            {"question": "qeury"},
            "has no 'qeury' for columns.question; .*did you mean 'query'",
        ),
        (["q", "caption"], {"question": "q"}, "no column holds a conversation"),
    ],
)
def test_columns_that_do_not_fit(names, given, message):
    with pytest.raises(UserError, match=message):
        Columns(given, names, "here")
