"""What is wrong with files is refused with file, counts and a way out; nothing is scored in silence."""

from pathlib import Path
from typing import Any

import pytest
from commands import Out, answers, refused, scored
from layout import GOLD, GQA, edit, write_json

from vlm_core.errors import UserError


def test_labels_without_a_question_and_questions_without_a_label(
    data: Path, tmp_path: Path, capsys: Out
) -> None:
    flags = ["score", "gqa", "--data", data, "--answers", answers(tmp_path, GQA)]
    edit(data / GOLD, lambda gold: gold | {"77": gold["10"]})
    assert "1 of 4 labels without a question" in refused(capsys, *flags)
    assert scored(capsys, *flags, "--allow-partial")["missing"] == 1
    edit(data / GOLD, lambda gold: {k: v for k, v in gold.items() if k not in ("10", "77")})
    err = refused(capsys, *flags, "--allow-partial")
    assert "1 of 3 questions without a label, first id 10; the file has 3" in err


def test_labels_of_other_questions_with_the_same_ids(data: Path, tmp_path: Path, capsys: Out) -> None:
    def swap(gold: dict[str, Any]) -> None:
        gold["10"], gold["2"] = gold["2"], gold["10"]

    edit(data / GOLD, swap)
    err = refused(capsys, "score", "gqa", "--data", data, "--answers", answers(tmp_path, GQA))
    assert "2 of 3 labels are of another question with the same id, first 10: 'Which color is it?'" in err


def test_the_order_of_labels_means_nothing(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = ["score", "gqa", "--data", data, "--answers", answers(tmp_path, GQA)]
    straight = scored(capsys, *flags)
    edit(data / GOLD, lambda gold: dict(reversed(gold.items())))
    assert scored(capsys, *flags)["rows"] == straight["rows"]


@pytest.mark.parametrize("name", ["gqa", "textvqa", "mme", "scienceqa", "mmbench"])
def test_answers_to_unknown_questions(name: str, data: Path, tmp_path: Path, capsys: Out) -> None:
    said = answers(tmp_path, {"elsewhere": "yes", "nowhere": "no"})
    err = refused(capsys, "score", name, "--data", data, "--answers", said, "--allow-partial")
    assert "2 answers to no question of this file, first id elsewhere" in err


def test_a_shared_id_needs_the_prompt(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = ["score", "textvqa", "--data", data, "--answers"]
    err = refused(capsys, *flags, answers(tmp_path, {"0a1b": "red"}))
    assert "1 answer with the id of several questions and no prompt to tell them apart, first id 0a1b" in err
    row = {"question_id": "0a1b", "prompt": "What size?", "text": "big"}
    assert "logged with another prompt" in refused(capsys, *flags, answers(tmp_path, [row]))


def test_a_half_written_line(data: Path, tmp_path: Path, capsys: Out) -> None:
    path = answers(tmp_path, GQA)
    path.write_text(path.read_text()[:-9])
    err = refused(capsys, "score", "gqa", "--data", data, "--answers", path, "--allow-partial")
    assert "answers.jsonl:3: not valid JSON" in err
    assert "is the file cut off?" in err


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (GOLD, lambda g: [1], "expected a JSON object that is not empty"),
        (GOLD, lambda g: {k: {"question": "q", "answer": "a"} for k in g}, "of another question"),
        ("textvqa/TextVQA_0.5.1_val.json", lambda g: {"data": []}, "with a list 'data' that is not empty"),
        (
            "textvqa/TextVQA_0.5.1_val.json",
            lambda g: {"data": [r | {"answers": r["answers"][:9]} for r in g["data"]]},
            "'answers' must hold 10 texts; is this the test set?",
        ),
        (
            "textvqa/TextVQA_0.5.1_val.json",
            lambda g: {"data": g["data"] + g["data"][:1]},
            "the question 0a1b/what brand? appears twice",
        ),
        (
            "mm-vet/mm-vet.json",
            lambda g: {k: v | {"capability": "rec"} for k, v in g.items()},
            "'capability' is 'rec', expected a list of names",
        ),
        (
            "mm-vet/mm-vet.json",
            lambda g: {"v1_0": g["v1_0"]},
            "2 of 3 questions without a label, first id v1_1",
        ),
    ],
)
def test_faulty_labels(file: str, change: Any, message: str, data: Path, tmp_path: Path, capsys: Out) -> None:
    edit(data / file, change)
    name = file.split("/")[0]
    err = refused(capsys, "score", name, "--data", data, "--answers", answers(tmp_path, {"1": "x"}))
    assert message in err
    assert Path(file).name in err


