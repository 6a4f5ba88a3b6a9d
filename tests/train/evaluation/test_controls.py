"""Controls of an evaluation: other images by content, the majority answer, and what is held out."""

import json
import random
import re
import time
from collections import Counter

import pytest
import yaml
from accelerate import Accelerator
from PIL import Image

from vlm_core.errors import BadSample
from vlm_core.io.images import ImageContent, image_name
from vlm_core.io.video.sources import VideoSource
from vlm_core.rows import Rows
from vlm_core.spec.spec import load_spec
from vlm_train.cli.console import show
from vlm_train.evaluation.controls import (
    CHANGES,
    NO_IMAGE,
    NO_ORDER,
    NO_OTHER,
    majority_answers,
    with_other_images,
)
from vlm_train.evaluation.train_overlap import Overlap, contents
from vlm_train.report import html
from vlm_train.run import start


@pytest.fixture
def pictures(tmp_path):
    """`pictures(name, colour, …)` writes an image and returns its path; the suffix chooses the format."""

    def make(name, colour, size=(8, 6), **options):
        Image.new("RGB", size, colour).save(tmp_path / name, **options)
        return str(tmp_path / name)

    return make


def row(name, images=(), asked="what is it?", truth="red", *before):
    turns = [(q, a) for q, a in zip(before[::2], before[1::2], strict=True)] + [(asked, truth)]
    turns[0] = ("<image>\n" * len(images) + turns[0][0], turns[0][1])
    told = [
        {"from": who, "value": v} for turn in turns for who, v in zip(("human", "gpt"), turn, strict=True)
    ]
    return {"id": name, "image": list(images), "conversations": told, "category": None}


def shown(rows, accelerator=None):
    """What each row is asked about in place of its own images: pixels by the row's id, and what is left out."""
    seen = contents(rows, accelerator or Accelerator())
    other, dropped = with_other_images(rows, seen)
    return {r["id"]: [seen[image] for image in r["image"]] for r in other}, dropped, seen


def colours(pictures, count):
    return [pictures(f"{i}.png", (40 * i, 200, 10)) for i in range(count)]


def test_every_row_is_asked_about_another_picture_in_any_order_of_the_file(pictures):
    """Question by question, picture by picture, and in chance's order: each picture is used once as often."""
    images = colours(pictures, 5)
    rows = [row(f"{kind}{i}", [image], kind) for kind in "ab" for i, image in enumerate(images)]
    wanted, dropped, seen = shown(rows)
    assert not dropped
    for r in rows:
        assert wanted[r["id"]] != [seen[image] for image in r["image"]]
    assert set(Counter(map(tuple, wanted.values())).values()) == {2}
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        assert shown(rows)[0] == wanted


def test_copies_of_a_picture_are_the_same_picture(pictures):
    """Under another name, in another format, stored sideways: two contents, so each stands in for the other."""
    rows = [
        row("a", [pictures("a.png", "red")]),
        row("b", [pictures("b.bmp", "red")]),
        row("c", [pictures("c.tiff", "blue")]),
    ]
    other, dropped, seen = shown(rows)
    assert not dropped
    assert other == {
        "a": [seen[rows[2]["image"][0]]],
        "b": [seen[rows[2]["image"][0]]],
        "c": [seen[rows[0]["image"][0]]],
    }
    turned = Image.Exif()
    turned[0x0112] = 6
    upright = row("d", [pictures("d.png", "red", (4, 8))])
    sideways = row("e", [pictures("e.png", "red", (8, 4), exif=turned)])
    assert shown([upright, sideways])[:2] == ({}, {NO_OTHER: 2})


def test_rows_without_another_picture_are_left_out_and_counted(pictures):
    one, two, three = (pictures(f"{c}.png", c) for c in ("red", "green", "blue"))
    rows = [
        row("text"),
        row("a", [one]),
        row("b", [one]),
        row("pair", [one, two]),
        row("swapped", [two, one]),
    ]
    assert shown(rows)[:2] == ({}, {NO_IMAGE: 1, NO_OTHER: 4})
    other, dropped, seen = shown([*rows, row("c", [three])])
    assert dropped == {NO_IMAGE: 1, NO_OTHER: 2}
    assert other == {"a": [seen[three]], "b": [seen[three]], "c": [seen[one]]}


