"""VizWiz: its soft accuracy, unanswerable questions, val and test, faulty files."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from commands import Out, answers, refused, scored
from layout import edit, write_json
from more_layouts import UNANSWERABLE, VIZWIZ, vizwiz
from tiny_suite import TinySuite

from vlm_bench import benchmarks
from vlm_bench.benchmarks.vizwiz import scoring
from vlm_bench.cli.main import main
from vlm_bench.scoring.vqa import leave_one_out

IMAGES = list(VIZWIZ)
SHORT = "\nAnswer the question using a single word or phrase."


class TestVal(TinySuite):
    config = benchmarks.VizWizConfig


class TestTest(TinySuite):
    config = benchmarks.VizWizConfig
    fields: ClassVar = {"split": "test"}


class TestOfficialTest(TinySuite):
    config = benchmarks.VizWizConfig
    fields: ClassVar = {"split": "test", "source": "official"}


CREDITS = [  # answer, references, matches that count
    ("coke", ["coke"] * 4 + ["pepsi"] * 6, 4),
    ("Coke.", ["coke"] * 3 + ["pepsi"] * 7, 3),
    ("a coke", ["coke"] * 2 + ["pepsi"] * 8, 2),
    ("two", ["2"] * 10, 10),
    ("yes", ["Yes"] * 10, 0),  # references are compared as they are
    ("the coke", ["the coke"] * 10, 0),
    ("coca-cola", ["coca cola"] * 10, 10),
    ("coca-cola", ["coca-cola"] * 10, 0),
    ("", [""] * 10, 10),
    ("dont", ["don't"] * 10, 10),
]


@pytest.mark.parametrize(("answer", "references", "matches"), CREDITS)
def test_credits(answer: str, references: list[str], matches: int) -> None:
    assert scoring.reference_accuracy(answer, references) == leave_one_out(matches)
    assert scoring.CountedReferences(references).credit(answer) == leave_one_out(matches)


def test_normalized_references() -> None:
    references = scoring.CountedReferences(["Yes"] * 10, always_normalise=True)
    assert references.credit("yes") == 1


DETECTION = [  # predicted, truth, F1, average precision
    ([1, 1, 0, 0], [1, 0, 1, 0], 0.5, 0.5 * 0.5 + 0.5 * 0.5),
    ([1, 1], [1, 1], 1.0, 1.0),
    ([0, 0, 0, 0], [1, 0, 0, 0], 0.0, 0.25),  # without a positive, the only threshold takes all
    ([1, 1, 1, 1], [1, 0, 0, 0], 0.4, 0.25),
    ([1, 0], [0, 0], 0.0, 0.0),
    ([], [], 0.0, 0.0),
]


@pytest.mark.parametrize(("predicted", "truth", "f1", "precision"), DETECTION)
def test_detection(predicted: list[int], truth: list[int], f1: float, precision: float) -> None:
    figures = scoring.detection([*map(bool, predicted)], [*map(bool, truth)])
    assert figures == {"F1": pytest.approx(f1), "average precision": pytest.approx(precision)}


@pytest.fixture
def val(tmp_path: Path) -> list[str]:
    """The command line that scores val, but for the answers."""
    vizwiz(tmp_path / "eval")
    return ["score", "vizwiz", "--data", str(tmp_path / "eval"), "--answers"]


def test_val(val: list[str], tmp_path: Path, capsys: Out) -> None:
    said = dict(zip(IMAGES, ("Coke", "Unanswerable", "yes", "unanswerable"), strict=True))
    report = scored(capsys, *val, answers(tmp_path, said))
    assert report["score"] == pytest.approx((1 + 1 + leave_one_out(2) + 0) / 4)
    rows = report["rows"]
    assert rows["unanswerable"] == {"n": 1, "accuracy (llava)": 1, "accuracy (raw)": 1}
    assert rows["number"]["accuracy (llava)"] == 0
    assert rows["unanswerable questions"]["F1"] == pytest.approx(2 / 3)
    assert rows["unanswerable questions"]["average precision"] == pytest.approx(0.5)
    assert report["protocol"] == "vizwiz-val@unknown, llava answers"
    assert "4 questions; the published file has 4,319" in report["warnings"]
    normalized = scored(capsys, *val, tmp_path / "answers.jsonl", "--strictness", "normalized")
    assert normalized["score"] == pytest.approx((1 + 1 + 1 + 0) / 4)


def test_answers_in_the_form_of_the_challenge(val: list[str], tmp_path: Path, capsys: Out) -> None:
    said = write_json(tmp_path / "results.json", [{"image": image, "answer": "coke"} for image in IMAGES])
    assert scored(capsys, *val, said)["score"] == pytest.approx(1 / 4)


def test_prompts_are_llavas(val: list[str], tmp_path: Path) -> None:
    data = tmp_path / "eval"
    question = benchmarks.VizWizConfig(data=data).build().questions[IMAGES[0]]
    assert question.prompt == f"What is this?{UNANSWERABLE}{SHORT}"
    llava = benchmarks.VizWizConfig(data=data, split="test").build().questions.values()
    official = benchmarks.VizWizConfig(data=data, split="test", source="official").build().questions.values()
    assert [(q.prompt, q.image) for q in llava] == [(q.prompt, q.image) for q in official]


@pytest.mark.parametrize("source", ["llava", "official"])
def test_a_submission(source: str, val: list[str], tmp_path: Path, capsys: Out) -> None:
    data, names = tmp_path / "eval", ["VizWiz_test_00000000.jpg", "VizWiz_test_00000001.jpg"]
    said = answers(tmp_path, dict(zip(names, ("A red can.", "Unanswerable"), strict=True)))
    flags = ["vizwiz", "--split", "test", "--source", source, "--data", str(data), "--answers", str(said)]
    assert "not public" in refused(capsys, "score", *flags)
    assert main(["submit", *flags, "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out/vizwiz_test.json").read_text())
    assert rows == [
        {"image": names[0], "answer": "red can"},
        {"image": names[1], "answer": "unanswerable"},
    ]


FAULTS: list[tuple[Any, str]] = [
    (lambda rows: rows + rows[:1], "image VizWiz_val_00000000.jpg appears twice"),
    (
        lambda rows: [rows[0] | {"answers": rows[0]["answers"][:9]}],
        "item number 1: 9 reference answers, expected 10",
    ),
    (
        lambda rows: [rows[0] | {"answer_type": "others"}],
        "unknown answer_type 'others'; possible: number, other",
    ),
    (lambda rows: [rows[0] | {"answerable": True}], "'answerable' is True, expected 0 or 1"),
    (lambda rows: [rows[0] | {"answerable": 2}], "'answerable' is 2, expected 0 or 1"),
    (
        lambda rows: [{"image": rows[0]["image"], "question": "What?"}],
        "'answers' is missing; is this the test set, whose answers are not public?",
    ),
    (lambda rows: [rows[0] | {"answers": [{"answer": None}] * 10}], "answer number 1: 'answer' is None"),
    (lambda rows: [rows[0] | {"image": ""}], "'image' is '', expected text that is not empty"),
    (lambda rows: {"data": rows}, "expected a JSON list that is not empty"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=[message[:30] for _, message in FAULTS])
def test_faulty_files(change: Any, message: str, val: list[str], tmp_path: Path, capsys: Out) -> None:
    edit(tmp_path / "eval/vizwiz/val.json", change)
    err = refused(capsys, *val, answers(tmp_path, {IMAGES[0]: "x"}))
    assert message in err
    assert "val.json" in err


def test_a_submission_of_a_baseline_says_so(val: list[str], tmp_path: Path, capsys: Out) -> None:
    """The server's file does not name the baseline; a file with answers of both is refused."""
    lines = [
        {"question_id": n, "text": "coke", "metadata": {"id": str(n), "baseline": "question alone"}}
        for n in range(2)
    ]
    said = tmp_path / "said.jsonl"
    argv = ["submit", "vizwiz", "--split", "test", *val[2:4], "--answers", str(said), "--out", str(tmp_path)]
    said.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(argv) == 0
    assert (
        "these are answers of the baseline 'question alone', not the model's own" in capsys.readouterr().out
    )
    lines[0].pop("metadata")
    said.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "1 answers are of the baseline 'question alone'" in refused(capsys, *argv)
