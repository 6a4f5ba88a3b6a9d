"""Rows as LLaMA-Factory, ms-swift and OpenAI write them are read alike in every format, or are bad by name."""

import json

import pytest
from PIL import Image
from shards import answer, colour, data_url, parquet, png, said, tar, text, turns, user

from vlm_core.errors import BadSample, UserError
from vlm_core.io.images import image_bytes
from vlm_train.data.llava import LlavaConfig
from vlm_train.data.parquet import ParquetConfig
from vlm_train.data.webdataset import WebDatasetConfig

RED, BLUE = (255, 0, 0), (0, 0, 255)
SHOWN = "<image>\nwhat?"
URL = {"type": "image_url", "image_url": {"url": data_url("red"), "detail": "low"}}
NAMED = {"type": "image", "image": "red.png"}


def messages(*content, **more):
    return {"messages": [user(*content), answer("a cat")], **more}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data" / "broken").mkdir(parents=True)
    for name in ("red", "blue"):
        Image.new("RGB", (20, 30), name).save(tmp_path / "data" / f"{name}.png")
    return tmp_path / "data"


def llava(folder, *rows, suffix="json", **keys):
    path = folder / f"rows.{suffix}"
    path.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    return LlavaConfig(path=str(path), **keys).rows()


def columns(folder, *rows, **keys):
    return ParquetConfig(path=str(parquet(folder / "rows.parquet", list(rows))), **keys).rows()


def shard(folder, *rows, **keys):
    """Images that a row names are members beside it."""
    members = {}
    for i, row in enumerate(rows):
        names = sorted(name for name in ("red.png", "blue.png") if name in json.dumps(row))
        members |= {f"{i}.{name}": (folder / name).read_bytes() for name in names}
        members[f"{i}.json"] = (
            json.dumps(row).replace('"red.png"', f'"{i}.red.png"').replace('"blue.png"', f'"{i}.blue.png"')
        )
    return WebDatasetConfig(path=str(tar(folder / "rows.tar", members)), **keys).rows()


WRITERS = [llava, columns, shard]
GOOD = [
    (messages(URL, text("what?")), [SHOWN, "a cat"], [RED]),
    (messages(NAMED, text("what?")), [SHOWN, "a cat"], [RED]),
    (messages({"type": "image"}, text("what?"), images=["red.png"]), [SHOWN, "a cat"], [RED]),
    (messages({"type": "image", "index": 1}, text("and"), {"type": "image", "index": 0},
              images=["red.png", "blue.png"]), ["<image>\nand\n<image>", "a cat"], [BLUE, RED]),
    (messages({"image": "red.png"}, {"text": "what?"}), [SHOWN, "a cat"], [RED]),
    (messages({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data_url("red")[22:]}},
              text("what?")), [SHOWN, "a cat"], [RED]),
    ({"messages": [{"role": "user", "content": SHOWN}, {"role": "assistant", "content": "a cat"}],
      "images": [{"path": "red.png"}]}, [SHOWN, "a cat"], [RED]),
    ({"messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a cat"}],
      "images": ["red.png"], "videos": [], "tools": None}, [SHOWN, "a cat"], [RED]),
    ({"conversations": turns("<image><image>\nsame?", "no"), "images": ["red.png", "blue.png"], "system": "be brief"},
     ["<image><image>\nsame?", "no"], [RED, BLUE]),
    ({"instruction": "<image>", "input": "what?", "output": "a cat", "images": ["red.png"], "system": ""},
     [SHOWN, "a cat"], [RED]),
    ({"query": SHOWN, "response": "a cat", "history": [["hi", "yo"]], "images": [data_url("blue")]},
     ["hi", "yo", SHOWN, "a cat"], [BLUE]),
    ({"conversation": [{"human": "what?", "assistant": "a cat"}], "images": ["red.png"]}, [SHOWN, "a cat"], [RED]),
    ({"conversations": [{"from": "system", "value": "be brief"}, *turns("hi", "yo")], "image": None}, ["hi", "yo"], []),
    ({"messages": [{"role": "user", "content": {"type": "text", "text": "hi"}},
                   {"role": "assistant", "content": {"type": "text", "text": "yo"}}]}, ["hi", "yo"], []),
    ({"conversations": [{**turn, "loss": None if turn["from"] == "human" else True} for turn in turns("hi", "yo")],
      "url": "u", "id": 3, "image_url": "", "weight": 1.0, "path": "shard-3.tar"}, ["hi", "yo"], []),
    ({"conversations": turns("<video>\n<source>\n</video>\nis this HTML?", "yes")},
     ["<video>\n<source>\n</video>\nis this HTML?", "yes"], []),
    ({"messages": [{"role": "user", "content": "hi", "from": "human", "value": "hi"},
                   {"role": "assistant", "content": "yo"}]}, ["hi", "yo"], []),
]  # fmt: skip


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
        assert rows.sizes().tolist() == [[length, len(colours)]]