class Broken(Rows):
    """Rows of which some can't be read."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def row(self, index):
        if self.rows[index] is None:
            raise BadSample("schema", f"row {index}")
        return self.rows[index]


def test_the_question_alone_gives_the_most_frequent_answer_to_that_very_question():
    train = [row(str(i), (), "color?", c) for i, c in enumerate(["red", "red", "blue"])]
    train += [row("m", (), "color?", "blue", "shape?", "circle"), row("n", (), "size?", "blue")]
    asked = [row("a", (), " Color? ", "red"), row("b", (), "shape?", "square"), row("c", (), "new?", "blue")]
    for rows in (train, train[::-1]):
        found = majority_answers(rows, asked)
        assert [a.text for a in found.answers] == ["blue", "circle", "blue"]  # red and blue are a tie
        assert found.training_rows == {"counted": 5, "unreadable": 0}


def test_answers_that_score_alike_are_counted_together():
    """Of `Yes.`, `yes`, `YES` and two `no`, `yes` is the most frequent."""
    train = [row(str(i), (), "round?", a) for i, a in enumerate(["no", "no", "Yes.", "yes", " YES "])]
    found = majority_answers(Broken([*train, None]), [row("a", (), "round?", "Yes")])
    assert found.answers[0].right
    assert found.training_rows == {"counted": 5, "unreadable": 1}
    assert not majority_answers(Broken([None]), [row("a", (), "round?", "Yes")]).answers[0].right


def test_the_time_of_the_question_alone_grows_with_the_rows_and_not_with_their_square():
    """Every row asks and answers something else; sums of counts over all questions would take a minute here."""
    train = [row(str(i), (), f"what is {i}?", f"answer {i}") for i in range(20_000)]
    began = time.process_time()
    found = majority_answers(train, [row("a", (), "what is 7?"), row("b", (), "new?")])
    assert [a.text for a in found.answers] == ["answer 7", "answer 0"]
    assert time.process_time() - began < 5


def trained(rows, train, **options):
    accelerator = Accelerator()
    return Overlap(rows, contents(rows, accelerator), **options).trained_on(Broken(train), accelerator)


def test_what_is_trained_on_is_found_by_content(pictures):
    """The same picture in another file with the same question, wherever in a conversation it stands."""
    red, copy, blue = pictures("r.png", "red"), pictures("copy.bmp", "red"), pictures("b.png", "blue")
    small = pictures("small.png", "red", (4, 3))
    asked = [row("0", [red]), row("1", [blue]), row("2", [red], "how many?"), row("3", [red, blue])]
    assert trained(asked, [row("x", [copy], " What is it? ", "other")]) == {0}
    assert trained(asked, [row("x", [copy], "again?", "a", "what is it?", "b")]) == {0}
    assert trained(asked, [row("x", [small]), row("y", [], "what is it?"), None]) == set()
    assert trained(asked, [row("x", [blue, copy]), row("y", [copy, blue])]) == {3}
    assert trained(asked, asked) == {0, 1, 2, 3}
    (row_of_two,) = [row("a", [red], "new?", "a", "what is it?", "b")]
    assert trained([row_of_two], [row("x", [copy], "what is it?", "b")]) == set()
    assert trained([row_of_two], [row("x", [copy], "what is it?", "b")], every=True) == {0}


def test_text_alone_is_compared_with_all_turns_before_it():
    asked = [row("0", (), "and then?", "b", "one", "two")]
    assert trained(asked, [row("x", (), "and then?", "b")]) == set()
    assert trained(asked, [row("x", (), "more?", "c", "One", "two.", "and then?", "b")]) == {0}
    assert trained([row("0", (), "what is it?")], [row("x", (), "what is it?", "c", "a", "b")]) == set()


def test_no_image_is_read_that_is_asked_other_questions(tmp_path):
    asked = [row("0", (), "what is it?")]
    assert trained(asked, [row("x", [str(tmp_path / "absent.png")], "else?")]) == set()


@pytest.fixture
def unseen(pictures, tmp_path):
    """`unseen(order)` writes rows that the run doesn't train on, in this order, as `train.held_out_qa`."""
    told = [
        row(f"{asked}{i}", [pictures(f"new{i}.png", (20 * i, 10, 30))], asked, truth)
        for asked, truth in (("what color is it?", "red"), ("dark?", "No."))
        for i in range(6)
    ]

    def write(order=1):
        file = tmp_path / f"unseen{order}.json"
        file.write_text(json.dumps([{**r, "image": r["image"][0].rsplit("/", 1)[-1]} for r in told[::order]]))
        return {"data": [{"type": "llava", "path": str(file)}], "max_new_tokens": 3, "batch_size": 5}

    return write


def printed(folder, table, capsys):
    """All that a run shows: its table on the terminal, its files."""
    capsys.readouterr()
    show(load_spec(folder.path / "spec.yaml")[0], folder, table)
    return capsys.readouterr().out + (folder.path / "results.md").read_text() + html.page(folder)


