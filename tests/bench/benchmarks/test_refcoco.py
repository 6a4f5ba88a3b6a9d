"""RefCOCO, RefCOCO+ and RefCOCOg: boxes in answers, Acc@0.5, both kinds of files, faulty files."""

import random
from pathlib import Path
from typing import Any, ClassVar

import pytest
from commands import Out, answers, refused, scored
from layout import edit
from more_layouts import EXPRESSIONS, IMAGE, refcoco
from tiny_suite import TinySuite

from vlm_bench import benchmarks
from vlm_bench.benchmarks.refcoco.scoring import Box, in_image, iou, parse


class TestRefCOCO(TinySuite):
    config = benchmarks.RefCOCOConfig


class TestRefCOCOPlus(TinySuite):
    config = benchmarks.RefCOCOPlusConfig
    fields: ClassVar = {"split": "testA"}


class TestRefCOCOg(TinySuite):
    config = benchmarks.RefCOCOgConfig
    fields: ClassVar = {"split": "test"}


class TestOfficial(TinySuite):
    config = benchmarks.RefCOCOgConfig
    fields: ClassVar = {"source": "official"}


HALF, NONE, OTHER = (0.1, 0.2, 0.5, 0.6), "no box", "not a box of the image"
PARSING: list[tuple[str, tuple[float, ...] | None, str]] = [
    ("[0.1, 0.2, 0.5, 0.6]", HALF, "fractions"),
    ("[0.1,0.2,0.5,0.6]", HALF, "fractions"),
    ("[.1, .20, 0.50, 0.6]", HALF, "fractions"),
    ("It is at [0.1, 0.2, 0.5, 0.6].", HALF, "fractions"),
    ("[0.1, 0.2, 0.5, 0.6] or [0, 0, 1, 1]", HALF, "fractions"),  # the first
    ("<box>[[100, 200, 500, 600]]</box>", HALF, "integers"),
    ("[0, 0, 1, 1]", (0, 0, 1, 1), "fractions"),
    ("<ref>dog</ref><box>(100,200),(500,600)</box>", tuple(1000 / 999 * edge for edge in HALF), "integers"),
    ("(0.1, 0.2), (0.5, 0.6)", HALF, "fractions"),
    ("[100, 200, 500, 1001]", None, OTHER),
    ("(100,200),(500,1000)", None, OTHER),  # Qwen-VL's whole numbers end at 999
    ("[0.1, 0.2, 0.5, 1.2]", None, OTHER),
    ("[-0.1, 0.2, 0.5, 0.6]", None, OTHER),
    ("[0.5, 0.2, 0.1, 0.6]", None, OTHER),  # right before left
    ("[0.1, 0.6, 0.5, 0.2]", None, OTHER),
    ("[0.5, 0.2, 0.5, 0.6]", None, OTHER),  # no area
    ("[0.1, 0.2, 0.5]", None, NONE),
    ("[0.1, 0.2, 0.5, 0.6, 0.7]", None, NONE),
    ("0.1, 0.2, 0.5, 0.6", None, NONE),
    ("(0.1, 0.2, 0.5, 0.6)", None, NONE),
    ("[0.1 0.2 0.5 0.6]", None, NONE),
    ("[nan, 0, 1, 1]", None, NONE),
    ("[1e-1, 0.2, 0.5, 0.6]", None, NONE),
    ("the left dog", None, NONE),
    ("", None, NONE),
]


@pytest.mark.parametrize(("text", "box", "how"), PARSING, ids=[row[0] or "empty" for row in PARSING])
def test_parsing(text: str, box: tuple[float, ...] | None, how: str) -> None:
    read, way = parse(text)
    assert way == how
    assert read == (None if box is None else pytest.approx(box))


IOUS = [
    ((0, 0, 1, 1), (0, 0, 1, 1), 1.0),
    ((0, 0, 0.5, 1), (0, 0, 1, 1), 0.5),
    ((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), 0.0),  # they touch in a corner
    ((0, 0, 0.6, 1), (0.4, 0, 1, 1), 0.2),
    ((0, 0, 0.2, 0.2), (0.7, 0.7, 1, 1), 0.0),
    ((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5), 0.0),  # neither has an area
]


@pytest.mark.parametrize(("first", "second", "value"), IOUS)
def test_iou(first: tuple[float, ...], second: tuple[float, ...], value: float) -> None:
    assert iou(Box(*first), Box(*second)) == pytest.approx(value)
    assert iou(Box(*second), Box(*first)) == pytest.approx(value)


def test_iou_is_that_of_counted_cells() -> None:
    """Boxes on a grid of 20 x 20 cells, whose common and joint cells are counted."""
    draw = random.Random(0)

    def cells(box: Box) -> set[tuple[int, int]]:
        left, top, right, bottom = (round(20 * edge) for edge in box)
        return {(x, y) for x in range(left, right) for y in range(top, bottom)}

    for _ in range(200):
        first, second = (
            Box(x, y, x + draw.randint(1, 8) / 20, y + draw.randint(1, 8) / 20)
            for x, y in [(draw.randint(0, 11) / 20, draw.randint(0, 11) / 20) for _ in range(2)]
        )
        common, joint = cells(first) & cells(second), cells(first) | cells(second)
        assert iou(first, second) == pytest.approx(len(common) / len(joint))


