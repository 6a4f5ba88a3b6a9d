"""The benchmarks' own files, without LLaVA's: the same prompts, the same rule, the same figures."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Out, answers, refused, scored
from layout import mme, pope, write_json

from vlm_bench import benchmarks

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
PROBLEMS: dict[str, dict[str, Any]] = {
    "4": {
        "question": "Which?",
        "choices": ["x", "y"],
        "answer": 1,
        "hint": "",
        "image": None,
        "split": "test",
    },
    "5": {
        "question": "Who  is it?",
        "choices": ["a", "b", "c"],
        "answer": 0,
        "hint": "Look.",
        "image": "image.png",
        "split": "test",
    },
    "6": {"question": "Seen in training?", "choices": ["x"], "answer": 0, "hint": "", "image": None},
}


def scienceqa(data: Path, **changed: Any) -> list[str]:
    """Write the official files; returns the command line's beginning."""
    home = data / "scienceqa"
    write_json(home / "problems.json", PROBLEMS | {"4": PROBLEMS["4"] | changed})
    write_json(home / "pid_splits.json", {"train": ["6"], "test": ["5", "4"]})
    (home / "llava_test_CQM-A.json").unlink(missing_ok=True)
    return ["score", "scienceqa", "--source", "official", "--data", str(data)]


def test_scienceqa(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = scienceqa(data)
    report = scored(capsys, *flags, "--answers", answers(tmp_path, {"4": "B", "5": "C"}))
    assert (report["rows"]["IMG"]["accuracy"], report["rows"]["all"]["accuracy"]) == (0, 0.5)
    assert {"problems.json", "pid_splits.json"} < report["sha256"].keys()
    asked = benchmarks.ScienceQAConfig(data=data, source="official").build().questions
    assert list(asked) == ["5", "4"]
    assert asked["5"].prompt == f"Context: Look.\nWho is it?\nA. a\nB. b\nC. c\n{LETTER}"
    assert asked["4"].prompt == f"Which?\nA. x\nB. y\n{LETTER}"
    assert asked["4"].image is None
    assert asked["5"].open() is not None
    assert asked["5"].choices == ("a", "b", "c")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answer": 2}, "'answer' is 2, expected the place of a choice from 0"),
        ({"answer": True}, "'answer' is True"),
        ({"choices": []}, "'choices' must hold 1 to 5 texts"),
        ({"question": None}, "'question' is None, expected text"),
    ],
)
def test_faulty_problems(
    changed: dict[str, Any], message: str, data: Path, tmp_path: Path, capsys: Out
) -> None:
    flags = scienceqa(data, **changed)
    err = refused(capsys, *flags, "--answers", answers(tmp_path, {"4": "B", "5": "C"}))
    assert message in err
    assert "problems.json: 4" in err