BAD = [
    (messages({"type": "video", "video": "a.mp4"}, text("what?")),
     "turn 0, part 0: unknown type 'video'; possible"),
    (messages({"type": "input_audio", "input_audio": {"data": "x"}}), "unknown type 'input_audio'"),
    (messages({"type": "tool_use", "name": "x"}, text("a")), "unknown type 'tool_use'"),
    (messages({"foo": "x"}, text("a")), "a part without type, text or image; its keys: foo"),
    (messages({"type": "text", "text": "a", "video": "a.mp4"}), "'video' is not read in a part of type 'text'"),
    (messages({"type": "image", "image": "red.png", "url": "blue.png"}),
     "an image is given twice, by image and url; give one"),
    (messages({"type": "image", "image": {"href": "red.png"}}), "unknown key 'href' of an image; possible"),
    (messages({"type": "image_url", "image_url": {"url": "data:video/mp4;base64,AA"}}),
     "holds video/mp4, not an image"),
    (messages({"type": "image", "image": {"detail": "low"}}, images=["red.png"]), "part 0: no image in"),
    (messages({"type": "image_url", "image_url": {"url": "data:image/png,AA"}}), "is not a base64 data: URL"),
    (messages({"type": "image"}, text("a")), "1 <image> in the human turns, but 0 images"),
    (messages({"type": "image", "index": 0}, {"type": "image", "index": 0}, images=["red.png", "blue.png"]),
     "image 1 of the row has no place in the text"),
    ({"messages": [user(text("a")), {"role": "assistant", "content": [{"type": "image"}]}]},
     "an image in a turn of 'assistant'"),
    ({"messages": [user(text("a")), {"role": "tool", "content": [text("b")]}, answer("c")]},
     "turn 1: unknown role 'tool'"),
    ({"conversations": [*turns("a", "b"), {"from": "observation", "value": "c"}]},
     "turn 2: unknown role 'observation'"),
    ({"messages": [user(text("a")), {**answer("b"), "loss": False}]}, "turn 1: loss: False is not supported"),
    ({"messages": [user(text("a")), {**answer("b"), "weight": 0}]}, "turn 1: weight: 0 is not supported"),
    ({"messages": [user(text("a")), {**answer("b"), "tool_calls": [{"id": "x"}]}]},
     "turn 1: 'tool_calls' is not read"),
    ({**messages(text("a")), "videos": ["a.mp4"]}, "'videos' is not read, but holds .*; rename it, or .* in ignore:"),
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
    ({"messages": [user(text("a")), {**answer("b"), "reasoning_content": "c"}]},
     "turn 1: 'reasoning_content' is not read"),
    ({**messages(text("a")), "image": "red.png", "images": ["blue.png"]}, "images under both 'image' and 'images'"),
    ({**messages(text("a")), "history": [["a", "b"]]}, "'history' is not read"),
    ({"query": "a", "response": "b", "history": ["a"]}, "history must be a list of .question, answer."),
    ({"instruction": "a", "output": "b", "system": ["x"]}, "system must be text"),
    ({"messages": [{"role": "system", "content": [text("x")]}, user(text("a")), answer("b")], "system": "y"},
     "two system prompts"),
    ({"conversation": turns("a", "b")},
     "conversation 0: expected {human, assistant}, .*'conversations' or 'messages'"),
    ({"message": turns("a", "b")},
     "no column holds a conversation; .*the columns are: id, message; did you mean 'messages' for 'message'"),
    ({"captions": "a", "image": "red.png"}, "did you mean 'caption' for 'captions'"),
    *((messages(text(f"{mark}\nwhat?")), "is not read; the placeholder of an image is '<image>'")
      for mark in ("<video>", "<audio>", "Picture 1: <img>red.png</img>", "look at <image_1>", "<|image_1|>",
                   "<|vision_start|><|image_pad|><|vision_end|>")),
    ({**messages(text("a")), "weight": 0.1}, "'weight' is not read, but holds 0.1"),
    ({**messages(text("a")), "path": "a/red.PNG"}, "'path' is not read, but holds 'a/red.PNG'"),
    ({"conversations": [{"from": "human", "value": "a", "role": "assistant"}, turns("a", "b")[1]]},
     "role and value|role and content contradict from and value"),
]  # fmt: skip


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


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_named_in_ignore_is_left_out_on_purpose(folder, write):
    row = {"conversations": turns("hi", "yo"), "objects": {"bbox": [[1, 2]]}}
    assert said(write(folder, row, ignore=["objects"])[0]) == ["hi", "yo"]


def test_a_column_to_ignore_must_be_there(folder):
    with pytest.raises(UserError, match="has no 'objcts' to ignore; possible: conversations"):
        columns(folder, {"conversations": turns("hi", "yo")}, ignore=["objcts"])


