"""LLaVA rows: what is read, and every fault with file, row and what was expected."""

import json

import pytest
from PIL import Image

from vlm_core.chat import IMAGE, Message
from vlm_core.errors import UserError
from vlm_train.examples import messages
from vlm_train.llava import LlavaConfig


def turns(*values):
    return [{"from": ("human", "gpt")[i % 2], "value": v} for i, v in enumerate(values)]


GOOD = {"id": "a", "image": "x.png", "conversations": turns("<image>\nwhat?", "a cat")}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    return tmp_path


def read(folder, *rows, name="data.json"):
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows)) + "\n\n"
    (folder / name).write_text(text)
    return LlavaConfig(path=str(folder / name)).rows()


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_images_text_only_and_several_images(folder, name):
    text = {"id": "b", "conversations": turns("hi", "yo", "so", "no")}
    two = {"id": "c", "image": ["x.png", "x.png"], "conversations": turns("<image> and <image>", "same")}
    rows = read(folder, GOOD, text, two, name=name)
    assert [len(r["image"]) for r in rows] == [1, 0, 2]
    assert rows[0]["image"] == [str(folder / "x.png")]


def test_only_the_human_places_images():
    row = {"conversations": turns("look: <image>\nwhat?", "an <image> tag")}
    assert messages(row) == [
        Message("user", ("look: ", IMAGE, "\nwhat?")),
        Message("assistant", ("an <image> tag",)),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conversations": []}, "row 0: conversations must be a non-empty list"),
        ({"conversations": turns("<image>hi")}, "the last turn must be gpt's answer"),
        ({"conversations": turns("<image>hi", "yo")[::-1]}, "turn 0: expected {from: human, value: text}"),
        ({"conversations": [{"from": "human", "value": 3}]}, "turn 0: expected"),
        ({"conversations": turns("no placeholder", "x")}, "0 <image> in the human turns, but 1 images"),
        ({"conversations": turns("<image><image>", "x")}, "2 <image> in the human turns, but 1 images"),
        ({"image": None}, "1 <image> in the human turns, but 0 images"),
        ({"image": "none.png"}, "1 images are missing: .*none.png .row a."),
        ({"image": "/etc/passwd"}, "must be a name inside"),
        ({"image": "../x.png"}, "must be a name inside"),
        ({"image": "a\0b"}, "must be a name inside"),
        ({"image": "http://x/y.png"}, "must be a name inside"),
        ({"image": 7}, "image 7 must be a name inside"),
    ],
)
def test_faults(folder, change, message):
    with pytest.raises(UserError, match=message) as caught:
        read(folder, {**GOOD, **change})
    assert "data.json" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.json", "[", "d.json: not valid JSON"),
        ("d.json", "{}", "expected a list of rows, got dict"),
        ("d.json", "[]", "holds no rows"),
        ("d.json", "[3]", "row 0: expected a mapping"),
        ("d.jsonl", "\n{", "d.jsonl, line 2: not valid JSON"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        LlavaConfig(path=str(tmp_path / name)).rows()


def test_missing_file_and_bad_bytes(tmp_path):
    with pytest.raises(UserError, match="no such data file"):
        LlavaConfig(path=str(tmp_path / "none.json")).rows()
    (tmp_path / "x.json").write_bytes(b"\xff\xfe[]")
    with pytest.raises(UserError, match="cannot be read"):
        LlavaConfig(path=str(tmp_path / "x.json")).rows()
