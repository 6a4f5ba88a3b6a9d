"""`vlm-train check` says what training will do; `preview` shows what the model gets."""

import json
import re

import pytest
from resume_helpers import call, run_folder

from vlm_core.text.render import IMAGE, Message, render
from vlm_core.text.template import TEMPLATES
from vlm_train.cli.preview import spans


def spoil(path):
    """Row 1 misses its picture, rows 0, 6 and 12 have a damaged one."""
    (path.parent / "red.png").write_text("not an image")
    data = path.parent / "data.json"
    rows = json.loads(data.read_text())
    rows[1]["image"] = "none.png"
    data.write_text(json.dumps(rows))


def test_check_lists_what_training_leaves_out(run_spec, monkeypatch, capsys, tmp_path):
    path = run_spec(held_out_qa=None, max_length=28)
    spoil(path)
    skip = ["--set", "train.on_bad_sample=skip", "--set", "train.bad_sample_budget=4"]
    report = tmp_path / "bad.jsonl"
    code, said = call(monkeypatch, capsys, "check", path, *skip, "--report", report)
    assert code == 0, said
    assert re.search(r"align: 18 of 18 rows checked, \d+ usable", said.out)
    assert "not-an-image 3, missing 1" in said.out
    assert not (tmp_path / "run").exists()
    listed = [json.loads(line) for line in report.read_text().splitlines()]
    folder = run_folder(path, *skip[1::2])
    trained = folder.records("left_out.jsonl")
    key = ("stage_name", "row", "name", "reason", "message")
    assert sorted(tuple(r[k] for k in key) for r in listed) == sorted(
        tuple(r[k] for k in key) for r in trained
    )
    assert {"too-long", "missing", "not-an-image"} == {r["reason"] for r in listed}


@pytest.mark.parametrize(
    "change", [[], ["train.on_bad_sample=skip"], ["train.on_bad_sample=skip", "train.bad_sample_budget=3"]]
)
def test_check_fails_where_training_would_stop(run_spec, monkeypatch, capsys, change):
    path = run_spec(held_out_qa=None)
    spoil(path)
    code, said = call(monkeypatch, capsys, "check", path, *(a for c in change for a in ("--set", c)))
    assert code == 1
    assert "training would stop in: align, instruct" in said.out
    assert "row 1: image is missing" in said.out


def test_check_of_some_rows_with_workers(run_spec, monkeypatch, capsys):
    code, said = call(monkeypatch, capsys, "check", run_spec(), "--rows", 6, "--num-workers", 1)
    assert code == 0
    assert said.out.count("6 of 18 rows checked, 6 usable") == 3


@pytest.mark.parametrize("text", ["a red\ncircle", "naïve 日本 👩‍🚀", "<image> <|endoftext|>"])
def test_spans_are_the_sample_and_nothing_else(tiny_model, text):
    """Every position once, in order, with its flags; a character of several tokens is whole."""
    tokenizer = tiny_model.llm.tokenizer
    turns = [Message("user", (IMAGE, text)), Message("assistant", (text,))]
    sample = render(TEMPLATES["llava-v1"], turns, tokenizer, [4])
    found = spans(sample, tokenizer)
    assert [i for s in found for i in s.ids] == sample.input_ids
    assert [s.kind == "image" for s in found for _ in s.ids] == sample.image_mask
    assert [s.kind == "target" for s in found for _ in s.ids] == sample.loss_mask
    assert "".join(s.text for s in found if s.kind == "target") == f" {text}⟨end⟩"
    assert not any("\ufffd" in s.text for s in found)


def test_preview_is_one_page_that_shows_text_as_text(run_spec, monkeypatch, capsys, tmp_path):
    path = run_spec()
    spoil(path)
    data = path.parent / "data.json"
    rows = json.loads(data.read_text())
    for row in rows[2:]:
        row["conversations"][-1]["value"] = "<script>alert(1)</script>"
    data.write_text(json.dumps(rows))
    out = tmp_path / "page.html"
    code, said = call(monkeypatch, capsys, "preview", path, "--rows", 18, "--html", out)
    assert code == 0
    html = out.read_text()
    assert html.count("<section>") == 36
    assert len(re.findall('<img alt="image 1" src="data:image/png;base64,', html)) == 2 * (12 - 4)
    assert "<script" not in html
    assert not re.findall(r'(?:src|href)="(?!data:)|url\(|@import', html), "needs no other file"
    assert html.count('class="dropped"') == 2 * 4
    assert "dropped: missing" in said.out
    assert "<script>alert(1)</script>⟨end⟩" in said.out.replace("\n", "")
