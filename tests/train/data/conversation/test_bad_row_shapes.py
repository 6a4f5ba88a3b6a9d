"""A row that is not understood is a bad row, with its key or part, in every format."""

import pytest
from row_writers import WRITERS, columns, messages
from shards import answer, text, turns, user

from vlm_core.errors import BadSample, UserError

BAD = [
    (
        messages({"type": "audio", "audio": "a.mp3"}, text("what?")),
        "turn 0, part 0: unknown type 'audio'; possible",
    ),
    (messages({"type": "input_audio", "input_audio": {"data": "x"}}), "unknown type 'input_audio'"),
    (messages({"type": "tool_use", "name": "x"}, text("a")), "unknown type 'tool_use'"),
    (messages({"foo": "x"}, text("a")), "a part without type, text or image; its keys: foo"),
    (
        messages({"type": "text", "text": "a", "video": "a.mp4"}),
        "'video' is not read in a part of type 'text'",
    ),
    (
        messages({"type": "image", "image": "red.png", "url": "blue.png"}),
        "an image is given twice, by image and url; give one",
    ),
    (messages({"type": "image", "image": {"href": "red.png"}}), "unknown key 'href' of an image; possible"),
    (
        messages({"type": "image_url", "image_url": {"url": "data:video/mp4;base64,AA"}}),
        "holds video/mp4, not an image",
    ),
    (messages({"type": "image", "image": {"detail": "low"}}, images=["red.png"]), "part 0: no image in"),
    (messages({"type": "image_url", "image_url": {"url": "data:image/png,AA"}}), "is not a base64 data: URL"),
    (messages({"type": "image"}, text("a")), "1 <image> in the human turns, but 0 images"),
    (
        messages(
            {"type": "image", "index": 0}, {"type": "image", "index": 0}, images=["red.png", "blue.png"]
        ),
        "image 1 of the row has no place in the text",
    ),
    (
        {"messages": [user(text("a")), {"role": "assistant", "content": [{"type": "image"}]}]},
        "an image in a turn of 'assistant'",
    ),
    (
        {"messages": [user(text("a")), {"role": "tool", "content": [text("b")]}, answer("c")]},
        "turn 1: unknown role 'tool'",
    ),
    (
        {"conversations": [*turns("a", "b"), {"from": "observation", "value": "c"}]},
        "turn 2: unknown role 'observation'",
    ),
    (
        {"messages": [user(text("a")), {**answer("b"), "loss": False}]},
        "turn 1: loss: False is not supported",
    ),
    ({"messages": [user(text("a")), {**answer("b"), "weight": 0}]}, "turn 1: weight: 0 is not supported"),
    (
        {"messages": [user(text("a")), {**answer("b"), "tool_calls": [{"id": "x"}]}]},
        "turn 1: 'tool_calls' is not read",
    ),
    (
        {**messages(text("a")), "audios": ["a.mp3"]},
        "'audios' is not read, but holds .*; rename it, or .* in ignore:",
    ),
    ({**messages(text("a")), "rejected_response": "no"}, "'rejected_response' is not read"),
    ({**messages(text("a")), "chosen": {"from": "gpt", "value": "x"}}, "'chosen' is not read"),
    ({**messages(text("a")), "objects": {"bbox": [[1, 2]]}}, "'objects' is not read"),
    ({**messages(text("a")), "label": False}, "'label' is not read, but holds False"),
    ({**messages(text("a")), "tools": "[]x"}, "'tools' is not read"),
    ({**messages(text("a")), "img": "x.png"}, "'img' is not read, but holds 'x.png'; did you mean 'image'"),
    ({**messages(text("a")), "image_path": "x.png"}, "'image_path' is not read"),
    ({"question": "a", "answer": "b", "image_id": 139}, "'image_id' is not read, but holds 139"),
    ({"question": "a", "answer": "b", "media": ["red.png"]}, "'media' is not read"),
    ({"instruction": "a", "output": "b", "inputs": "c"}, "'inputs' is not read, .*did you mean 'input'"),
    ({"instruction": "a", "output": "b", "input": 0}, "turn 0: expected text, got 0"),
    (
        {"messages": [user(text("a")), {**answer("b"), "reasoning_content": "c"}]},
        "turn 1: 'reasoning_content' is not read",
    ),
    (
        {**messages(text("a")), "image": "red.png", "images": ["blue.png"]},
        "images under both 'image' and 'images'",
    ),
    ({**messages(text("a")), "history": [["a", "b"]]}, "'history' is not read"),
    ({"query": "a", "response": "b", "history": ["a"]}, "history must be a list of .question, answer."),
    ({"instruction": "a", "output": "b", "system": ["x"]}, "system must be text"),
    (
        {
            "messages": [{"role": "system", "content": [text("x")]}, user(text("a")), answer("b")],
            "system": "y",
        },
        "two system prompts",
    ),
    (
        {"conversation": turns("a", "b")},
        "conversation 0: expected {human, assistant}, .*'conversations' or 'messages'",
    ),
    (
        {"message": turns("a", "b")},
        "no column holds a conversation; .*the columns are: id, message; did you mean 'messages' for 'message'",
    ),
    ({"captions": "a", "image": "red.png"}, "did you mean 'caption' for 'captions'"),
    *(
        (messages(text(f"{mark}\nwhat?")), "is not read; the placeholder of an image is '<image>'")
        for mark in (
            "<video>",
            "<audio>",
            "Picture 1: <img>red.png</img>",
            "look at <image_1>",
            "<|image_1|>",
            "<|vision_start|><|image_pad|><|vision_end|>",
        )
    ),
    ({**messages(text("a")), "weight": 0.1}, "'weight' is not read, but holds 0.1"),
    ({**messages(text("a")), "path": "a/red.PNG"}, "'path' is not read, but holds 'a/red.PNG'"),
    (
        {"conversations": [{"from": "human", "value": "a", "role": "assistant"}, turns("a", "b")[1]]},
        "role and value|role and content contradict from and value",
    ),
]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("case", BAD, ids=range(len(BAD)))
def test_what_is_not_understood_is_a_bad_row_by_name(folder, write, case):
    row, message = case
    with pytest.raises(UserError, match=rf"rows\.\w+: .*{message}"):
        write(folder, {**row, "id": "bad"})[0]
    if write is not columns or row.keys() & {
        "messages",
        "conversations",
        "conversation",
        "query",
        "instruction",
    }:
        with pytest.raises(BadSample) as caught:
            write(folder, {**row, "id": "bad"})[0]
        assert caught.value.row == "bad"