@pytest.mark.parametrize(
    ("name", "found"),
    [("{root}/red.png", True), ("file://{root}/red.png", True), ("images/red.png", True), ("own/images/red.png", True),
     ("./red.png", True), ("/etc/passwd", "must be a name inside"), ("{root}/../secret.png", "must be a name inside"),
     ("file:///etc/passwd", "must be a name inside"), ("file://host{root}/red.png", "must be a name inside"),
     ("https://x/y.png", "training downloads no images"), ("images\\red.png", "is a Windows path"),
     ("C:\\images\\red.png", "is a Windows path"), ("images/none.png", "image is missing")],
)  # fmt: skip
def test_names_of_images(tmp_path, name, found):
    """Absolute ones, those that begin with the folder's name, and the faults of others."""
    root = tmp_path / "own" / "images"
    root.mkdir(parents=True)
    for path in (root / "red.png", root.parent / "secret.png"):
        Image.new("RGB", (20, 30), "red").save(path)
    row = {"conversations": turns("<image>", "x"), "image": name.format(root=root)}
    rows = llava(tmp_path, row, images=str(root))
    if found is not True:
        with pytest.raises(BadSample, match=found):
            rows[0]
    else:
        assert colour(rows[0]) == RED


@pytest.mark.parametrize("write", WRITERS)
def test_an_image_inside_a_row_has_the_limits_of_a_file(folder, write, monkeypatch):
    row = write(folder, messages(URL, text("what?")))[0]
    assert image_bytes(row["image"][0]) == png("red")
    broken = {"type": "image_url", "image_url": {"url": data_url("red")[:-3] + "!"}}
    with pytest.raises(BadSample, match="the image is not valid base64"):
        image_bytes(write(folder / "broken", messages(broken))[0]["image"][0])
    monkeypatch.setattr("vlm_train.data.conversation.image_values.MAX_BYTES", 10)
    with pytest.raises(BadSample, match=r"rows\.\w+: .*image 0: \d+ bytes; at most 10 are read"):
        image_bytes(row["image"][0])


@pytest.mark.parametrize("write", WRITERS)
def test_a_turn_of_gpt_before_the_first_question_is_left_out_in_every_format(folder, write, caplog):
    opened = {"conversations": [{"from": "gpt", "value": "hello"}, *turns("hi", "yo")]}
    assert said(write(folder, opened, opened)[1]) == ["hi", "yo"]
    assert caplog.text.count("gpt speaks first; that turn is not used") == 1


def test_a_sample_of_a_shard_takes_its_images_in_the_order_in_which_json_names_them(folder):
    row = {"conversations": turns("<image> <image>", "x"), "images": ["red.png", "blue.png"]}
    assert [colour(shard(folder, row)[0], k) for k in (0, 1)] == [RED, BLUE], (
        "members stand the other way round"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [({"conversations": turns("<image>", "x"), "image": "a/none.png"},
      ".json names 1 images .'a/none.png'., but the sample has 0"),
     (messages({"type": "image", "image": "none.png"}), "image 'none.png' is not a member of this sample")],
)  # fmt: skip
def test_a_sample_of_a_shard_lacks_an_image(folder, row, message):
    with pytest.raises(BadSample, match=message):
        shard(folder, row)[0]


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
    reader = dataset.SampleProcessor(lambda image: image, len, None, None, "answers", 9)  # pyright: ignore[reportArgumentType]
    for module, read in ((dataset, reader.untruncated), (held_out, lambda row: held_out._prompt(row, reader, {}))):
        monkeypatch.setattr(module, "render", write)
        for row in rows:
            with pytest.raises(BadSample, match="enough"):
                read(row)
    assert written == ["be brief", None] * 2
    config = LlavaConfig(path=str(folder / "rows.json"))
    assert list(TrainTokenizer(dataset=config, vocab_size=300).texts()) == ["be brief", "hi", "yo", "a", "b"]


def test_an_index_that_is_kept_knows_ids_and_images_inside_rows(folder, monkeypatch):
    monkeypatch.setattr("vlm_train.data.json_files.json_index.MIN_CACHED_BYTES", 1)
    monkeypatch.setenv("VLM_CACHE", str(folder / "cache"))
    found = [
        messages(URL, text("what?"), id="a"),
        messages(NAMED, text("what?")),
        {"id": "b", "videos": ["x"]},
        messages({"type": "image", "image": "none.png"}, id="c"),
        messages(URL, NAMED, objects=[1]),
    ]
    llava(folder, *found)
    for ignore, bad in (
        ([], {2: "b", 3: "c", 4: f"{folder}/rows.json: row 4"}),
        (["objects"], {2: "b", 3: "c"}),
    ):
        for _ in range(2):
            rows = LlavaConfig(path=str(folder / "rows.json"), ignore=ignore).rows()
            assert {row: error.row for row, error in rows.faults().items()} == bad
            assert [colour(rows[i]) for i in (0, 1)] == [RED, RED]