def test_splits_of_other_problems(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = [*scienceqa(data), "--answers", answers(tmp_path, {"4": "B"})]
    write_json(data / "scienceqa/pid_splits.json", {"test": ["4", "77", "78"]})
    assert "2 of 3 test questions are missing, first id 77" in refused(capsys, *flags)
    write_json(data / "scienceqa/pid_splits.json", {"train": ["4"]})
    assert "expected a JSON object with a list 'test' of ids" in refused(capsys, *flags)


def rosetta(data: Path, *images: str) -> Path:
    rows = [{"image_id": image, "ocr_tokens": ["DAKOTA", "DIGITAL"], "ocr_info": []} for image in images]
    return write_json(data / "textvqa/TextVQA_Rosetta_OCR_v0.2_val.json", {"data": rows})


def test_textvqa(data: Path, tmp_path: Path, capsys: Out) -> None:
    rosetta(data, "0a1b", "of another set")
    llava = benchmarks.TextVQAConfig(data=data).build()
    (data / "textvqa/llava_textvqa_val_v051_ocr.jsonl").unlink()
    official = benchmarks.TextVQAConfig(data=data, source="official").build()
    asked = {key: (q.prompt, q.image) for key, q in official.questions.items()}
    assert asked == {key: (q.prompt, q.image) for key, q in llava.questions.items()}
    assert official.protocol == f"{llava.protocol} of TextVQA_Rosetta_OCR_v0.2_val.json"
    flags = ["score", "textvqa", "--source", "official", "--data", data, "--answers"]
    said = answers(tmp_path, {0: "Dakota", 1: "red"})  # by the official ids
    report = scored(capsys, *flags, said)
    assert report["score"] == pytest.approx(0.8)
    assert "TextVQA_Rosetta_OCR_v0.2_val.json" in report["sha256"]


def test_textvqa_without_ocr_tokens_needs_no_file_of_them(data: Path, tmp_path: Path, capsys: Out) -> None:
    bare = benchmarks.TextVQAConfig(data=data, source="official", ocr="no").build()
    assert bare.questions["0a1b/what color?"].prompt == f"What color?\n{SHORT}"
    assert bare.protocol.endswith("without OCR tokens")
    flags = [
        "score",
        "textvqa",
        "--source",
        "official",
        "--data",
        data,
        "--answers",
        answers(tmp_path, {0: "x"}),
    ]
    assert "TextVQA_Rosetta_OCR_v0.2_val.json: cannot read this file" in refused(capsys, *flags)
    rosetta(data, "another")
    assert "no OCR tokens of image 0a1b; is this the validation set's file?" in refused(capsys, *flags)
    path = rosetta(data, "0a1b", "0a1b")
    assert "image_id 0a1b appears twice" in refused(capsys, *flags)
    write_json(path, {"data": [{"image_id": "0a1b", "ocr_tokens": "DAKOTA"}]})
    assert "'ocr_tokens' must be a list of texts" in refused(capsys, *flags)


@pytest.mark.parametrize(
    ("config", "file", "same_ids"),
    [
        (benchmarks.GQAConfig, "gqa/llava_gqa_testdev_balanced.jsonl", True),
        (benchmarks.MMEConfig, "MME/llava_mme.jsonl", True),
        (benchmarks.PopeConfig, "pope/llava_pope_test.jsonl", False),
    ],
)
def test_what_the_labels_ask_is_what_llava_asks(config: Any, file: str, same_ids: bool, data: Path) -> None:
    llava = config(data=data).build()
    (data / file).unlink()
    official = config(data=data, source="official").build()
    if same_ids:
        assert {k: (q.prompt, q.image) for k, q in official.questions.items()} == {
            k: (q.prompt, q.image) for k, q in llava.questions.items()
        }
    asked = [sorted((q.prompt, str(q.image)) for q in b.questions.values()) for b in (llava, official)]
    assert asked[0] == asked[1]
    assert (official.protocol, official.expected) == (llava.protocol, llava.expected)
    assert all(q.open() is not None for q in official.questions.values())


def test_pope(tmp_path: Path, capsys: Out) -> None:
    pope(tmp_path)
    (tmp_path / "pope/llava_pope_test.jsonl").unlink()
    flags = ["score", "pope", "--source", "official", "--data", tmp_path, "--answers"]
    rows = {
        f"{split}/a.jpg/Is there a {word} in the image?": "no" if word == "cat" else "yes"
        for split in ("popular", "random", "adversarial")
        for word in ("cat", "dog")
    }
    assert scored(capsys, *flags, answers(tmp_path, rows))["score"] == 1
    official = [
        {"question": "Is there a dog in the image?", "answer": "yes"}
    ] * 2  # joined by line order there
    (tmp_path / "theirs.json").write_text("".join(json.dumps(row) + "\n" for row in official))
    assert "theirs.json:1: 'question_id' is missing" in refused(capsys, *flags, tmp_path / "theirs.json")


def test_mme_answers_of_llavas_log_are_joined(tmp_path: Path, capsys: Out) -> None:
    mme(tmp_path)
    asked = map(json.loads, (tmp_path / "MME/llava_mme.jsonl").read_text().splitlines())
    rows = [{"question_id": q["question_id"], "prompt": q["text"], "text": "Yes"} for q in asked]
    flags = ["score", "mme", "--data", tmp_path, "--answers", answers(tmp_path, rows)]
    straight = scored(capsys, *flags)
    again = scored(capsys, *flags, "--source", "official")
    assert again["rows"] == straight["rows"]
    assert straight["score"] == 500
