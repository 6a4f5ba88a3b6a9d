"""LLaVA rows: what is read, and every fault with file, row and what was expected."""

import json
import os
import sys

import pytest
from PIL import Image
from shards import turns

from vlm_core.errors import BadSample, UserError
from vlm_core.rows import readable
from vlm_core.text.render import IMAGE, Message
from vlm_train.data.dataset import messages
from vlm_train.data.llava import LlavaConfig
from vlm_train.engine.bad_samples import refuse

OPENED: list[str] = []
sys.addaudithook(lambda event, args: OPENED.append(str(args[0])) if event == "open" else None)
GOOD = {"id": "a", "image": "x.png", "conversations": turns("<image>\nwhat?", "a cat")}


@pytest.fixture
def folder(tmp_path):
    """x.png, and around it everything that a name must not lead to."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for path in (inside / "folder", outside):
        path.mkdir(parents=True)
    for path in (inside / "x.png", outside / "y.png"):
        Image.new("RGB", (4, 4)).save(path)
    os.mkfifo(inside / "fifo")
    (inside / "device").symlink_to("/dev/zero")
    (inside / "out.png").symlink_to(outside / "y.png")
    (inside / "in.png").symlink_to("x.png")
    (inside / "outside").symlink_to(outside)
    return inside


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
        ({"image": "none.png"}, "row 0: image is missing: .*none.png; set images:"),
        ({"image": "folder"}, "no regular file"),
        ({"image": "fifo"}, "no regular file"),
        ({"image": "device"}, "leaves .* by a symbolic link"),
        ({"image": "out.png"}, "leaves .* by a symbolic link; allow it with symlinks: true"),
        ({"image": "outside/y.png"}, "leaves .* by a symbolic link"),
        ({"image": "pipe:touch canary"}, "must be a name inside"),
        ({"category": 3}, "category must be text"),
        ({"conversations": turns("<image>\ud800", "x")}, "unpaired surrogate"),
        ({"image": "/etc/passwd"}, "must be a name inside"),
        ({"image": "../x.png"}, "must be a name inside"),
        ({"image": "a\0b"}, "must be a name inside"),
        ({"image": "http://x/y.png"}, "must be a name inside"),
        ({"image": 7}, "image 7 must be a name inside"),
    ],
)
def test_faults(folder, change, message):
    """The row is bad, the ones beside it are not, and nothing that it names is ever opened."""
    OPENED.clear()
    rows = read(folder, GOOD, {**GOOD, **change}, GOOD)
    message = message.replace("row 0", "row 1")
    assert list(rows.faults()) == [1]
    with pytest.raises(BadSample, match=message) as caught:
        rows[1]
    assert "data.json" in str(caught.value)
    assert rows[0] == rows[2]
    assert {name for name in OPENED if "inside" in name or "outside" in name} == {str(folder / "data.json")}
    with pytest.raises(UserError, match=message):
        refuse(rows.faults(), len(rows), "here", "mend them")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.json", "[", "d.json: not valid JSON"),
        ("d.json", "{}", "expected a list of rows, got dict"),
        ("d.json", "[]", "has no rows"),
        ("d.json", "[{} {}]", r"not valid JSON: expected , or ] after an item .row 1, near byte 4\)$"),
        ("d.json", "[{}, {}", r"not valid JSON: .*; is the file cut off\?$"),
        ("d.json", '[{}, {"id": "a', r"not valid JSON: .*; is the file cut off\?$"),
        ("d.json", "[{}]x", "unexpected text after the list"),
        ("d.json", "[{},]", "not valid JSON: Expecting value .row 1"),
        ("d.json", "[" * 100_000, "not valid JSON"),
        ("d.json", "[" + "9" * 5000 + "]", "not valid JSON: Exceeds the limit"),
        ("d.json", "", "d.json: not valid JSON"),
        ("d.jsonl", "\n\n", "has no rows"),
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
    with pytest.raises(UserError, match=r"not valid JSON: .*invalid start byte"):
        LlavaConfig(path=str(tmp_path / "x.json")).rows()
    with pytest.raises(UserError, match=r"cannot be read: Is a directory"):
        LlavaConfig(path=str(tmp_path)).rows()


def test_lines_are_bad_one_by_one(folder):
    """What is wrong with a line of JSON lines concerns that line alone."""
    good = json.dumps(GOOD).encode()
    lines = [good, b"{", b'{"a": \xff}', b"3", good, b"9" * 5000, b"[" * 100_000]
    (folder / "d.jsonl").write_bytes(b"\n\n".join(lines))
    rows = LlavaConfig(path=str(folder / "d.jsonl")).rows()
    assert {i: e.reason for i, e in rows.faults().items()} == {
        1: "json",
        2: "json",
        3: "schema",
        5: "json",
        6: "json",
    }
    assert "d.jsonl, line 3: not valid JSON" in str(rows.faults()[1])
    assert [row["id"] for row in readable(rows)] == ["a", "a"]


def test_links_inside_are_followed_and_others_on_request(folder):
    assert read(folder, {**GOOD, "image": "in.png"})[0]["image"] == [str(folder / "in.png")]
    (folder / "data.json").write_text(json.dumps([{**GOOD, "image": "out.png"}]))
    rows = LlavaConfig(path=str(folder / "data.json"), symlinks=True).rows()
    assert not rows.faults()


def test_turns_before_the_first_question_are_left_out_and_counted(folder, caplog):
    opened = {**GOOD, "conversations": [{"from": "gpt", "value": "hello"}, *GOOD["conversations"]]}
    assert read(folder, opened, GOOD)[0]["conversations"] == GOOD["conversations"]
    assert "in 1 rows gpt speaks first" in caplog.text
