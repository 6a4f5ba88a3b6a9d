"""Run folders and data of strangers: whatever text they hold, pages, tables and terminals show it as text."""

import json
import os

import pytest
import yaml
from hostile import FRAGMENTS, HOSTILE, IN_NAMES, TEXTS, elements, is_inert, tags
from hypothesis import HealthCheck, given, settings
from resume_helpers import call

from vlm_core.errors import UserError
from vlm_core.markup.html import own_html
from vlm_train.checkpoint.run_dir import RunDir
from vlm_train.cli import preview
from vlm_train.cli.preview import SamplePreview, Span
from vlm_train.data.dataset import DroppedSample
from vlm_train.report import html, plots, results

PLACE = {"stage": 0, "step": 1}


def folder_of(path, text):
    """A run folder whose every text is `text`, and every key that is not one of the format's own."""
    run = RunDir(path)
    path.mkdir(exist_ok=True)
    benchmark = {
        "metric": text,
        "score": 0.5,
        "unit": "fraction",
        "partial": True,
        "scored": 1,
        "expected": 2,
    }
    sample = {"asked": text, "said": text, "truth": text, "images": [text], "thumbnail": text}
    place = {**PLACE, "name": text}
    step, exam = (
        {**place, "loss": 2.0, "skipped": 0, "lr": {text: 1.0}},
        {"weights": text, "benchmarks": {text: benchmark}},
    )
    records = {
        "metrics.jsonl": [step, {**step, "step": 2}],
        "validation.jsonl": [{**place, "loss": 1.0, "samples": [sample]}],
        "evals.jsonl": [{**place, **exam}, {**place, **exam, "step": 2}],
        "left_out.jsonl": [{**place, "row": 0, "reason": text, "message": text}],
    }
    for name, lines in records.items():
        run.write(name, "".join(json.dumps(line) + "\n" for line in lines))
    run.write("environment.json", json.dumps({text: text}))
    run.write("results.md", "")
    writable = "".join(c for c in text if c != "\0" and not 0xD800 <= ord(c) < 0xE000)  # others are no YAML
    stages = [{"name": "a", "trainable": [writable]}]
    run.write("spec.yaml", yaml.safe_dump({"name": writable, "train": {"stages": stages}}))
    overlap = {"rows": 2, "trained_on": 1, "stages": {text: 1}}
    training = {"counted": 1, "unreadable": 1, "stage": text}
    evaluation = {
        "questions": 1,
        "accuracy": {"all": 1.0, text: 1.0},
        "overlap": overlap,
        "left_out": {text: 1},
    }
    run.write("evaluations/after a.json", json.dumps({**evaluation, "training_rows": training}))
    return run


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_any_text_is_text_in_the_page_about_a_run(tmp_path, text):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plots, "curve", lambda *args, **kwargs: own_html("<svg></svg>"))
        plain, foreign = (html.page(folder_of(tmp_path / name, t)) for name, t in (("a", "t"), ("b", text)))
    assert tags(foreign) == tags(plain)
    assert not set(foreign) & set("\0\x1b\u202e\u2028")


def test_any_text_is_text_in_curves():
    text = "".join(FRAGMENTS)
    plain, foreign = (
        plots.curve(t, t, {t: [(1, 1.0), (2, 2.0)], f"{t}2": [(1, 1.0)]}, {t: 1}) for t in ("t", text)
    )
    shared = ("use", "g", "defs", "path")  # as many as glyphs and ticks
    usual, drawn = ({tag for tag in elements(svg).found if tag[0] not in shared} for svg in (plain, foreign))
    assert drawn == usual
    assert "<!--" not in foreign


