"""SEED-Image, MMBench-CN, VSR and LLaVA-Bench on tiny files: figures by hand, prompts, faulty files."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Out, answers, refused, scored
from layout import edit
from more_layouts import SEED, llava_bench, mmbench_cn, seed_image, vsr
from tiny_suite import TinySuite

from vlm_bench import benchmarks
from vlm_bench.benchmarks.llava_bench.scoring import relative_score
from vlm_bench.benchmarks.vsr import scoring
from vlm_bench.cli.main import main


class TestSeedImage(TinySuite):
    config = benchmarks.SeedImageConfig


class TestMMBenchCN(TinySuite):
    config = benchmarks.MMBenchCNConfig


class TestVSR(TinySuite):
    config = benchmarks.VSRConfig


class TestLlavaBench(TinySuite):
    config = benchmarks.LlavaBenchConfig


def change_rows(path: Path, change: Any) -> None:
    """Rewrite the rows of JSON lines."""
    rows = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for write in (seed_image, mmbench_cn, llava_bench, vsr):
        write(tmp_path / "eval")
    return tmp_path / "eval"


@pytest.mark.parametrize("source", ["llava", "official"])
def test_seed_image(source: str, data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = ["score", "seed-image", "--source", source, "--data", data, "--answers"]
    said = answers(tmp_path, {101: "A", 102: "c", 103: "B.", 201: "D"})  # the last one is about a video
    report = scored(capsys, *flags, said)
    assert report["score"] == pytest.approx(1 / 3)
    assert {name: row["n"] for name, row in report["rows"].items()} == {
        "all": 3,
        "Instances Counting": 2,
        "Scene Understanding": 1,
    }
    assert report["parse"] == {"no option's letter (wrong)": 2}
    assert "1 answers not scored: they are about videos" in report["warnings"]
    assert "3 questions about images; the published file has 14,233" in report["warnings"]
    assert scored(capsys, *flags, said, "--strictness", "normalized")["score"] == 1
    err = refused(capsys, *flags, answers(tmp_path, {101: "A", 102: "C", 103: "B", 999: "D"}))
    assert "1 answer to no question of this file, first id 999" in err


def test_seed_image_asks_as_llava(data: Path) -> None:
    llava = benchmarks.SeedImageConfig(data=data).build()
    official = benchmarks.SeedImageConfig(data=data, source="official").build()
    assert list(llava.questions) == ["101", "102", "103"]
    assert dict(official.questions) == dict(llava.questions)
    assert llava.questions["103"].choices == ("One", "Two", "Three", "Four")


SEED_FAULTS: list[tuple[Any, str]] = [
    (lambda r: r | {"answer": "E"}, "unknown answer 'E'; possible: A, B, C, D"),
    (lambda r: r | {"data_type": "Single Image"}, "unknown data_type 'Single Image'; possible: image, video"),
    (lambda r: r | {"question_type_id": 13}, "'question_type_id' is 13, expected one of 1, 5, 10"),
    (lambda r: r | {"question_type_id": True}, "'question_type_id' is True, expected one of"),
    (lambda r: r | {"choice_d": None}, "'choice_d' is None, expected text"),
    (lambda r: r | {"question_id": "101"}, "question_id 101 appears twice"),
    (
        lambda r: r | {"question": f"Not {r['question']}"},
        "4 of 4 labels are of another question with the same id",
    ),
    (
        lambda r: r | {"choice_a": "Two", "choice_b": "One"},
        "4 of 4 questions have their options in another order, first id 101",
    ),
    (lambda r: r | {"question_id": f"x{r['question_id']}"}, "4 of 4 questions without a label, first id 101"),
]


@pytest.mark.parametrize(("change", "message"), SEED_FAULTS, ids=[row[1][:25] for row in SEED_FAULTS])
def test_faulty_seed_labels(change: Any, message: str, data: Path, tmp_path: Path, capsys: Out) -> None:
    path = data / "seed_bench/SEED-Bench.json"
    edit(path, lambda value: value | {"questions": [change(row) for row in SEED]})
    err = refused(capsys, "score", "seed-image", "--data", data, "--answers", answers(tmp_path, {101: "A"}))
    assert message in err
    assert "SEED-Bench.json" in err
    edit(path, lambda value: {"questions": SEED})
    err = refused(capsys, "score", "seed-image", "--data", data, "--answers", answers(tmp_path, {101: "A"}))
    assert "'question_type', the numbers of types by name" in err


def test_mmbench_cn(data: Path, tmp_path: Path, capsys: Out) -> None:
    said = answers(tmp_path, {7: "A", 1_000_007: "B", 8: "A", 9: "A"})
    report = scored(capsys, "score", "mmbench-cn", "--data", data, "--answers", said)
    assert report["score"] == pytest.approx(2 / 3)
    assert report["protocol"] == "llava-1.5/mmbench-cn-dev@unknown circular, exact-matching"
    prompt = benchmarks.MMBenchCNConfig(data=data).build().questions["8"].prompt
    assert prompt.endswith("\nD. a pig\n请直接回答选项字母。")
    pytest.importorskip("openpyxl")
    argv = ["submit", "mmbench-cn", "--data", str(data), "--answers", str(said), "--out", str(tmp_path / "o")]
    assert main(argv) == 0
    assert (tmp_path / "o/mmbench-cn_dev.xlsx").is_file()


TRUTH = [
    ("True", True),
    ("true.", True),
    (" TRUE", True),
    ('"True"', True),
    ("Yes, it is.", True),
    ("False", False),
    ("false, the cat is above it", False),
    ("No", False),
    ("The statement is true", None),
    ("Not true", None),
    ("Trueish", None),
    ("1", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "truth"), TRUTH)
def test_true_or_false(text: str, truth: bool | None) -> None:
    assert scoring.parse(text) is truth


def test_vsr(data: Path, tmp_path: Path, capsys: Out) -> None:
    benchmark = benchmarks.VSRConfig(data=data).build()
    said = dict(zip(benchmark.questions, ("True", "maybe", "False", "False"), strict=True))
    report = scored(capsys, "score", "vsr", "--data", data, "--answers", answers(tmp_path, said))
    assert report["score"] == 0.5
    assert report["rows"]["category: projective"] == {"n": 2, "accuracy": 0.5}
    assert report["rows"]["relation: near"] == {"n": 1, "accuracy": 0}
    assert report["parse"] == {"neither true nor false (wrong)": 1}
    assert report["protocol"] == "vsr-zeroshot-test@unknown"
    prompt = benchmark.questions["1.jpg/The cat is under the bench."].prompt
    assert prompt.split("\n") == [
        'Based on the image, is this statement "True" or "False"? The cat is under the bench.',
        'Respond with "True" or "False" directly.',
    ]


def test_relations_have_a_category(data: Path) -> None:
    """But for one of the published files: "congruent" is in none of the authors' categories."""
    change_rows(data / "vsr/splits/zeroshot/test.jsonl", lambda rows: [rows[0] | {"relation": "congruent"}])
    benchmark = benchmarks.VSRConfig(data=data).build()
    (key,) = benchmark.questions
    assert list(benchmark.score({key: "True"}).rows) == ["all", "category: none", "relation: congruent"]
    assert scoring.CATEGORY_OF["down from"] == "directional"
    assert scoring.CATEGORY_OF["among"] == "unallocated"
    assert len(scoring.CATEGORY_OF) == 70


