"""examples/vlm-moving: answers are what the frames show, and neither the question nor one frame tells them."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from vlm_core.errors import UserError
from vlm_core.testing import DatasetSuite
from vlm_moving.clips import COLOURS, DIRECTIONS, SHAPES, Frame, Passage, clip
from vlm_moving.pictures import draw
from vlm_moving.plugin import MovingConfig

STEPS = {"right": 1, "left": -1, "down": 3, "up": -3}


class TestMoving(DatasetSuite):
    @classmethod
    def make_config(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("frames") / "below"
        return MovingConfig(split="test", clips=3, frames=[8, 12], turns=2, folder=str(folder))

    def test_an_image_for_each_frame(self, rows):
        for row in rows:
            name = row["id"].split("-")
            assert len(row["image"]) == int(name[3]) == row["conversations"][0]["value"].count("<image>")


def seen(row) -> list[tuple[str, str, list[int], int]]:
    """(shape, colour, cells, last frame) of each passage, told from the names of the frames' files alone."""
    passages = []
    before = "empty"
    for number, path in enumerate(row["image"]):
        name = Path(path).stem
        if name != "empty":
            shape, colour, cell = name.split("-")
            if passages and before == name:
                passages[-1] = (shape, colour, passages[-1][2], number)
            elif passages and len(passages[-1][2]) < 3 and before.startswith(f"{shape}-{colour}-"):
                passages[-1] = (shape, colour, [*passages[-1][2], int(cell)], number)
            else:
                passages.append((shape, colour, [int(cell)], number))
        before = name
    return passages


def test_answers_are_what_the_frames_show(tmp_path):
    asked = Counter()
    for row in MovingConfig(split="test", clips=60, frames=[8, 40], folder=str(tmp_path)).rows():
        passages = seen(row)
        *_, length, distance, kind = row["id"].split("-")
        question, answer = (turn["value"].split("\n")[-1] for turn in row["conversations"])
        shape = question.rstrip("?").split()[-1]
        of_shape = [p for p in passages if p[0] == shape]
        if kind == "first":
            assert answer == passages[0][0]
        elif kind == "count":
            assert answer == str(len(of_shape))
        else:
            _, colour, cells, last = of_shape[-1]
            assert int(length) - 1 - last == int(distance)
            step = cells[1] - cells[0]
            assert [cells[0], cells[0] + step, cells[0] + 2 * step] == cells
            assert answer == (colour if kind == "color" else next(d for d in STEPS if STEPS[d] == step))
        asked[kind] += 1
    assert asked == dict.fromkeys(("color", "direction", "first", "count"), 60)


def test_distances_and_lengths_are_those_asked_for():
    config = MovingConfig(
        split="test", clips=8, frames=[30], distances=[0, 24], images=False, kinds=["color"]
    )
    assert [row["id"].split("-")[3:5] for row in config.rows()] == [["30", "0"], ["30", "24"]] * 4
    assert {row["category"] for row in config.rows()} == {"color"}
    (row,) = MovingConfig(split="test", clips=1, images=False, kinds=["first"], suffix="again").rows()
    assert row["category"] == "first again"


def test_words_alone_give_a_quarter():
    rows = MovingConfig(split="train", clips=2000, images=False).rows()
    for kind, answers in (("color", COLOURS), ("direction", DIRECTIONS), ("first", SHAPES)):
        said = Counter(row["conversations"][-1]["value"] for row in rows if row["category"] == kind)
        assert set(said) == set(answers)
        assert max(said.values()) < 0.3 * 2000


def test_a_clip_depends_on_its_name_alone():
    assert clip("a", 40, 9) == clip("a", 40, 9) != clip("b", 40, 9)
    texts = [
        {row["id"] for row in MovingConfig(split=split, clips=5, images=False, seed=seed).rows()}
        for split, seed in (("train", 0), ("test", 0), ("train", 1))
    ]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]


def test_frames_are_different_pictures():
    frames = [None, *(Frame(s, c, cell) for s in SHAPES for c in COLOURS for cell in range(9))]
    pictures = [draw(frame) for frame in frames]
    assert len({picture.tobytes() for picture in pictures}) == len(frames) == 145
    assert {picture.size for picture in pictures} == {(24, 24)}
    shape = draw(Frame("ring", "red", 5))
    assert ImageChops.difference(shape, Image.new("RGB", (24, 24))).getbbox() == (17, 9, 23, 15)


def test_a_passage_crosses_the_board():
    cells = {d: [f.cell for f in Passage("ring", "red", d, 1, 0, 1).frames()] for d in DIRECTIONS}
    assert cells == {"right": [3, 4, 5], "left": [5, 4, 3], "down": [1, 4, 7], "up": [7, 4, 1]}
    assert [f.cell for f in Passage("ring", "red", "right", 0, 0, 2).frames()] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"frames": [5]}, "expected lengths from 6 to 100000, the shortest first"),
        ({"frames": [20, 10]}, "the shortest first"),
        ({"frames": [20], "distances": [15]}, "expected numbers from 0 to 14"),
        ({"frames": [20], "distances": [-1]}, "expected numbers from 0 to 14"),
    ],
    ids=str,
)
def test_lengths_without_room_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        MovingConfig(split="test", clips=1, **keys)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot write the frames"):
        MovingConfig(split="test", clips=1, folder=str(tmp_path / "file")).rows()
