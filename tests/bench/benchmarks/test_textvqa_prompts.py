"""The forms of prompt that LLaVA's scripts ask TextVQA with: in question files and in logged answers."""

from pathlib import Path

import pytest
from bench_files import SUFFIX, write_jsonl
from commands import Out, answers, refused, scored

from vlm_bench import benchmarks
from vlm_bench.benchmarks.textvqa.prompts import Prompt, read_prompt, without_tokens

TOKENS = "Reference OCR token: DAKOTA, DIGITAL"
FORMS = {
    "after": lambda text: f"{text}\n{TOKENS}{SUFFIX}",
    "before": lambda text: f"{TOKENS}\n{text}{SUFFIX}",
    "oldest": lambda text: f"OCR tokens: DAKOTA, DIGITAL. Question: {text} Short answer:",
    "bare": lambda text: text + SUFFIX,
}
ASKED = {"What brand?": "dakota", "What color?": "red"}


def logged(folder: Path, form: str) -> Path:
    rows = [{"question_id": "0a1b", "prompt": FORMS[form](q), "text": text} for q, text in ASKED.items()]
    return answers(folder, rows)


def questions(folder: Path, form: str) -> Path:
    row = {"question_id": "0a1b", "image": "0a1b.jpg", "category": "default"}
    return write_jsonl(folder / "q.jsonl", [row | {"text": FORMS[form](q)} for q in ASKED])


@pytest.mark.parametrize("said", FORMS)
@pytest.mark.parametrize("asked", ["after", "before", "oldest"])
def test_forms_are_joined_by_their_question(
    asked: str, said: str, data: Path, tmp_path: Path, capsys: Out
) -> None:
    flags = ["--questions", questions(tmp_path, asked), "--answers", logged(tmp_path, said)]
    report = scored(capsys, "score", "textvqa", "--data", data, *flags)
    assert report["score"] == pytest.approx(0.8)
    variant = "without OCR tokens" if said == "bare" else "with OCR tokens"
    assert report["protocol"] == f"llava-1.5/textvqa-val m4c, {variant}"


def test_the_variant_is_never_guessed(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = ["score", "textvqa", "--data", data]
    err = refused(capsys, *flags, "--ocr", "yes", "--answers", logged(tmp_path, "bare"))
    assert "2 answers logged with another prompt" in err
    assert "where 'What brand?\\nReference OCR token: DAKOTA, DIGITAL\\nAnswer" in err
    assert "another prompt" in refused(capsys, *flags, "--ocr", "no", "--answers", logged(tmp_path, "after"))
    bare = ["--questions", questions(tmp_path, "bare")]
    assert "another prompt" in refused(capsys, *flags, *bare, "--answers", logged(tmp_path, "after"))
    rows = [
        {"question_id": "0a1b", "prompt": FORMS[form](q), "text": "x"}
        for q, form in zip(ASKED, ("after", "bare"), strict=True)
    ]
    assert "1 answer logged with another prompt" in refused(
        capsys, *flags, "--answers", answers(tmp_path, rows)
    )


def test_llavas_answers_need_the_labels_only(data: Path, tmp_path: Path, capsys: Out) -> None:
    (data / "textvqa/llava_textvqa_val_v051_ocr.jsonl").unlink()
    flags = ["--data", data, "--source", "official", "--ocr", "no"]
    report = scored(capsys, "score", "textvqa", *flags, "--answers", logged(tmp_path, "bare"))
    assert report["score"] == pytest.approx(0.8)


def test_a_prompt_of_no_form(data: Path, tmp_path: Path, capsys: Out) -> None:
    path = questions(tmp_path, "bare")
    path.write_text(path.read_text().replace("What color?", "What\\ncolor\\nis it?"))
    flags = ["--data", data, "--questions", path, "--answers", logged(tmp_path, "bare")]
    assert "q.jsonl:2: 'text' is 'What\\ncolor" in refused(capsys, "score", "textvqa", *flags)
    path = questions(tmp_path, "bare")
    path.write_text(path.read_text() * 2)
    assert "2 questions appear twice, first 0a1b/what brand?" in refused(capsys, "score", "textvqa", *flags)


def test_reading() -> None:
    for form, make in FORMS.items():
        assert read_prompt(make("Is it?")) == Prompt("Is it?", tokens=form != "bare")
        assert read_prompt(without_tokens(make("Is it?"))) == Prompt("Is it?", tokens=False)
    assert read_prompt("Is it?") is None
    assert read_prompt(f"{TOKENS}\n{TOKENS}\nIs it?{SUFFIX}") is None
    assert benchmarks.TextVQAConfig().ocr == "yes"
