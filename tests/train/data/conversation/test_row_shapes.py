"""Rows as LLaMA-Factory, ms-swift and OpenAI write them are read alike in every format."""

import json

import pytest
from row_writers import BLUE, NAMED, RED, SHOWN, URL, WRITERS, columns, llava, messages
from shards import colour, data_url, said, text, turns

from vlm_core.errors import BadSample, UserError
from vlm_train.data.llava import LlavaConfig

GOOD = [
    (messages(URL, text("what?")), [SHOWN, "a cat"], [RED]),
    (messages(NAMED, text("what?")), [SHOWN, "a cat"], [RED]),
    (messages({"type": "image"}, text("what?"), images=["red.png"]), [SHOWN, "a cat"], [RED]),
    (
        messages(
            {"type": "image", "index": 1},
            text("and"),
            {"type": "image", "index": 0},
            images=["red.png", "blue.png"],
        ),
        ["<image>\nand\n<image>", "a cat"],
        [BLUE, RED],
    ),
    (messages({"image": "red.png"}, {"text": "what?"}), [SHOWN, "a cat"], [RED]),
    (
        messages(
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": data_url("red")[22:]},
            },
            text("what?"),
        ),
        [SHOWN, "a cat"],
        [RED],
    ),
    (
        {
            "messages": [{"role": "user", "content": SHOWN}, {"role": "assistant", "content": "a cat"}],
            "images": [{"path": "red.png"}],
        },
        [SHOWN, "a cat"],
        [RED],
    ),
    (
        {
            "messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a cat"}],
            "images": ["red.png"],
            "videos": [],
            "tools": None,
        },
        [SHOWN, "a cat"],
        [RED],
    ),
    (
        {
            "conversations": turns("<image><image>\nsame?", "no"),
            "images": ["red.png", "blue.png"],
            "system": "be brief",
        },
        ["<image><image>\nsame?", "no"],
        [RED, BLUE],
    ),
    (
        {"instruction": "<image>", "input": "what?", "output": "a cat", "images": ["red.png"], "system": ""},
        [SHOWN, "a cat"],
        [RED],
    ),
    (
        {"query": SHOWN, "response": "a cat", "history": [["hi", "yo"]], "images": [data_url("blue")]},
        ["hi", "yo", SHOWN, "a cat"],
        [BLUE],
    ),
    (
        {"conversation": [{"human": "what?", "assistant": "a cat"}], "images": ["red.png"]},
        [SHOWN, "a cat"],
        [RED],
    ),
    (
        {"conversations": [{"from": "system", "value": "be brief"}, *turns("hi", "yo")], "image": None},
        ["hi", "yo"],
        [],
    ),
    (
        {
            "messages": [
                {"role": "user", "content": {"type": "text", "text": "hi"}},
                {"role": "assistant", "content": {"type": "text", "text": "yo"}},
            ]
        },
        ["hi", "yo"],
        [],
    ),
    (
        {
            "conversations": [
                {**turn, "loss": None if turn["from"] == "human" else True} for turn in turns("hi", "yo")
            ],
            "url": "u",
            "id": 3,
            "image_url": "",
            "weight": 1.0,
            "path": "shard-3.tar",
        },
        ["hi", "yo"],
        [],
    ),
    (
        {"conversations": turns("<video>\n<source>\n</video>\nis this HTML?", "yes")},
        ["<video>\n<source>\n</video>\nis this HTML?", "yes"],
        [],
    ),
    (
        {
            "messages": [
                {"role": "user", "content": "hi", "from": "human", "value": "hi"},
                {"role": "assistant", "content": "yo"},
            ]
        },
        ["hi", "yo"],
        [],
    ),
]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("case", GOOD, ids=range(len(GOOD)))
def test_rows_are_read_alike_in_every_format(folder, write, case):
    row, words, colours = case
    rows = write(folder, row)
    assert not rows.faults(), rows.faults()
    assert said(rows[0]) == words
    assert [colour(rows[0], k) for k in range(len(rows[0]["image"]))] == colours
    has_system = "be brief" in json.dumps(row)
    assert rows[0].get("system") == ("be brief" if has_system else None)
    if rows.sizes() is not None:
        length = sum(map(len, words)) + 8 * has_system
        assert rows.sizes().tolist() == [[length, len(colours), 0]]


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_named_in_ignore_is_left_out_on_purpose(folder, write):
    row = {"conversations": turns("hi", "yo"), "objects": {"bbox": [[1, 2]]}}
    assert said(write(folder, row, ignore=["objects"])[0]) == ["hi", "yo"]


def test_a_column_to_ignore_must_be_there(folder):
    with pytest.raises(UserError, match="has no 'objcts' to ignore; possible: conversations"):
        columns(folder, {"conversations": turns("hi", "yo")}, ignore=["objcts"])


@pytest.mark.parametrize("write", WRITERS)
def test_a_turn_of_gpt_before_the_first_question_is_left_out_in_every_format(folder, write, caplog):
    opened = {"conversations": [{"from": "gpt", "value": "hello"}, *turns("hi", "yo")]}
    assert said(write(folder, opened, opened)[1]) == ["hi", "yo"]
    assert caplog.text.count("gpt speaks first; that turn is not used") == 1


def test_the_system_text_of_a_row_reaches_the_template(folder, monkeypatch):
    """In training, in evaluation, and where a tokenizer learns from the rows."""
    from vlm_llms.configs import TrainTokenizer
    from vlm_train.data import dataset
    from vlm_train.evaluation import held_out

    written = []

    def write(*args, **keys):
        written.append(keys["system"])
        raise BadSample("schema", "enough")

    rows = llava(
        folder, {"conversations": turns("hi", "yo"), "system": "be brief"}, {"conversations": turns("a", "b")}
    )
    reader = dataset.SampleProcessor(lambda image: image, len, None, None, "answers", 9, None)  # pyright: ignore[reportArgumentType]
    for module, read in (
        (dataset, reader.untruncated),
        (held_out, lambda row: held_out._prompt(row, reader, {})),
    ):
        monkeypatch.setattr(module, "render", write)
        for row in rows:
            with pytest.raises(BadSample, match="enough"):
                read(row)
    assert written == ["be brief", None] * 2
    config = LlavaConfig(path=str(folder / "rows.json"))
    assert list(TrainTokenizer(dataset=config, vocab_size=300).texts()) == ["be brief", "hi", "yo", "a", "b"]