VSR_FAULTS: list[tuple[Any, str]] = [
    (lambda r: r | {"label": 2}, ":1: 'label' is 2, expected 0 or 1"),
    (lambda r: r | {"label": True}, ":1: 'label' is True, expected 0 or 1"),
    (lambda r: r | {"relation": ""}, ":1: 'relation' is '', expected text that is not empty"),
    (lambda r: r | {"caption": ""}, ":1: 'caption' is '', expected text that is not empty"),
    (lambda r: {k: v for k, v in r.items() if k != "label"}, ":1: 'label' is missing, expected 0 or 1"),
    (lambda r: r | {"image": "1.jpg", "caption": "Same."}, ":2: the statement 1.jpg/Same. appears twice"),
]


@pytest.mark.parametrize(("change", "message"), VSR_FAULTS, ids=[row[1][:30] for row in VSR_FAULTS])
def test_faulty_statements(change: Any, message: str, data: Path, tmp_path: Path, capsys: Out) -> None:
    change_rows(data / "vsr/splits/zeroshot/test.jsonl", lambda rows: [change(row) for row in rows])
    err = refused(capsys, "score", "vsr", "--data", data, "--answers", answers(tmp_path, {"x": "True"}))
    assert f"test.jsonl{message}" in err


def test_relative_scores() -> None:
    assert relative_score([(8, 6), (9, 9), (8, 7.5)]) == pytest.approx(22.5 / 25)
    assert relative_score([(5, 10)]) == 2  # better than the reference
    assert relative_score([]) == relative_score([(0, 5)]) == 0


