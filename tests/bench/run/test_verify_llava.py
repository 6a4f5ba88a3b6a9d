"""LLaVA-1.5-13B's published answers give its published figures, where those files stand beside the project."""

from pathlib import Path

import pytest
from commands import Out, printed, refused
from layout import everything
from llava_answers import FILES, real

from vlm_bench import benchmarks
from vlm_bench.run.llava_selfcheck import Check, line

PLACES = {
    "pope_questions.jsonl.gz": "pope/llava_pope_test.jsonl.gz",
    "pope_labels_e3e39262": "pope/coco",
    "pope_answers_llava-v1.5-13b.jsonl.gz": "pope/answers/llava-v1.5-13b.jsonl.gz",
    "scienceqa_questions.json.gz": "scienceqa/llava_test_CQM-A.json.gz",
    "scienceqa_answers_llava-v1.5-13b.jsonl.gz": "scienceqa/answers/llava-v1.5-13b_output.jsonl.gz",
    "gqa_questions.jsonl.gz": "gqa/llava_gqa_testdev_balanced.jsonl.gz",
    "textvqa_questions.jsonl.gz": "textvqa/llava_textvqa_val_v051_ocr.jsonl.gz",
    "mme_questions.jsonl.gz": "MME/llava_mme.jsonl.gz",
    "mmvet_questions.jsonl.gz": "mm-vet/llava-mm-vet.jsonl.gz",
}


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    """The files under the names that LLaVA's eval.zip gives them."""
    for name, place in PLACES.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).symlink_to(FILES / name)
    return tmp_path


@real
def test_the_published_row(llava: Path, capsys: Out) -> None:
    out = printed(capsys, "verify-llava", llava)
    assert "pope       published    85.9  here    85.95  agrees" in out
    assert "scienceqa  published    71.6  here    71.64  agrees" in out
    assert out.count("not checked") == 3


@real
def test_the_newer_labels_of_pope_are_refused(llava: Path, capsys: Out) -> None:
    said = llava / "pope/answers/llava-v1.5-13b.jsonl.gz"
    err = refused(
        capsys, "score", "pope", "--data", llava, "--answers", said, "--labels", FILES / "pope_labels_head"
    )
    assert "these labels are POPE revision 3df3ba1b" in err


@real
def test_real_questions_have_ids_of_their_own(llava: Path) -> None:
    """GQA and TextVQA need labels that are not here, so the join's keys are looked at alone."""
    from vlm_bench.benchmarks.mme.benchmark import _key as mme
    from vlm_bench.benchmarks.textvqa.files import question_key as textvqa
    from vlm_bench.files.questions import read_questions

    rows = read_questions(benchmarks.TextVQAConfig(data=llava).file("questions"), distinct=False)
    assert len({textvqa(q.id, q.question) for q in rows}) == len(rows) == 5000
    rows = read_questions(benchmarks.MMEConfig(data=llava).file("questions"), distinct=False)
    assert len({mme(q) for q in rows}) == len(rows) == 2374
    assert len(read_questions(benchmarks.GQAConfig(data=llava).file("questions"))) == 12578
    assert len(benchmarks.MMVetConfig(data=llava).build().questions) == 218


def test_a_figure_that_differs_says_so() -> None:
    assert Check("pope", 85.9, 85.95).agrees
    assert "DIFFERS" in line(Check("pope", 85.9, 86.2))
    assert "not checked: a.json does not exist" in line(Check("pope", 85.9, absent=Path("a.json")))


def test_a_folder_without_answers(tmp_path: Path, capsys: Out) -> None:
    err = refused(capsys, "verify-llava", everything(tmp_path))
    assert "no benchmark has all of its files here" in err
    assert "pope/answers/llava-v1.5-13b.jsonl" in err
