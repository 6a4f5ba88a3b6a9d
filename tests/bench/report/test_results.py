"""`vlm-bench report`: one table of a folder of results, in four forms, and comparing two folders."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from commands import RUN, Out, answers, printed, refused
from layout import png, write_json
from PIL import Image

from vlm_bench.report.collect import collect
from vlm_bench.report.examples import PER_SIDE, choose
from vlm_bench.report.published.paper_table import PROTOCOLS
from vlm_bench.report.thumbnails import SIDE, embed
from vlm_core.benchmark import CreditBenchmark, EncodedImage, Question, Verdict
from vlm_core.plugins.registry import installed


def test_the_table(results: Path, capsys: Out) -> None:
    out = printed(capsys, "report", results)
    lines = [line.split("  ") for line in out.splitlines()]
    cells = {line[0].strip(): [cell.strip() for cell in line[1:] if cell.strip()] for line in lines}
    titles = ["VQA-v2", "GQA", "SQA-I", "VQA-T", "POPE", "MME", "MMB", "MM-Vet"]
    assert out.splitlines()[0].split() == titles
    assert cells["mine/model"] == ["needs submission", "66.7≠†", "0.0*≠†", "–", "–", "–", "–", "–"]
    assert cells["VL-Mamba-2.8B"] == ["76.6", "56.2", "65.4", "48.9", "84.4", "1369.6", "57.0", "32.6"]
    assert cells["LLaVA-1.5-13B"][-1] == "35.4"
    assert "* partial" in out
    assert "batch_size: 8" in out
    assert "decoding: max_new_tokens 128, temperature 0.0" in out
    assert "scored 1 of 2, missing 1" in out


def test_the_same_protocol_in_full_stands_beside_the_paper(results: Path) -> None:
    entry = collect(results).of("gqa")[0]
    assert (
        entry.text == "66.7≠†"
    )  # three questions are not the test-dev set; one of three wrong is not above chance
    protocol, expected = PROTOCOLS["gqa"]
    full = replace(entry, data={**entry.data, "protocol": protocol, "expected": expected})
    assert full.text == "66.7†"
    assert replace(full, data={**full.data, "protocol": f"{protocol} (normalized)"}).text == "66.7≠†"


def test_markdown_and_json(results: Path, tmp_path: Path, capsys: Out) -> None:
    written = tmp_path / "out" / "r.md", tmp_path / "out" / "r.json"
    printed(capsys, "report", results, "--markdown", written[0], "--json", written[1])
    text, data = written[0].read_text(), json.loads(written[1].read_text())
    assert "| **mine/model** | needs submission | 66.7≠† | 0.0*≠† | – | – | – | – | – |" in text
    assert "- model sha256: abababababababab\n" in text
    assert "- protocol: llava-1.5/gqa-testdev-balanced" in text
    found = {result["benchmark"]: result for result in data["models"][0]["results"]}
    assert found["gqa"]["score"] == pytest.approx(2 / 3)
    assert found["gqa"]["settings"]["dtype"] == "bfloat16"
    assert "score" not in found["vqa-v2"]
    assert data["published"]["VL-Mamba-2.8B"]["mm-vet"] == 32.6
    assert not {"units", "examples"} & found["gqa"].keys()


class Tags(HTMLParser):
    """Every tag must be closed; what the page loads is collected."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [str(value) for name, value in attrs if name == "src"]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_everything(results: Path, data: Path, tmp_path: Path, capsys: Out) -> None:
    page = tmp_path / "r.html"
    printed(capsys, "report", results, "--html", page)
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert len(tags.sources) == 4  # three of GQA, one of ScienceQA
    assert all(source.startswith("data:image/jpeg;base64,") for source in tags.sources)
    assert not re.search(r"https?://|<script|@import|url\(", text)
    assert "&lt;b&gt;blue&lt;/b&gt;" in text
    assert "<b>blue" not in text
    assert "needs submission" in text
    assert '<span class="badge">partial</span>' in text
    assert "<i>nothing</i>" in text  # an empty answer
    (data / "gqa/data/images/n1.jpg").unlink()
    printed(capsys, "report", results, "--html", page)
    assert page.read_text().count("images/n1.jpg does not exist") == 3


