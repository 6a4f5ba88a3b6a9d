"""Every benchmark end to end on tiny files in LLaVA's layout: figures by hand, joins by id, parse statistics."""

from pathlib import Path

import pytest
from commands import Out, answers, printed, scored
from layout import everything, mm_vet, mme_image, write_json

from vlm_bench import benchmarks
from vlm_bench.benchmarks.layout import LayoutConfig
from vlm_bench.evaluate import evaluate
from vlm_bench.files.answers import Answer
from vlm_bench.plugin import vlm_benchmarks
from vlm_core.benchmark import EncodedImage
from vlm_core.plugins.registry import installed
from vlm_core.testing import BenchmarkSuite

SUFFIX = "\nAnswer the question using a single word or phrase."


EIGHT = {"vqa-v2", "gqa", "scienceqa", "textvqa", "pope", "mme", "mmbench", "mm-vet"}
MORE = {"vizwiz", "seed-image", "mmbench-cn", "llava-bench", "vsr", "refcoco", "refcoco+", "refcocog"}


def test_all_are_there_by_the_plugin_hook() -> None:
    names = {config.type_name() for config in vlm_benchmarks()}
    assert names == EIGHT | MORE | {"pope-aokvqa", "pope-gqa"}
    assert names < set(installed().names("benchmark"))


class _OnTinyFiles(BenchmarkSuite):
    @classmethod
    def make_config(cls, tmp_path_factory: pytest.TempPathFactory) -> LayoutConfig:
        return cls.config(data=everything(tmp_path_factory.mktemp("eval")))


class TestGQA(_OnTinyFiles):
    config = benchmarks.GQAConfig


class TestScienceQA(_OnTinyFiles):
    config = benchmarks.ScienceQAConfig


class TestTextVQA(_OnTinyFiles):
    config = benchmarks.TextVQAConfig


class TestPope(_OnTinyFiles):
    config = benchmarks.PopeConfig


class TestMME(_OnTinyFiles):
    config = benchmarks.MMEConfig


class TestMMBench(_OnTinyFiles):
    config = benchmarks.MMBenchConfig


class TestMMVet(_OnTinyFiles):
    config = benchmarks.MMVetConfig


class TestVQAv2TestDev(_OnTinyFiles):
    config = benchmarks.VQAv2Config


class TestVQAv2Val(_OnTinyFiles):
    @classmethod
    def make_config(cls, tmp_path_factory: pytest.TempPathFactory) -> benchmarks.VQAv2Config:
        return benchmarks.VQAv2Config(data=everything(tmp_path_factory.mktemp("eval")), split="val")


def test_gqa(data: Path, tmp_path: Path, capsys: Out) -> None:
    said = answers(tmp_path, {"10": "Dog.", "2": "red", "31": "no"})
    report = scored(capsys, "score", "gqa", "--data", data, "--answers", said)
    assert report["score"] == pytest.approx(2 / 3)
    assert report["expected"] == 3  # the question that is not balanced is not asked
    rows = {name: (row["n"], row["accuracy"]) for name, row in report["rows"].items()}
    assert rows["open"] == (2, 1)
    assert rows["binary"] == (1, 0)
    assert rows["semantic: attr"] == (2, 0.5)
    assert rows["steps: 1"] == (3, pytest.approx(2 / 3))
    assert list(rows)[:3] == ["all", "open", "binary"]
    official = write_json(
        tmp_path / "p.json", [{"questionId": k, "prediction": "red"} for k in ("2", "10", "31")]
    )
    assert scored(capsys, "score", "gqa", "--data", data, "--answers", official)["score"] == pytest.approx(
        1 / 3
    )


