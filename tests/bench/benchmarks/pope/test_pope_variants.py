"""POPE on A-OKVQA's and GQA's images: the protocol of `pope` on other label files."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Out, answers, refused, scored
from layout import edit
from more_layouts import pope_variants
from tiny_suite import TinySuite

from vlm_bench import benchmarks
from vlm_bench.benchmarks.pope.files import A_OKVQA, COCO, GQA, digest_of

SHORT = "\nAnswer the question using a single word or phrase."
SPLITS = ("random", "popular", "adversarial")


class TestAOKVQA(TinySuite):
    config = benchmarks.PopeAOKVQAConfig


class TestGQA(TinySuite):
    config = benchmarks.PopeGQAConfig


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pope_variants(tmp_path / "eval")
    return tmp_path / "eval"


def _answers(image: str) -> dict[str, str]:
    """Yes to each question but the adversarial one about a cat."""
    keys = [f"{split}/{image}/Is there a {word} in the image?" for split in SPLITS for word in ("dog", "cat")]
    return dict.fromkeys(keys, "Yes") | {keys[-1]: "No."}


def test_gqa(data: Path, tmp_path: Path, capsys: Out) -> None:
    said = answers(tmp_path, _answers("1.jpg"))
    report = scored(capsys, "score", "pope-gqa", "--data", data, "--answers", said)
    assert report["score"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert report["rows"]["adversarial"] == {
        "n": 2,
        "accuracy": 1,
        "precision": 1,
        "recall": 1,
        "F1": 1,
        "yes ratio": 0.5,
    }
    assert report["rows"]["mean"]["accuracy"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert report["protocol"] == "pope-gqa@unknown mean-F1"
    assert any("published figures use 9b541065" in text for text in report["warnings"])
    question = next(iter(benchmarks.PopeGQAConfig(data=data).build().questions.values()))
    assert question.prompt == f"Is there a dog in the image?{SHORT}"
    assert str(question.image).endswith("gqa/data/images/1.jpg")


def test_a_question_that_the_file_has_twice_counts_twice(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = ["score", "pope-aokvqa", "--data", data, "--answers"]
    report = scored(capsys, *flags, answers(tmp_path, _answers("a.jpg")))
    assert report["expected"] == 6
    assert report["rows"]["adversarial"]["n"] == 3
    assert report["rows"]["adversarial"]["yes ratio"] == pytest.approx(1 / 3)
    assert "adversarial: 'Is there a cat in the image?' on a.jpg counts 2 times" in report["warnings"]
    wrong = _answers("a.jpg") | {"adversarial/a.jpg/Is there a cat in the image?": "Yes"}
    report = scored(capsys, *flags, answers(tmp_path, wrong))
    assert report["rows"]["adversarial"]["precision"] == pytest.approx(1 / 3)


CHANGES: list[tuple[Any, str]] = [
    (
        lambda rows: [*rows, rows[0] | {"label": "no"}],
        "number 3: a second label for 'Is there a dog in the image?'",
    ),
    (lambda rows: [rows[0] | {"label": "Yes"}], "number 1: the label is 'Yes', expected 'yes' or 'no'"),
    (lambda rows: [{k: v for k, v in rows[0].items() if k != "image"}], "'image' is missing"),
    (lambda rows: [], "expected a JSON list that is not empty"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_faulty_labels(change: Any, message: str, data: Path, tmp_path: Path, capsys: Out) -> None:
    edit(data / "pope/gqa/gqa_pope_seem_popular.json", change)
    err = refused(capsys, "score", "pope-gqa", "--data", data, "--answers", answers(tmp_path, {"x": "Yes"}))
    assert message in err
    assert "gqa_pope_seem_popular.json" in err


def test_labels_of_another_variant(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = ["--data", data, "--labels", data / "pope/aokvqa", "--answers", answers(tmp_path, {"x": "Yes"})]
    err = refused(capsys, "score", "pope-gqa", *flags)
    assert "expected gqa_pope_seem_random.json or gqa_pope_seem_random.json.gz; neither exists" in err


def test_label_files_may_be_json_lines(data: Path) -> None:
    before = benchmarks.PopeGQAConfig(data=data).build()
    for path in (data / "pope/gqa").iterdir():
        path.write_text("\n".join(map(json.dumps, json.loads(path.read_text()))))
    again = benchmarks.PopeGQAConfig(data=data).build()
    assert (again.protocol, dict(again.questions)) == (before.protocol, dict(before.questions))


def test_a_revision_is_known_by_its_labels_alone() -> None:
    """Three variants, four digests, none of which is that of no labels."""
    digests = [digest for variant in (COCO, A_OKVQA, GQA) for digest in variant.revisions]
    assert len(set(digests)) == len(digests) == 4
    assert digest_of({split: {} for split in SPLITS}) not in digests