def test_several_models_and_two_variants(results: Path, data: Path, tmp_path: Path, capsys: Out) -> None:
    other = tmp_path / "other"
    other.mkdir()
    ours = {"0a1b/what color?": "red", "0a1b/what brand?": "dakota"}
    said = answers(other, ours)
    for ocr in ("yes", "no"):
        flags = ["--answers", said, "--ocr", ocr, "--save", other / f"{ocr}.json"]
        printed(capsys, "score", "textvqa", "--data", data, *flags)
    out = printed(capsys, "report", results, other)
    assert re.search(r"^mine/model +needs submission", out, re.MULTILINE)
    assert re.search(r"^other .* 80\.0≠†? / 80\.0≠†? ", out, re.MULTILINE)
    assert "with OCR tokens" in out
    assert "without OCR tokens" in out


def test_what_is_refused(results: Path, tmp_path: Path, capsys: Out) -> None:
    assert "no such folder of results" in refused(capsys, "report", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "0 JSON files, but no report" in refused(capsys, "report", tmp_path / "empty")
    write_json(results / "b.jsonl.run.json", RUN | {"model": "theirs", "model sha256": "cd" * 32})
    assert "results of 2 models (mine/model, theirs)" in refused(capsys, "report", results)
    write_json(results / "b.jsonl.run.json", ["gqa"])
    assert "with the name of the benchmark" in refused(capsys, "report", results)
    (results / "b.jsonl.run.json").unlink()
    report = json.loads((results / "gqa.json").read_text())
    write_json(results / "gqa.json", report | {"schema": 99})
    assert "a report of format 99" in refused(capsys, "report", results)
    (results / "gqa.json").write_text(json.dumps(report)[:-10])
    assert "is the file cut off?" in refused(capsys, "report", results)


def test_answers_that_changed_after_scoring(results: Path, capsys: Out) -> None:
    file = results / "gqa.jsonl"
    file.write_text(file.read_text().replace("blue", "red"))
    assert [entry.text for entry in collect(results).of("gqa")] == ["66.7≠†", "unscored"]


def test_two_folders_are_compared(results: Path, data: Path, tmp_path: Path, capsys: Out) -> None:
    other = tmp_path / "other"
    other.mkdir()
    said = answers(tmp_path, {"10": "dog", "2": "red", "31": "yes"})
    printed(capsys, "score", "gqa", "--data", data, "--answers", said, "--save", other / "g.json")
    out = printed(capsys, "diff", results, other)
    assert "llava-1.5/gqa-testdev-balanced\n  accuracy  66.67 -> 100.00" in out
    assert "in one folder only: llava-1.5/scienceqa-img" in out
    found = json.loads(printed(capsys, "diff", results, other, "--json"))
    assert found["llava-1.5/gqa-testdev-balanced"]["difference"] == pytest.approx(1 / 3)
    assert "a folder and a file" in refused(capsys, "diff", results, other / "g.json")
    printed(capsys, "score", "gqa", "--data", data, "--answers", said, "--save", other / "h.json")
    assert "g.json and h.json are both of" in refused(capsys, "diff", results, other)


@pytest.mark.parametrize(
    ("name", "options", "key", "text", "verdict"),
    [
        ("gqa", {}, "10", "Dog.", Verdict(1, "dog")),
        ("scienceqa", {}, "4", "B. y", Verdict(1, "B", "B")),
        ("scienceqa", {}, "5", "(A)", Verdict(0, "A")),
        ("textvqa", {}, "0a1b/what color?", "Red", Verdict(0.6, "blue (8), red (2)")),
        ("vqa-v2", {"split": "val"}, "1", "Yes", Verdict(1, "yes (10)", "yes")),
        ("vqa-v2", {"split": "val", "answer_format": "raw"}, "1", "Yes", Verdict(0, "yes (10)", "Yes")),
        ("vqa-v2", {}, "72", "Yes", None),
        ("pope", {}, "2", "NO", Verdict(0, "no", "yes")),
        ("pope", {"strictness": "normalized"}, "2", "NO", Verdict(1, "no", "no")),
        ("pope", {"strictness": "normalized"}, "1", "maybe", Verdict(0, "yes")),
        ("mme", {}, "OCR/0001/Is this OCR?", "It is", Verdict(0, "yes", "other")),
        ("mmbench", {}, "8", "It is a DOG", Verdict(1, "B", "B")),
        ("mm-vet", {}, "v1_0", "-1", None),
    ],
)
def test_verdicts(name: str, options: dict, key: str, text: str, verdict: Verdict | None, data: Path) -> None:
    found = installed().get("benchmark", name)(data=data, **options).build().verdict(key, text)
    assert (found and replace(found, credit=round(found.credit, 9))) == verdict


def test_a_grade_is_a_verdict(data: Path, tmp_path: Path) -> None:
    file = write_json(tmp_path / "g.json", {"v1_1": {"model": ["m", "m"], "content": [], "score": [0.5, 1]}})
    benchmark = installed().get("benchmark", "mm-vet")(data=data, grades=file).build()
    assert benchmark.verdict("v1_1", "a dog") == Verdict(0.75, "a dog<OR>a puppy")
    assert benchmark.verdict("v1_0", "a dog") is None


class Parity(CreditBenchmark):
    """Even numbers are right."""

    def credit(self, key: str, text: str) -> float:
        return float(int(key) % 2 == 0)


def test_examples_are_few_and_the_same_every_time() -> None:
    picture = EncodedImage(base64.b64encode(png()).decode())
    asked = [Question(str(n), "?", picture if n % 5 == 0 else None) for n in range(200)]
    benchmark, said = Parity("parity", asked), {str(n): "x" for n in range(200)}
    found = choose(benchmark, said)
    assert [example["credit"] for example in found] == [1] * PER_SIDE + [0] * PER_SIDE
    assert all("image_base64" in example for example in found)  # those with an image come first
    assert found == choose(benchmark, said)
    assert len(choose(benchmark, {"1": "x"})) == 1


@pytest.mark.parametrize(
    ("example", "fault"),
    [
        ({"image_base64": "!!"}, "not base64"),
        ({"image_base64": "AAAA"}, "not an image"),
        ({"image": "/nowhere/a/b.jpg"}, "a/b.jpg does not exist"),
        ({}, ""),
    ],
)
def test_images_that_cannot_be_shown(example: dict[str, Any], fault: str) -> None:
    source, why = embed({"id": "1", **example})
    assert source == ""
    assert fault in why
    assert bool(why) == bool(fault)


def test_images_are_made_small(tmp_path: Path) -> None:
    Image.effect_noise((800, 400), 80).convert("RGB").save(tmp_path / "big.png")
    source, _ = embed({"id": "1", "image": str(tmp_path / "big.png")})
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
        assert image.size == (SIDE, SIDE // 2)
    assert len(source) < 100_000


def test_what_a_run_leaves(
    tiny_folder: Path, data: Path, tmp_path: Path, capsys: Out, one_thread: None
) -> None:
    out, page = tmp_path / "out", tmp_path / "r.html"
    printed(
        capsys,
        "run",
        tiny_folder,
        "--benchmarks",
        "all",
        "--data",
        data,
        "--out",
        out,
        "--max-new-tokens",
        "2",
    )
    told = printed(capsys, "report", out, "--html", page)
    cells = told.splitlines()[1].split("  ")
    words = [cell.strip() for cell in cells if cell.strip()]
    assert words[1] == "needs submission"
    assert words[8] == "needs a judge"
    assert all(cell.removesuffix("†").endswith("≠") for cell in words[2:8])
    assert "decoding: max_new_tokens 2, temperature 0.0" in told
    assert "model sha256: " in told
    assert told.count("prefix_reuse: yes") == 8
    assert page.read_text().count("data:image/jpeg;base64,") >= 10


def test_data_that_changed_after_the_answers(results: Path, data: Path, capsys: Out) -> None:
    metadata = results / "gqa.jsonl.run.json"
    write_json(metadata, RUN | {"files": {"llava_gqa_testdev_balanced.jsonl": "00", "gone.json": "11"}})
    flags = ["score", "gqa", "--data", data, "--answers", results / "gqa.jsonl"]
    told = printed(capsys, *flags)
    assert "warning: data files have changed since the run: llava_gqa_testdev_balanced.jsonl\n" in told