@pytest.fixture
def reviews(data: Path) -> list[str | Path]:
    """The command line that scores the reviews."""
    path = data / "llava-bench-in-the-wild/reviews/model.jsonl"
    return ["score", "llava-bench", "--data", data, "--judge", "gpt-4-0314", "--reviews", path]


def test_llava_bench(reviews: list[str | Path], tmp_path: Path, capsys: Out) -> None:
    report = scored(capsys, *reviews)
    assert report["score"] == pytest.approx(22.5 / 25)
    assert report["rows"]["conv"] == pytest.approx(
        {"n": 1, "relative score": 0.75, "reference": 0.8, "model": 0.6}
    )
    assert report["protocol"] == "llava-bench-in-the-wild@unknown reviews by gpt-4-0314"
    said = answers(tmp_path, {0: "a", 1: "b", 2: "c"})
    report = scored(capsys, *reviews, "--answers", said)
    assert "reviews name no answers: nothing shows that they are of these" in report["warnings"]
    assert "reviewed by a judge" in refused(capsys, *reviews[:4], "--answers", said)


def test_a_review_without_scores_is_no_zero(reviews: list[str | Path], capsys: Out) -> None:
    path = Path(reviews[-1])
    change_rows(path, lambda rows: [rows[0] | {"tuple": [-1, -1]}, *rows[1:]])
    assert "1 of 3 answers can't be scored" in refused(capsys, *reviews)
    report = scored(capsys, *reviews, "--allow-partial")
    assert report["score"] == pytest.approx(16.5 / 17)
    assert (report["partial"], report["unscored"]) == (True, 1)


REVIEW_FAULTS: list[tuple[Any, str]] = [
    (lambda rows: rows[:2], "1 question of 3 without an answer"),
    (lambda rows: [*rows, rows[0]], "model.jsonl:4: question_id 0 appears twice"),
    (
        lambda rows: [rows[0] | {"question_id": 60}],
        "1 of 1 questions without a question in this file, first id 60",
    ),
    (lambda rows: [rows[0] | {"tuple": [8]}], ":1: 'tuple' is [8], expected two scores from 0 to 10"),
    (lambda rows: [rows[0] | {"tuple": [8, 11]}], ":1: 'tuple' is [8, 11], expected two scores from 0 to 10"),
    (lambda rows: [rows[0] | {"tuple": [True, 1]}], "'tuple' is [True, 1]"),
    (lambda rows: [rows[0] | {"tuple": "8 6"}], "'tuple' is '8 6', expected two scores"),
    (lambda rows: [rows[0] | {"category": "conv"}], "unknown category 'conv'; possible: llava_bench_complex"),
    (
        lambda rows: [rows[0] | {"category": "llava_bench_detail"}],
        "reviews have another category than their question, first id 0: detail where conv is asked",
    ),
]


@pytest.mark.parametrize(("change", "message"), REVIEW_FAULTS, ids=[row[1][:30] for row in REVIEW_FAULTS])
def test_faulty_reviews(change: Any, message: str, reviews: list[str | Path], capsys: Out) -> None:
    change_rows(Path(reviews[-1]), change)
    assert message in refused(capsys, *reviews)


def test_questions_of_another_category(data: Path, reviews: list[str | Path], capsys: Out) -> None:
    path = data / "llava-bench-in-the-wild/questions.jsonl"
    change_rows(path, lambda rows: [row | {"category": "default"} for row in rows])
    assert "questions.jsonl:1: unknown category 'default'" in refused(capsys, *reviews)