@settings(max_examples=40, deadline=None)
@given(text=TEXTS)
def test_any_text_is_text_in_a_preview(text):
    def page(t):
        left = DroppedSample(0, t, t, t)
        found = [SamplePreview(t, 0, t, left, [Span([1], t, "read")])]
        return preview.page(t, found)

    assert tags(page(text)) == tags(page("t"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_any_text_is_text_in_the_table_of_results(tmp_path, text):
    run = folder_of(tmp_path / "run", text)
    written = results.as_markdown(results.of(run, ["a"]), run.records("evals.jsonl"))
    plain = folder_of(tmp_path / "run", "t")
    usual = results.as_markdown(results.of(plain, ["a"]), plain.records("evals.jsonl"))
    assert len(written.splitlines()) == len(usual.splitlines())
    assert "<script" not in written.replace(r"\<script", "")
    assert "://" not in written.replace(r"\://", "")


WRONG = [
    ("metrics.jsonl", {"step": "<script>"}),
    ("metrics.jsonl", {"loss": "1"}),
    ("metrics.jsonl", {"skipped": None}),
    ("metrics.jsonl", {"lr": {"llm": "x"}}),
    ("metrics.jsonl", {"step": 10**30}),
    ("metrics.jsonl", {"name": 1}),
    ("metrics.jsonl", {"tokens_per_second": float("nan")}),
    ("metrics.jsonl", {"peak_memory": -1}),
    ("validation.jsonl", {"samples": {}}),
    ("validation.jsonl", {"samples": [{"asked": "x"}]}),
    ("evals.jsonl", {"benchmarks": []}),
    ("evals.jsonl", {"benchmarks": {"a": {"score": 1}}}),
    ("left_out.jsonl", {"reason": ["x"]}),
]


@pytest.mark.parametrize(("name", "change"), WRONG)
def test_records_of_a_wrong_type_are_left_out_and_told(tmp_path, caplog, name, change):
    run = folder_of(tmp_path, "t")
    first = run.records(name)[0]
    run.write(name, json.dumps(first) + "\n" + json.dumps(first | change) + "\n")
    html.page(run)
    assert run.records(name) == [first]
    assert f"{name}: 1 lines can't be read and are left out, the first is line 2" in caplog.text


@pytest.mark.parametrize(
    "line", ["[1]", "{", "[" * 10**6, '{"step": ' + "9" * 5000 + "}", '{"a": 1, "a": 2}', "x}"]
)
def test_lines_that_are_no_records(tmp_path, caplog, line):
    run = folder_of(tmp_path, "t")
    good = json.dumps(run.records("metrics.jsonl")[0])
    run.write("metrics.jsonl", f"{good}\n{line}\n{good}\n")
    html.page(run)
    assert "metrics.jsonl: 1 lines can't be read and are left out, the first is line 2" in caplog.text


def test_half_a_line_at_the_end_is_no_record(tmp_path):
    run = folder_of(tmp_path, "t")
    good = json.dumps(run.records("metrics.jsonl")[0])
    run.write("metrics.jsonl", f"{good}\n{good[:20]}")
    assert len(run.metrics()) == 1


@pytest.mark.parametrize(
    "text",
    ["[]", "train: {stages: []}", "train: {stages: [{name: a, trainable: x}]}", "train: 1", "a: &a [*a, *a]"],
)
def test_specs_that_are_none(tmp_path, text):
    run = folder_of(tmp_path, "t")
    run.write("spec.yaml", text)
    with pytest.raises(UserError, match=r"spec\.yaml"):
        html.page(run)


@pytest.mark.parametrize("name", ["spec.yaml", "samples.png", "metrics.jsonl", "evaluations/after a.json"])
def test_no_file_outside_of_the_folder_is_shown(tmp_path, name):
    run = folder_of(tmp_path / "run", "t")
    (tmp_path / "secret").write_text("secret")
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="a symbolic link out of the run folder"):
        html.page(run)
    (run.path / name).unlink()
    os.mkfifo(run.path / name)
    if name.startswith("evaluations/"):
        assert run.evaluation("after a") is None, "with a warning: it is asked again"
        return
    with pytest.raises(UserError, match="a FIFO, expected a regular file"):
        html.page(run)


def test_what_is_no_image_is_not_embedded(tmp_path):
    run = folder_of(tmp_path, "t")
    run.write("samples.png", "<script>")
    with pytest.raises(UserError, match=r"samples\.png: not an image"):
        html.page(run)


def test_hostile_rows_on_the_terminal(run_spec, monkeypatch, capsys, tmp_path):
    path = run_spec(on_bad_sample="skip", bad_sample_budget=18)
    data = tmp_path / "data.json"
    rows = json.loads(data.read_text())
    rows[0]["image"] = HOSTILE.replace("\0", "")
    rows[1]["conversations"][0]["from"] = HOSTILE
    rows[3]["conversations"][0]["value"] = 7
    rows[4][HOSTILE] = {HOSTILE: HOSTILE}
    rows[6]["conversations"][1]["value"] = HOSTILE
    rows[7]["category"] = HOSTILE
    for row in rows:
        row["id"] = f"{HOSTILE}{row['id']}"
    data.write_text(json.dumps(rows))
    for command in (
        ["check", path],
        ["preview", path, "--html", tmp_path / "p.html"],
        ["check", HOSTILE.replace("\0", "")],
    ):
        _, said = call(monkeypatch, capsys, *command)
        assert is_inert(said.out)
        assert is_inert(said.err)
    tags((tmp_path / "p.html").read_text())


def test_a_run_on_hostile_rows(run_spec, monkeypatch, capfd, tmp_path):
    """Ids, answers and categories go through training, evaluation, results, logs and the page."""
    good = [{"type": "llava", "path": str(tmp_path / "good.json")}]
    asked = {"data": good, "batch_size": 7, "max_new_tokens": 3, "samples": 4}
    measured = {"held_out_qa": asked, "validation": {"data": good, "every": 6, "rows": 3}}
    path = run_spec(on_bad_sample="skip", bad_sample_budget=18, **measured)
    data = tmp_path / "data.json"
    rows = json.loads(data.read_text())
    for number, row in enumerate(rows):
        row |= {"id": f"{IN_NAMES}{number}", "category": f"{IN_NAMES}{number % 2}"}
        row["conversations"][-1]["value"] = f"{IN_NAMES}"
    (tmp_path / "good.json").write_text(json.dumps(rows))
    rows[4] = {**rows[4], "image": f"{IN_NAMES}.png"}
    data.write_text(json.dumps(rows))
    monkeypatch.setenv("COLUMNS", "2000")
    code, said = call(monkeypatch, capfd, "run", path)
    assert code == 0, said.err
    assert is_inert(said.out)
    assert is_inert(said.err)
    run = RunDir(tmp_path / "run")
    assert is_inert((run.path / "results.md").read_text())
    tags(html.page(run))