def test_textvqa_tells_questions_of_an_image_apart_by_the_prompt(
    data: Path, tmp_path: Path, capsys: Out
) -> None:
    tokens = "\nReference OCR token: DAKOTA, DIGITAL"
    rows = [
        {"question_id": "0a1b", "prompt": f"What color?{tokens}{SUFFIX}", "text": "Red"},
        {"question_id": "0a1b", "prompt": f"What brand?{tokens}{SUFFIX}", "text": "Dakota."},
    ]
    report = scored(capsys, "score", "textvqa", "--data", data, "--answers", answers(tmp_path, rows))
    assert report["score"] == pytest.approx((0.6 + 1) / 2)
    assert report["notes"] == {"prompt": "with OCR tokens", "words an answer": "mean 1.0, longest 1"}
    assert "with OCR tokens" in report["protocol"]
    ours = {"0a1b/what color?": "red", "0a1b/what brand?": "dakota"}  # as a runner writes them
    again = scored(capsys, "score", "textvqa", "--data", data, "--answers", answers(tmp_path, ours))
    assert again["score"] == report["score"]
    report = scored(
        capsys, "score", "textvqa", "--data", data, "--answers", tmp_path / "answers.jsonl", "--ocr", "no"
    )
    assert "without OCR tokens" in report["protocol"]
    questions = benchmarks.TextVQAConfig(data=data, ocr="no").build().questions
    assert questions["0a1b/what color?"].prompt == f"What color?{SUFFIX}"


def test_vqa_v2_val_both_ways(data: Path, tmp_path: Path, capsys: Out) -> None:
    said = answers(tmp_path, {1: "Yes", 2: "two", 3: "red"})
    flags = ["score", "vqa-v2", "--split", "val", "--data", data, "--answers", said]
    report = scored(capsys, *flags)
    assert report["score"] == pytest.approx((1 + 1 + 0.9) / 3)
    assert report["rows"]["yes/no"] == {"n": 1, "accuracy (llava)": 1, "accuracy (raw)": 0}
    assert report["rows"]["other"]["accuracy (raw)"] == pytest.approx(0.9)
    raw = scored(capsys, *flags, "--answer-format", "raw")
    assert raw["score"] == pytest.approx(1.9 / 3)
    assert raw["protocol"] != report["protocol"]
    normalized = scored(capsys, *flags, "--answer-format", "raw", "--strictness", "normalized")
    assert normalized["score"] == pytest.approx(2.9 / 3)
    assert normalized["protocol"].endswith("(normalized)")


def test_mme_pairs_by_image_and_drops_half_pairs(data: Path, tmp_path: Path, capsys: Out) -> None:
    from vlm_bench.benchmarks.mme.scoring import COGNITION, PERCEPTION

    rows = []
    for task in (*PERCEPTION, *COGNITION):
        for text in (f"Is this {task}?", "Is this another?"):
            right = "Yes" if task in text else "No"
            said = {"count": "The answer is yes", "color": "Yes\t\n"}.get(task, right)
            rows.append({"question_id": mme_image(task), "prompt": text + SUFFIX, "text": said})
    flags = ["score", "mme", "--data", data, "--answers"]
    report = scored(capsys, *flags, answers(tmp_path, rows))
    assert report["score"] == pytest.approx(8 * 200 + 0 + 50)  # count: none right; color: one of two
    assert report["unit"] == "points"
    assert report["rows"]["cognition"]["score"] == 800
    assert report["parse"] == {"neither yes nor no (wrong)": 2}
    table = printed(capsys, *flags, answers(tmp_path, rows[::-1]))
    assert "perception  1650.00" in table
    assert "published: VL-Mamba-2.8B 1369.6, " in table
    del rows[0]
    half = scored(capsys, *flags, answers(tmp_path, rows), "--allow-partial")
    assert (half["scored"], half["missing"], half["unscored"]) == (26, 2, 1)
    assert any("nothing scored of existence" in text for text in half["warnings"])


