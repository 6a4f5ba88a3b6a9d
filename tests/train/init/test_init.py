"""`vlm-train init` writes a valid spec for data of any format, and says what is wrong with other data."""

import io
import json
import shlex
from pathlib import Path

import pytest
from init_data import pictures, row
from resume_helpers import call
from shards import parquet, png, tar
from videos import video

from vlm_core.io.video.sources import Sampling
from vlm_core.spec.spec import load_spec
from vlm_train.config.section import train_section
from vlm_train.init.sizes import SIZES

ROOT = Path(__file__).parents[3]
FORMATS = ("llava", "messages", "jsonl", "parquet", "webdataset")


def written(path="mine.yaml"):
    spec, document = load_spec(path)
    return spec, train_section(spec, document)


def data_file(kind, here):
    if kind == "messages":
        turns = [{"role": "user", "content": "what colour?"}, {"role": "assistant", "content": "red"}]
        rows = [{"messages": turns, "images": [f"{i}.png"]} for i in range(12)]
        Path("data.json").write_text(json.dumps(rows))
    if kind == "jsonl":
        Path("data.txt").write_text("".join(json.dumps(row(i)) + "\n" for i in range(12)))
        return "data.txt"
    images = [png((20 * i, 50, 50)) for i in range(12)]
    if kind == "parquet":
        records = [{"image": {"bytes": data}, "question": "what?", "answer": "red"} for data in images]
        return str(parquet(here / "shards" / "a.parquet", records).parent)
    if kind == "webdataset":
        members = {f"{i:02d}.png": data for i, data in enumerate(images)}
        return str(tar(here / "a.tar", members | {f"{i:02d}.txt": "a photo" for i in range(12)}))
    return "data.json"


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_detected(here, init, kind):
    code, said = init("mine", "--data", data_file(kind, here))
    assert code == 0, said.err
    _, train = written()
    data = train.stages[0].data[0]
    assert data.dataset.type_name() == {"messages": "llava", "jsonl": "llava"}.get(kind, kind)
    assert train.held_out_qa, kind
    held_out = train.held_out_qa.data[0].rows()
    assert len(data.rows()) + len(held_out) == 12
    assert f"{len(data.rows())} rows to train on, {len(held_out)} rows" in said.out


@pytest.fixture
def clips(here):
    """Rows about twelve videos, and one about two of them and an image."""
    rows = []
    for i in range(12):
        (here / "photos" / f"{i}.mp4").write_bytes(video(frames=10 + i, gop=5))
        turns = [{"from": "human", "value": "<video>\nwhich way?"}, {"from": "gpt", "value": "left"}]
        rows.append({"id": f"clip {i}", "video": f"{i}.mp4", "conversations": turns})
    turns = [{"from": "human", "value": "<video><video><image>\nsame?"}, {"from": "gpt", "value": "no"}]
    third = {"path": "1.mp4", "frames": 3}
    rows.append({"id": "two", "video": ["0.mp4", third], "image": "0.png", "conversations": turns})
    Path("clips.json").write_text(json.dumps(rows))
    return here


@pytest.mark.parametrize(("size", "length"), [("tiny", 2048), ("1.4b", 10240)])
def test_rows_with_videos(clips, init, size, length):
    """8 + 3 frames and an image of 729 tokens are 8,748; with 512 for text 9,260."""
    code, said = init("mine", "--data", "clips.json", "--size", size)
    assert code == 0, said.err
    spec, train = written()
    assert spec.views.sampling() == Sampling(frames=8)
    assert train.max_length == length
    asked = shlex.split(said.out.splitlines()[-1])
    assert asked[2] == "--video"
    assert Path(asked[3]).is_file()


def test_data_without_videos_has_no_key_for_them(here, init):
    assert init("mine", "--data", "data.json")[0] == 0
    assert "views" not in Path("mine.yaml").read_text()


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_a_valid_spec(here, init, size):
    code, said = init("mine", "--data", "data.json", "--size", size)
    assert code == 0, said.err
    spec, train = written()
    assert ("downloads" in said.out) == SIZES[size].pretrained
    assert ("state-spaces/mamba" in said.out) == SIZES[size].pretrained
    assert len(train.stages) == 1 + SIZES[size].pretrained
    assert spec.name == "mine"
    assert all(len(line) <= 120 for line in Path("mine.yaml").read_text().splitlines())


def test_the_next_commands_are_printed(here, init):
    _, said = init("mine", "--data", "data.json")
    commands = [shlex.split(line) for line in said.out.partition("next:\n")[2].splitlines()]
    assert commands[:2] == [["vlm-train", "check", "mine.yaml"], ["vlm-train", "run", "mine.yaml"]]
    assert commands[2][:3] == ["vlm-chat", "runs/mine/model", "--image"]
    assert Path(commands[2][3]).is_file()
    assert commands[2][4:] == ["--ask", "what colour?"]