def test_iou_is_torchvisions() -> None:
    """The function with which Qwen-VL's script computes Acc@0.5."""
    torchvision = pytest.importorskip("torchvision")
    import torch

    corner, size = torch.rand(2, 500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
    boxes = torch.cat([corner, corner + size + 0.01], 1)
    theirs = torchvision.ops.box_iou(boxes[:250], boxes[250:])
    ours = [[iou(Box(*a), Box(*b)) for b in boxes[250:].tolist()] for a in boxes[:250].tolist()]
    torch.testing.assert_close(torch.tensor(ours, dtype=torch.float64), theirs)


def test_boxes_of_the_padded_square() -> None:
    """An image of 200 x 100: 50 pixels are added above and below."""
    assert in_image(Box(0, 0.25, 1, 0.75), (200, 100)) == pytest.approx((0, 0, 1, 1))
    assert in_image(Box(0.5, 0.5, 1, 0.75), (200, 100)) == pytest.approx((0.5, 0.5, 1, 1))
    assert in_image(Box(0.25, 0, 0.75, 1), (100, 200)) == pytest.approx((0, 0, 1, 1))
    assert in_image(Box(0.1, 0.2, 0.3, 0.4), (64, 64)) == pytest.approx((0.1, 0.2, 0.3, 0.4))


IDS = [f"{IMAGE}/{sent}/{','.join(map(str, box))}" for sent, box in EXPRESSIONS.values()]
RIGHT = ["[0.1, 0.1, 0.5, 0.5]", "[0.6, 0.1, 1.0, 1.0]"]


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    refcoco(tmp_path / "eval")
    return ["--data", str(tmp_path / "eval"), "--answers"]


def test_figures(flags: list[str], tmp_path: Path, capsys: Out) -> None:
    said = answers(tmp_path, dict(zip(IDS, (RIGHT[0], "[0.6, 0.1, 1.0, 0.54]"), strict=True)))
    report = scored(capsys, "score", "refcoco", *flags, said)
    assert (report["metric"], report["score"]) == ("Acc@0.5", 0.5)  # the second overlaps by 0.44 / 0.9
    assert report["rows"]["all"]["mean IoU"] == pytest.approx((1 + 0.44 / 0.9) / 2)
    assert report["protocol"] == "refcoco-val@unknown Acc@0.5"
    assert "2 expressions; the published file has 10,834" in report["warnings"]
    said = answers(tmp_path, dict(zip(IDS, ("the dog", "[0.6, 0.1, 1.7, 1.0]"), strict=True)))
    report = scored(capsys, "score", "refcoco+", "--split", "testB", *flags, said)
    assert report["score"] == 0
    assert report["parse"] == {
        "no box (wrong)": 1,
        "numbers that are no box of the image (wrong)": 1,
        "box in whole numbers": 0,
    }


def test_exactly_half_counts(flags: list[str], tmp_path: Path, capsys: Out) -> None:
    edit_box = {"bbox": [0, 0, 200, 100]}
    path = tmp_path / "eval/refcoco/refcocog_test.jsonl"
    rows = path.read_text().splitlines()
    path.write_text(rows[0].replace("[20, 10, 100, 50]", str(edit_box["bbox"])) + "\n")
    for box, score in (("[0, 0, 1, 0.5]", 1), ("[0, 0, 1, 0.499]", 0)):
        said = answers(tmp_path, {f"{IMAGE}/the left dog/0,0,200,100": box})
        assert scored(capsys, "score", "refcocog", "--split", "test", *flags, said)["score"] == score


def test_official_files_ask_the_same(flags: list[str], tmp_path: Path, capsys: Out) -> None:
    data = tmp_path / "eval"
    qwen = benchmarks.RefCOCOPlusConfig(data=data, split="testA").build()
    official = benchmarks.RefCOCOPlusConfig(data=data, split="testA", source="official").build()
    assert [(q.prompt, q.image) for q in qwen.questions.values()] == [
        (q.prompt, q.image) for q in official.questions.values()
    ]
    assert list(official.questions) == ["211", "212"]  # sent_id; those of other splits are not asked
    assert [official.right(key) for key in official.questions] == [qwen.right(key) for key in qwen.questions]
    assert 'this sentence describes: "the left dog"' in official.questions["211"].prompt
    said = answers(tmp_path, dict(zip(("211", "212"), RIGHT, strict=True)))
    report = scored(capsys, "score", "refcoco+", "--source", "official", "--split", "testA", *flags, said)
    assert report["score"] == 1


def test_the_padded_square(flags: list[str], tmp_path: Path, capsys: Out) -> None:
    square = ["[0.1, 0.3, 0.5, 0.5]", "[0.6, 0.3, 1.0, 0.75]"]
    said = answers(tmp_path, dict(zip(IDS, square, strict=True)))
    assert scored(capsys, "score", "refcoco", *flags, said)["rows"]["all"]["mean IoU"] < 0.7
    report = scored(capsys, "score", "refcoco", "--frame", "square", *flags, said)
    assert report["rows"]["all"]["mean IoU"] == pytest.approx(1)
    assert report["protocol"].endswith("boxes of the padded square")
    assert report["notes"]["boxes"] == "relative to the padded square"


def test_chance_is_the_same_in_either_frame(flags: list[str], tmp_path: Path) -> None:
    """Guessed boxes are the image, its middle and its halves: the right half overlaps the second box by 72 %."""
    data = tmp_path / "eval"
    for frame in ("image", "square"):
        benchmark = benchmarks.RefCOCOConfig(data=data, frame=frame).build()
        chance = benchmark.chance(IDS)
        assert chance.headline is not None
        assert chance.headline.units == {IDS[0]: {"all": (0.0, 1)}, IDS[1]: {"all": (1.0, 1)}}
        assert "[0.50, 0.00, 1.00, 1.00]" in chance.rule


def test_equal_rows_are_asked_each(flags: list[str], tmp_path: Path) -> None:
    path = tmp_path / "eval/refcoco/refcoco_val.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    asked = benchmarks.RefCOCOConfig(data=tmp_path / "eval").build().questions
    assert list(asked) == [*IDS, f"{IDS[0]}#2"]


FAULTS = [
    ('"width": 200', '"width": 0', "'width' is 0, expected a number of pixels"),
    ('"width": 200, ', "", "'width' is missing, expected a number of pixels"),
    ('"width": 200', f'"width": 1{"0" * 350}', "expected a number of pixels"),
    ("[20, 10, 100, 50]", f"[20, 10, 1{'0' * 350}, 50]", "expected x1, y1, x2 and y2 in pixels"),
    ("[20, 10, 100, 50]", "[20, 10, 100]", "'bbox' is [20, 10, 100], expected x1, y1, x2 and y2 in pixels"),
    ("[20, 10, 100, 50]", "[20, 10, 100, true]", "expected x1, y1, x2 and y2 in pixels"),
    (
        "[20, 10, 100, 50]",
        "[120, 10, 80, 40]",
        "'bbox' is [120, 10, 80, 40], expected a box in an image of 200 x 100",
    ),
    ("[20, 10, 100, 50]", "[20, 10, 100, 250]", "expected a box in an image of 200 x 100 pixels"),
    ('"sent"', '"sentence"', "'sent' is missing"),
]


@pytest.mark.parametrize(("old", "new", "message"), FAULTS)
def test_faulty_rows(old: str, new: str, message: str, flags: list[str], tmp_path: Path, capsys: Out) -> None:
    path = tmp_path / "eval/refcoco/refcoco_val.jsonl"
    path.write_text(path.read_text().replace(old, new, 1))
    err = refused(capsys, "score", "refcoco", *flags, answers(tmp_path, {"1": "x"}))
    assert "refcoco_val.jsonl:1: " in err
    assert message in err


OFFICIAL: list[tuple[str, Any, str]] = [
    ("refs(unc).json", lambda rows: [r | {"split": "testC"} for r in rows], "unknown split 'testC'"),
    (
        "refs(unc).json",
        lambda rows: [r | {"split": "train"} for r in rows],
        "no expressions of split val; are these refs of another author's splits?",
    ),
    ("refs(unc).json", lambda rows: [r | {"ann_id": 5} for r in rows], "instances.json has no annotation 5"),
    ("refs(unc).json", lambda rows: [r | {"image_id": 5} for r in rows], "instances.json has no image 5"),
    (
        "refs(unc).json",
        lambda rows: [r | {"sentences": rows[0]["sentences"]} for r in rows],
        "sent_id 11 appears twice",
    ),
    (
        "instances.json",
        lambda v: v | {"annotations": [a | {"image_id": 8} for a in v["annotations"]]},
        "is of another image",
    ),
    (
        "instances.json",
        lambda v: v | {"annotations": [a | {"bbox": [150, 0, 80, 40]} for a in v["annotations"]]},
        "'bbox' is [150, 0, 80, 40], expected a box in an image of 200 x 100 pixels",
    ),
]


@pytest.mark.parametrize(("file", "change", "message"), OFFICIAL, ids=[row[2][:30] for row in OFFICIAL])
def test_faulty_official_files(
    file: str, change: Any, message: str, flags: list[str], tmp_path: Path, capsys: Out
) -> None:
    edit(tmp_path / "eval/refcoco/refcoco" / file, change)
    said = answers(tmp_path, {"1": "x"})
    assert message in refused(capsys, "score", "refcoco", "--source", "official", *flags, said)


def test_a_pickle_is_not_read(flags: list[str], tmp_path: Path, capsys: Out) -> None:
    pickled = tmp_path / "refs(unc).p"
    pickled.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    source = ["--source", "official", "--questions", str(pickled)]
    err = refused(capsys, "score", "refcoco", *source, *flags, answers(tmp_path, {"1": "x"}))
    assert "a pickle may run code, so it is not read; convert it once with: python -c" in err