def test_held_out_is_said_of_rows_that_no_stage_trains_on(run_spec, unseen, capsys):
    """And the order of their file changes no figure."""
    tables = []
    for order in (1, -1):
        folder, table = start(*load_spec(run_spec(f"order{order}", held_out_qa=unseen(order))))
        assert "held_out_qa: none of the 12 rows is in a stage's data" in capsys.readouterr().out
        assert "tiny: held-out accuracy, %" in printed(folder, table, capsys)
        tables.append([(name, record["questions"], record["accuracy"]) for name, record in table])
    assert tables[0] == tables[1]
    assert [questions for _, questions, _ in tables[0]] == [12] * 4


def test_rows_that_are_trained_on_are_told_and_not_called_held_out(run_spec, capsys):
    folder, table = start(
        *load_spec(run_spec(validation={"data": data_of(run_spec), "rows": 6, "samples": 0}))
    )
    out = capsys.readouterr().out
    for stage in ("align", "instruct"):
        assert f"held_out_qa: 18 of 18 rows are also in stage {stage}'s data, so they are not held out" in out
        assert f"validation: 6 of 6 rows are also in stage {stage}'s data" in out
    text = printed(folder, table, capsys)
    assert "tiny: accuracy, % (18 of 18 rows are trained on)" in text
    assert not re.search("held.out(?!_qa)", text, re.IGNORECASE)
    record = json.loads((folder.path / "evaluations" / "images shuffled.json").read_text())
    assert record["overlap"] == {"rows": 18, "trained_on": 18, "stages": {"align": 18, "instruct": 18}}
    assert record["left_out"] == {NO_IMAGE: 6}


def data_of(run_spec):
    return yaml.safe_load(run_spec().read_text())["train"]["stages"][0]["data"]


def changed(name, rows):
    """What a control asks: (images, questions) by the row's id, and what is left out."""
    found, dropped = CHANGES[name](rows, contents(rows, Accelerator()))
    return {r["id"]: (r["image"], [t["value"] for t in r["conversations"][::2]]) for r in found}, dropped


def test_images_reordered_are_the_rows_own_in_an_order_that_differs(pictures):
    """By content: copies of one image have no other order; the order of the file makes no difference."""
    red, green, blue = (pictures(f"{c}.png", c) for c in ("red", "green", "blue"))
    copy = pictures("copy.png", "red")
    rows = [
        row("text"),
        row("one", [red]),
        row("copies", [red, copy]),
        row("two", [red, green]),
        row("many", [red, red, red, blue]),
        row("same", [red, red, red, blue], "and now?"),
    ]
    found, dropped = changed("images reordered", rows)
    assert dropped == {NO_IMAGE: 1, NO_ORDER: 2}
    assert found["two"] == ([green, red], ["<image>\n<image>\nwhat is it?"])
    assert sorted(found["many"][0]) == sorted([red, red, red, blue]) != found["many"][0][::-1]
    assert found["many"][0] == found["same"][0] != [red, red, red, blue]
    assert changed("images reordered", rows[::-1])[0] == found


def test_the_last_image_alone_and_none(pictures):
    """Placeholders go with their images, from whichever turn they stand in."""
    red, green, blue = (pictures(f"{c}.png", c) for c in ("red", "green", "blue"))
    talk = row("talk", [red, green, blue], "<image>", "blue", "what is it?", "red")
    talk["conversations"][0]["value"] = "<image> and <image>?"
    rows = [row("text"), row("one", [red]), row("two", [red, green]), talk]
    found, dropped = changed("last image only", rows)
    assert dropped == {NO_IMAGE: 1, "no second image": 1}
    assert found["two"] == ([green], ["<image>\nwhat is it?"])
    assert found["talk"][0] == [blue]
    assert [text.count("<image>") for text in found["talk"][1]] == [0, 1]
    found, dropped = changed("question alone", rows)
    assert dropped == {NO_IMAGE: 1}
    assert found["two"] == found["one"] == ([], ["what is it?"])
    assert not any("<image>" in text for _, texts in found.values() for text in texts)
    assert talk["conversations"][0]["value"] == "<image> and <image>?", "the row itself is as it was"


def test_a_video_stands_in_for_a_video_alone():
    """An image in a video's place would have other tokens: the control would change more than what is shown."""
    kinds = "image", "video", "image", "video", "video"
    sources = [f"{n}.png" if kind == "image" else VideoSource(f"{n}.mp4") for n, kind in enumerate(kinds)]
    contents = {image_name(s): ImageContent(f"{n}", (8, 8)) for n, s in enumerate(sources)}
    rows = [row(n, [source]) for n, source in enumerate(sources)]
    changed = with_other_images(rows, contents).rows
    for other, own in zip((one["image"][0] for one in changed), sources, strict=True):
        assert isinstance(other, VideoSource) == isinstance(own, VideoSource)
        assert other != own
    assert with_other_images(rows[:2], contents) == ([], {"no other image": 2})