def test_mmbench(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = ["score", "mmbench", "--data", data, "--answers"]
    said = {7: "A", 1_000_007: "B", 8: "It is a DOG", 9: "one of them"}
    report = scored(capsys, *flags, answers(tmp_path, said))
    assert report["score"] == 1
    assert report["parse"] == {
        "read from an option's text": 2,
        "refused (wrong)": 0,
        "no option found (wrong)": 0,
    }
    assert any('"None"' in text for text in report["warnings"])
    report = scored(capsys, *flags, answers(tmp_path, said | {1_000_007: "A"}))
    assert report["rows"]["CircularEval"] == {"n": 3, "correct": 2, "accuracy": pytest.approx(2 / 3)}
    assert report["rows"]["vanilla"]["correct"] == 3
    del said[1_000_007]
    part = scored(capsys, *flags, answers(tmp_path, said), "--allow-partial")
    assert (part["rows"]["CircularEval"]["n"], part["missing"]) == (2, 2)


def test_mmbench_questions(data: Path) -> None:
    questions = benchmarks.MMBenchConfig(data=data).build().questions
    letter = "Answer with the option's letter from the given choices directly."
    assert questions["8"].prompt == f'look\nWhat "is" it?\nA. a cat\nB. a dog\nC. a cow\nD. a pig\n{letter}'
    assert questions["9"].choices == ("one",)  # LLaVA's reader takes the option "None" for no option
    assert isinstance(questions["7"].image, EncodedImage)
    assert questions["7"].image == questions["1000007"].image  # where the file only refers to row 7
    opened = questions["1000007"].open()
    assert opened is not None
    assert opened.size == (8, 8)


def grades(path: Path, **scores: list[float]) -> Path:
    rows = {
        key: {"model": ["m"] * len(s), "content": list(map(str, s)), "score": s} for key, s in scores.items()
    }
    return write_json(path, rows)


def test_mm_vet_from_grades(data: Path, tmp_path: Path, capsys: Out) -> None:
    file = grades(tmp_path / "g.json", v1_0=[0.5, 0.0], v1_1=[1.0, 1.0], v1_2=[0.0, 0.5])
    report = scored(capsys, "score", "mm-vet", "--data", data, "--grades", file)
    assert report["score"] == pytest.approx(0.5)
    assert report["rows"]["rec"] == {"n": 2, "score": pytest.approx(0.625)}
    assert report["rows"]["only math+ocr"] == {"n": 1, "score": pytest.approx(0.25)}
    assert report["rows"]["run 1"]["score"] == pytest.approx(0.5)
    assert report["notes"] == {"judge": "m", "runs": "2"}
    assert report["protocol"] == "mm-vet grades by m"


def test_an_answer_without_a_grade_is_unscored_not_wrong(data: Path, tmp_path: Path, capsys: Out) -> None:
    file = grades(tmp_path / "g.json", v1_0=[1.0, 1.0], v1_1=[1.0], v1_2=[])
    flags = ["score", "mm-vet", "--data", data, "--grades", file, "--allow-partial"]
    report = scored(capsys, *flags)
    assert report["score"] == 1
    assert (report["scored"], report["missing"], report["partial"]) == (1, 2, True)
    said = answers(tmp_path, {0: "x", 1: "y", 2: "z"})
    report = scored(capsys, *flags, "--answers", said)
    assert (report["scored"], report["unscored"]) == (1, 2)


def test_mm_vet_without_its_answers_has_no_capabilities(tmp_path: Path, capsys: Out) -> None:
    mm_vet(tmp_path / "eval", truths=False)
    file = grades(tmp_path / "g.json", v1_0=[1.0], v1_1=[1.0], v1_2=[0.1])
    report = scored(capsys, "score", "mm-vet", "--data", tmp_path / "eval", "--grades", file)
    assert list(report["rows"]) == ["total"]
    assert any("no figures by capability" in text for text in report["warnings"])


def test_markdown_and_settings(data: Path, tmp_path: Path, capsys: Out) -> None:
    said = answers(tmp_path, {"4": "B", "5": ""})
    text = printed(capsys, "score", "scienceqa", "--data", data, "--answers", said, "--markdown")
    assert text.startswith(
        "### llava-1.5/scienceqa-img\n\n| | n | correct | accuracy |\n|---|---:|---:|---:|\n"
    )
    assert "| all | 2 | 1 | 50.00 |" in text
    assert "- empty: 1 of 2" in text
    report = evaluate(
        benchmarks.ScienceQAConfig(data=data),
        [Answer("4", "B"), Answer("5", "A")],
        settings={"batch size": 1},
    )
    assert report.as_dict()["settings"] == {"batch size": 1}
    assert report.headline.value == 1


def test_a_third_party_benchmark_is_scored_by_name(tmp_path: Path, capsys: Out) -> None:
    truth = installed().get("benchmark", "easy-vqa")().build().truth
    said = {key: answer.upper() + "." for key, answer in truth.items()}
    said[next(iter(said))] = "wrong"
    report = scored(capsys, "score", "easy-vqa", "--answers", answers(tmp_path, said))
    assert report["rows"]["all"]["n"] == 9673
    assert report["score"] == pytest.approx(9672 / 9673)
    assert {"shape", "colour", "yes/no"} < report["rows"].keys()


class TestEasyVQA(BenchmarkSuite):
    config = installed().get("benchmark", "easy-vqa")()