def test_check_accepts_the_spec(here, init, monkeypatch, capsys):
    init("mine", "--data", "data.json")
    code, said = call(monkeypatch, capsys, "check", "mine.yaml")
    assert code == 0, said.err
    assert "no bad rows would stop training" in said.out


HOSTILE = "a: b #&*!|>{},[]'\"%@` \\\n é 日 👩‍🚀 \u2028 - null"


def test_names_of_any_characters_stay_names(here, init):
    folder = here / HOSTILE
    pictures(folder / "images: {a}")
    (folder / "rows\n# x.json").write_text(json.dumps([row(i) for i in range(12)]))
    code, said = init("mine", "--data", str(Path(HOSTILE) / "rows\n# x.json"))
    assert code == 0, said.err
    _, train = written()
    assert train.stages[0].data[0].dataset.path == f"{HOSTILE}/rows\n# x.json"
    assert train.stages[0].data[0].dataset.images == f"{HOSTILE}/images: {{a}}"


def test_few_images_are_all_trained_on(here, init):
    Path("data.json").write_text(json.dumps([row(i) for i in range(3)]))
    code, said = init("mine", "--data", "data.json")
    assert code == 0
    assert "nothing is held out: too few different images for an evaluation (3, at least 10)" in said.out
    _, train = written()
    assert train.held_out_qa is None
    assert len(train.stages[0].data[0].rows()) == 3
    assert init("mine", "--data", "data.json", "--force", "--held-out", "0.3")[0] == 0
    assert written()[1].held_out_qa


def test_copies_of_one_image_are_one_image(here, init):
    for i in range(12):
        Path(f"photos/{i}.png").write_bytes(png("red"))
    _, said = init("mine", "--data", "data.json")
    assert "too few different images for an evaluation (1, at least 10)" in said.out
    code, said = init("mine", "--data", "data.json", "--force", "--held-out", "0.3")
    assert code == 2
    assert "fewer than two different images" in said.err


def test_a_few_bad_rows_are_left_out_within_a_budget(here, init):
    pictures(here / "photos", 40)
    Path("photos/7.png").write_bytes(b"no image")
    Path("data.json").write_text(json.dumps([row(i) for i in range(41)]))
    code, said = init("mine", "--data", "data.json")
    assert code == 0, said.err
    assert "41 of 41 rows checked, 39 usable" in said.out
    assert "dropped: not-an-image 1, missing 1" in said.out
    _, train = written()
    assert (train.on_bad_sample, train.bad_sample_budget) == ("skip", 2)
    assert train.held_out_qa
    assert not {"7", "40"} & {r["id"] for r in train.held_out_qa.data[0].rows()}


def test_the_share_of_bad_rows_is_that_of_all_rows(here, init, monkeypatch):
    monkeypatch.setattr("vlm_train.init.data_facts.CHECKED_ROWS", 10)
    Path("photos/99.png").write_bytes(b"no image")
    rows = [row(i, image=f"{i % 12}.png") for i in range(99)] + [row(99)] + [row(i) for i in range(100, 108)]
    Path("data.json").write_text(json.dumps(rows))
    code, said = init("mine", "--data", "data.json")
    assert code == 0, said.err
    assert "18 of 108 rows checked" in said.out
    _, train = written()
    assert train.bad_sample_budget == pytest.approx(0.1)


def test_long_answers_get_a_validation_loss(here, init):
    long = "a wall that somebody has painted in a strong and warm red"
    Path("data.json").write_text(json.dumps([row(i, long) for i in range(12)]))
    init("mine", "--data", "data.json")
    _, train = written()
    assert train.held_out_qa is None
    assert train.validation
    assert len(train.validation.data[0].rows()) >= 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_is_asked_for_what_flags_leave_open(here, monkeypatch):
    from vlm_train.cli import main

    asked, answers = [], iter(["data.json", "", "small", "0.5"])

    def answer(question):
        asked.append(question)
        return next(answers)

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.argv", ["vlm-train", "init"])
    assert main.main() == 0
    assert len(asked) == 4
    assert "Size [tiny]: " in asked
    spec, train = written("data.yaml")
    assert spec.llm.d_model == 256
    assert train.stages[0].data[0].held_out == 0.5


def test_the_spec_of_the_example_is_what_init_writes(monkeypatch, init, tmp_path):
    monkeypatch.chdir(ROOT)
    code, said = init("own-data", "--data", "examples/own-data", "--out", str(tmp_path / "x.yaml"))
    assert code == 0, said.err
    assert (tmp_path / "x.yaml").read_text() == Path("specs/own-data.yaml").read_text()