def test_vqa_v2_labels(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = ["score", "vqa-v2", "--data", data, "--split", "val", "--answers", answers(tmp_path, {1: "yes"})]
    file = data / "vqav2/v2_mscoco_val2014_annotations.json"
    edit(file, lambda g: g["annotations"][0].update(answers=g["annotations"][0]["answers"][:9]))
    assert "9 reference answers, expected 10" in refused(capsys, *flags)
    edit(file, lambda g: {"annotations": g["annotations"][1:]})
    assert "1 of 3 questions without a label, first id 3" in refused(capsys, *flags)


def test_mme_labels(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = ["score", "mme", "--data", data, "--answers", answers(tmp_path, {"OCR/0001.png": "yes"})]
    file = data / "MME/MME_Benchmark_release_version/count/0001.txt"
    text = file.read_text()
    file.write_text(text.replace("\tYes", " Yes"))
    assert "0001.txt:1: expected a question, a tab and Yes or No" in refused(capsys, *flags)
    file.write_text(text.replace("count", "amount"))
    assert "1 of 28 questions without a label, first id count/0001/Is this count?" in refused(capsys, *flags)
    file.write_text(text + text)
    assert "a second label" in refused(capsys, *flags)
    assert "holds no labels" in refused(capsys, *flags, "--labels", tmp_path)


def test_mmbench_files(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = ["score", "mmbench", "--data", data, "--answers", answers(tmp_path, {7: "A"})]
    file = data / "mmbench/mmbench_dev_20230712.tsv"
    text = file.read_text()
    faults = {
        text[: text.rindex("web")]: "cells, expected 14; is the file cut off?",
        text.replace("1000007", "7"): "1 of 4 rows have the index of another row",
        text.replace(
            "\tB\tcolor", "\tD\tcolor", 1
        ): "1 of 4 rows without a letter of theirs as answer, first index",
        text.replace("question", "text"): "columns missing: question",
        text.split("\n")[0]: "holds no questions",
        text.replace("\t7\tweb", "\t6\tweb"): "its image is that of row 6, which is not in the file",
    }
    for content, message in faults.items():
        file.write_text(content)
        assert message in refused(capsys, *flags)


def test_grades(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = ["score", "mm-vet", "--data", data]
    assert "no answers: name their file with --answers" in refused(capsys, *flags)
    said = answers(tmp_path, {0: "x", 1: "y", 2: "z"})
    assert "`vlm-bench judge mm-vet` asks one" in refused(capsys, *flags, "--answers", said)
    for rows, message in (
        ({"v1_0": {"model": ["m"], "score": [1.5]}}, "the grade 1.5 is no number from 0 to 1"),
        ({"v1_0": {"model": ["m"], "score": 1}}, "'score' is 1, expected a list, one entry a run"),
        ({"v1_9": {"model": ["m"], "score": [1]}}, "1 of 1 questions without a question in this file"),
    ):
        file = write_json(tmp_path / "g.json", rows)
        assert message in refused(capsys, *flags, "--grades", file)


def test_what_is_scored_on_a_server(data: Path, tmp_path: Path, capsys: Out) -> None:
    from layout import mmbench

    said = answers(tmp_path, {72: "yes", 73: "no"})
    assert "`vlm-bench submit vqa-v2`" in refused(
        capsys, "score", "vqa-v2", "--data", data, "--answers", said
    )
    mmbench(data, split="test")
    said = answers(tmp_path, {7: "A", 1_000_007: "B", 8: "B", 9: "A"})
    err = refused(capsys, "score", "mmbench", "--split", "test", "--data", data, "--answers", said)
    assert "not public" in err
    dev = data / "mmbench/mmbench_test_20230712.tsv"
    err = refused(capsys, "score", "mmbench", "--questions", dev, "--answers", said)
    assert "is this the test file?" in err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: Out) -> None:
    err = refused(capsys, "score", "gqa", "--data", tmp_path, "--answers", answers(tmp_path, GQA))
    assert "llava_gqa_testdev_balanced.jsonl: cannot read this file: No such file" in err


def test_a_report_that_cannot_be_written(data: Path, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "file").write_text("")
    flags = ["score", "gqa", "--data", data, "--answers", answers(tmp_path, GQA)]
    assert "report.json: cannot write" in refused(capsys, *flags, "--save", tmp_path / "file" / "report.json")


def test_options_that_do_not_exist(data: Path) -> None:
    from vlm_bench.benchmarks import GQAConfig

    with pytest.raises(ValueError, match="Extra inputs"):
        GQAConfig(labls=data)  # type: ignore
    with pytest.raises(UserError, match="cannot read"):
        GQAConfig(data=data / "elsewhere").build()
