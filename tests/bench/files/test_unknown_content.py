"""What an official file holds that is not known is an error with its place, or counted and named; never nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Out, answers, refused, scored
from layout import GOLD, GQA, edit, everything, mme, write_json

VQA = "vqav2/v2_mscoco_val2014_annotations.json"
VET = "mm-vet/mm-vet.json"
VAL = ["--split", "val"]


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda row: {new if key == old else key: value for key, value in row.items()}


def each(change: Callable[[dict[str, Any]], dict[str, Any]], key: str | None = None) -> Callable[[Any], Any]:
    """A change of every row."""

    def changed(value: Any) -> Any:
        if key is not None:
            return value | {key: [change(row) for row in value[key]]}
        return {k: change(row) for k, row in value.items()}

    return changed


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            GOLD,
            each(renamed("isBalanced", "is_balanced")),
            "10: 'isBalanced' is missing, expected true or false",
        ),
        (GOLD, each(lambda r: r | {"isBalanced": "yes"}), "'isBalanced' is 'yes', expected true or false"),
        (GOLD, each(renamed("answer", "answers")), "'answer' is missing, expected text; its keys are"),
        (
            GOLD,
            each(lambda r: r | {"types": {"structural": "querry", "semantic": "obj"}}),
            "types: unknown structural 'querry'; possible: choose, compare, logical, query, verify; did you mean",
        ),
        (
            GOLD,
            each(lambda r: r | {"types": {"structural": "query", "semantic": "hue"}}),
            "unknown semantic 'hue'",
        ),
        (GOLD, each(lambda r: r | {"semantic": [{"operation": "query"}]}), "semantic: 'argument' is missing"),
        (
            VQA,
            each(lambda r: r | {"answer_type": "yes-no"}, "annotations"),
            "unknown answer_type 'yes-no'; possible: number, other, yes/no",
        ),
        (VQA, each(renamed("answer_type", "answerType"), "annotations"), "'answer_type' is missing"),
        (
            VQA,
            each(lambda r: r | {"image_id": 5}, "annotations"),
            "3 of 3 annotations are of another image than the question of that id",
        ),
        (
            VQA,
            renamed("annotations", "annotation"),
            "list 'annotations' that is not empty; its keys are annotation",
        ),
        (
            VET,
            each(lambda r: r | {"capability": ["rec", "spatial"]}),
            "v1_0: unknown capability 'spatial'; possible: gen, know, math, ocr, rec, spat; did you mean 'spat'?",
        ),
        (
            VET,
            each(renamed("capability", "capabilities")),
            "'capability' is missing, expected a list of names",
        ),
        (
            "textvqa/TextVQA_0.5.1_val.json",
            each(renamed("answers", "answer"), "data"),
            "'answers' must hold 10 texts",
        ),
    ],
)
def test_labels(file: str, change: Any, message: str, data: Path, tmp_path: Path, capsys: Out) -> None:
    edit(data / file, change)
    name = {"vqav2": "vqa-v2"}.get(file.split("/")[0], file.split("/")[0])
    said = answers(tmp_path, {"1": "x"})
    err = refused(
        capsys, "score", name, "--data", data, *(VAL if name == "vqa-v2" else []), "--answers", said
    )
    assert message in err
    assert Path(file).name in err


@pytest.mark.parametrize("name", ["gqa", "mm-vet", "mme", "pope", "textvqa"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            renamed("text", "question"),
            "'text' is missing, expected text; its keys are 'question_id', 'image'",
        ),
        (
            renamed("image", "imange"),
            "'image' is missing, expected text; its keys are 'question_id', 'imange'",
        ),
        (renamed("question_id", "questionId"), "'question_id' is missing, expected a number or text"),
        (lambda r: r | {"image": ""}, "'image' is '', expected text that is not empty"),
        (
            lambda r: r | {"question_id": 1.5},
            "'question_id' must be a number or text, got 1.5; ids are whole numbers",
        ),
        (lambda r: r | {"category": None}, "'category' is None, expected text"),
    ],
)
def test_questions(name: str, change: Any, message: str, data: Path, tmp_path: Path, capsys: Out) -> None:
    (path,) = (p for p in data.rglob("llava*.jsonl") if p.parts[-2].lower() == name)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1] = change(rows[1])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    err = refused(capsys, "score", name, "--data", data, "--answers", answers(tmp_path, {"1": "x"}))
    assert f"{path}:2: {message}" in err


def test_mme_tasks_and_labels(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = mme_flags(data, tmp_path)
    home = data / "MME/MME_Benchmark_release_version"
    (home / "ocr").mkdir()
    (home / "ocr/0001.txt").write_text("Is it?\tYes\n")
    assert scored(capsys, *flags)["warnings"] == ["not read, since no task of MME: 1 label files in ocr/"]
    (home / "OCR/0001.txt").write_text("Is it?\tMaybe\n")
    assert "OCR/0001.txt:1: expected a question, a tab and Yes or No" in refused(capsys, *flags)


def mme_flags(data: Path, folder: Path) -> list[Any]:
    asked = map(json.loads, (data / "MME/llava_mme.jsonl").read_text().splitlines())
    rows = [{"question_id": q["question_id"], "prompt": q["text"], "text": "Yes"} for q in asked]
    return ["score", "mme", "--data", data, "--answers", answers(folder, rows)]


def test_mmes_own_tool_has_the_labels(tmp_path: Path, capsys: Out) -> None:
    """`eval_tool.zip` has a file a task, a line a question; images and label folders are not needed."""
    mme(tmp_path)
    flags = mme_flags(tmp_path, tmp_path)
    straight = scored(capsys, *flags)
    home = tmp_path / "MME/MME_Benchmark_release_version"
    for task in [path for path in home.iterdir() if path.is_dir()]:
        lines = [f"{f.stem}.png\t{line}" for f in task.rglob("*.txt") for line in f.read_text().splitlines()]
        (tmp_path / "tool").mkdir(exist_ok=True)
        (tmp_path / f"tool/{task.name}.txt").write_text("\r\n".join(lines))
    again = scored(capsys, *flags, "--labels", tmp_path / "tool")
    assert (again["rows"], again["notes"]) == (straight["rows"], straight["notes"])
    file = tmp_path / "tool/OCR.txt"
    file.write_text(file.read_text().replace("\tYes", "\tYess"))
    err = refused(capsys, *flags, "--labels", tmp_path / "tool")
    assert "OCR.txt:1: expected an image, a question and Yes or No between tabs" in err


def test_a_split_of_pope_that_is_not_known(data: Path, tmp_path: Path, capsys: Out) -> None:
    (data / "pope/coco/coco_pope_hard.json").write_text("{}")
    said = answers(tmp_path, dict.fromkeys(range(1, 7), "Yes"))
    report = scored(capsys, "score", "pope", "--data", data, "--answers", said)
    assert report["warnings"][0] == "not read, since no split of POPE: coco_pope_hard.json"


def test_scienceqa_problems(data: Path, tmp_path: Path, capsys: Out) -> None:
    row = {"question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": "", "image": None}
    flags = [
        "score",
        "scienceqa",
        "--source",
        "official",
        "--data",
        data,
        "--answers",
        answers(tmp_path, {"4": "B"}),
    ]
    splits = write_json(data / "scienceqa/pid_splits.json", {"test": ["4"]})
    for old, new in (("image", "img"), ("hint", "Hint"), ("answer", "answers")):
        write_json(data / "scienceqa/problems.json", {"4": renamed(old, new)(row)})
        assert f"problems.json: 4: {old!r} is missing" in refused(capsys, *flags)
    write_json(data / "scienceqa/problems.json", {"4": row})
    write_json(splits, {"test": ["4", 4]})
    assert "1 ids of 'test' appear twice" in refused(capsys, *flags)


def test_answers_of_another_benchmark(data: Path, tmp_path: Path, capsys: Out) -> None:
    said = answers(tmp_path, dict.fromkeys(range(1, 7), "Yes"))
    err = refused(capsys, "score", "scienceqa", "--data", data, "--answers", said, "--allow-partial")
    assert "an id of this file is '4'. Are these answers of another benchmark or split?" in err
    said = answers(tmp_path, GQA)
    write_json(tmp_path / "answers.jsonl.run.json", {"benchmark": "gqa"})
    assert scored(capsys, "score", "gqa", "--data", data, "--answers", said)
    for command in (["score", "mm-vet"], ["submit", "mm-vet", "--out", tmp_path / "o"]):
        err = refused(capsys, *command, "--data", data, "--answers", said)
        assert "answers to gqa, according to answers.jsonl.run.json, not to mm-vet" in err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"1": "Yes", "1": "No"}', "the key '1' appears twice in one JSON object"),
        (
            '{"question_id": 1, "text": "a", "text": "b"}',
            "a.json:1: the key 'text' appears twice in one JSON object",
        ),
        ('{"questionId": 1, "prediction": "x"}', "a.json:1: 'question_id' is missing"),
        (
            '[{"question_id": 1, "said": "x"}]',
            "answer number 1: expected the keys 'question_id' and 'text', or",
        ),
        (
            '[{"question_id": 1, "text": "x"}, {"question_id": 2, "answer": "x"}]',
            "number 2: 'text' is missing",
        ),
        ('[\n{"question_id": 1,', "a.json:2: not valid JSON"),
        ('{"question_id": 1, "text": "x", "Prompt": "y"}', "unknown key 'Prompt'; did you mean 'prompt'?"),
        ("[]", "holds no answers"),
        ("{}", "'question_id' is missing"),
        ("3", "holds no answers"),
        ("hello", "a.json:1: not valid JSON"),
    ],
)
def test_answer_files(text: str, message: str, tmp_path: Path, capsys: Out) -> None:
    everything(tmp_path / "eval")
    (tmp_path / "a.json").write_text(text)
    flags = ["--data", tmp_path / "eval", "--answers", tmp_path / "a.json", "--allow-partial"]
    assert message in refused(capsys, "score", "pope", *flags)
