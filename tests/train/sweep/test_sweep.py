"""Sweeps of the tiny run: real processes, a row that fails, folders that hold something else, the table."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from exam_files import evals

from vlm_core.errors import UserError
from vlm_train.checkpoint.run_dir import RunDir
from vlm_train.cli import main
from vlm_train.run import start
from vlm_train.sweep import table
from vlm_train.sweep.grid import Grid, load
from vlm_train.sweep.jobs import Job, jobs, sizes
from vlm_train.sweep.rows import Row

ROWS = """\
rows:
  mlp: {connector: {type: mlp}}
  too long: {train.max_length: 2, train.on_too_long: error}
"""


@pytest.fixture
def sweep_file(run_spec, tmp_path):
    """A sweep over the tiny run, cut to one short stage."""
    base = run_spec()
    spec = yaml.safe_load(base.read_text())
    del spec["train"]["stages"][0]
    spec["train"]["stages"][0]["steps"] = 2
    base.write_text(yaml.safe_dump(spec))

    def write(text=ROWS, seeds="[0]"):
        path = tmp_path / "sweep.yaml"
        path.write_text(f"base: spec.yaml\noutput: {tmp_path / 'out'}\nseeds: {seeds}\n{text}")
        return path

    return write


def sweep(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["vlm-train", "sweep", *map(str, args)])
    return main.main()


@pytest.mark.slow
def test_a_failing_row_is_told_and_a_finished_one_left_alone(sweep_file, tmp_path, monkeypatch, capfd):
    """One row was run before, here; the other is a process of its own, as all are in the slow test below."""
    path = sweep_file()
    grid = load(path)
    start(*grid.spec(grid.rows[0], 0))
    capfd.readouterr()
    assert sweep(monkeypatch, path) == 1
    out, err = capfd.readouterr()
    assert "[1/1] failed: too long, seed 0" in out
    assert "1 of 2 runs failed" in err
    assert re.search(r"too long, seed 0: exit code 2; .*/too-long/seed-0.log: .*max_length", err)
    folder = tmp_path / "out"
    assert RunDir(folder / "mlp" / "seed-0").finished()
    assert "mean ± sample standard deviation" in out
    told = json.loads((folder / "table.json").read_text())
    assert [(row["name"], row["n"]) for row in told["rows"]] == [("mlp", 1), ("too long", 0)]
    assert len(told["failed"]) == 1
    lines = (folder / "table.md").read_text().splitlines()
    assert lines[0] == "|  | connector | n | all | picture | text | images shuffled | majority answer |"
    assert re.match(r"\| mlp \| 544 \| 1 \| [\d.]+ \| ", lines[2])
    assert lines[3] == "| too long | 2,784 | 0 | – | – | – | – | – |"
    assert (folder / "table.png").stat().st_size > 1000
    assert [job.state for job in jobs(load(path))] == ["finished", "begun"]
    changed = sweep_file(ROWS.replace("type: mlp", "type: mlp, depth: 3"))
    with pytest.raises(
        UserError,
        match=r"mlp/seed-0: holds a different run; its spec differs in connector\.depth: 2 before, 3 now",
    ):
        jobs(load(changed))


def test_runs_of_other_rows_are_not_reported(sweep_file, tmp_path):
    """Other held-out rows: the run is asked again. Other training data: it is another run."""
    path = sweep_file("rows: {mlp: {connector: {type: mlp}}}\n")
    data = tmp_path / "data.json"
    shutil.copy(data, tmp_path / "test.json")
    spec = yaml.safe_load((tmp_path / "spec.yaml").read_text())
    spec["train"]["held_out_qa"]["data"] = [{"type": "llava", "path": str(tmp_path / "test.json")}]
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    grid = load(path)
    start(*grid.spec(grid.rows[0], 0))
    assert [(job.state, job.done) for job in jobs(grid)] == [("finished", True)]
    (tmp_path / "test.json").write_text(data.read_text().replace("blue", "teal"))
    assert [(job.state, job.done) for job in jobs(grid)] == [("begun", False)]
    assert table.lines(jobs(grid), {"mlp": {}})[0].seeds == []
    start(*grid.spec(grid.rows[0], 0))
    assert [job.state for job in jobs(grid)] == ["finished"]
    data.write_text(data.read_text().replace("blue", "teal"))
    with pytest.raises(
        UserError, match=r"mlp/seed-0: holds a different run; its inputs differ in train\.stages"
    ):
        jobs(grid)


def test_a_dry_run_lists_and_writes_nothing(sweep_file, tmp_path, monkeypatch, capsys):
    assert sweep(monkeypatch, sweep_file(seeds="[0, 4]"), "--dry-run") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "4 runs of" in out
    assert re.search(r"mlp [\d,]+ 544 [\d,]+ [\d,]+ 0 new, 4 new", out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: spec["train"].pop("held_out_qa"), "no train.held_out_qa; a sweep needs one"),
        (lambda spec: spec.pop("train"), "has no train"),
    ],
    ids=["held_out_qa", "train"],
)
def test_a_base_that_measures_nothing(sweep_file, tmp_path, change, said):
    path = sweep_file("rows: {a: {}}\n")
    spec = yaml.safe_load((tmp_path / "spec.yaml").read_text())
    change(spec)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(UserError, match=said):
        jobs(load(path))


def test_parts_that_do_not_fit_are_named_with_their_row(sweep_file):
    path = sweep_file("rows: {fine: {}, shuffle: {connector: {type: pixel-shuffle, factor: 3}}}\n")
    with pytest.raises(UserError, match=r"sweep\.yaml: shuffle: .*factor"):
        sizes(load(path))


def job(folder, name, seed, accuracy=None, shuffled=25.0, exams=None, overlap=None):
    """A finished run with this accuracy over all questions, and these figures of benchmarks."""
    run = RunDir(folder / name / f"seed-{seed}")
    run.path.mkdir(parents=True)
    found = {"after b": accuracy, "images shuffled": shuffled, "majority answer": 20.0} if accuracy else {}
    for evaluation, value in found.items():
        record = {"questions": 4, "accuracy": {"all": value, "x": value / 2}, "overlap": overlap}
        run.keep_evaluation(evaluation, record)
    for stage, figures in ((0, {"pope": exam(0.0)}), (1, exams)) if exams else ():
        run.log(
            {"stage": stage, "name": "ab"[stage], "step": 5, "weights": "own", "benchmarks": figures},
            name="evals.jsonl",
        )
    run.write("results.md", "")
    return Job(Row(name, ()), seed, run, (), folder / "log", "b")


def exam(score, scored=36, unit="fraction", metric="F1", protocol="pope mean-F1"):
    return {
        "protocol": protocol,
        "metric": metric,
        "score": score,
        "unit": unit,
        "partial": scored < 36,
        "scored": scored,
        "asked": scored,
        "expected": 36,
    }


def test_mean_and_sample_standard_deviation(tmp_path):
    """Of 50, 60 and 70: 60 ± 10, where the population's deviation would be 8.2."""
    done = [job(tmp_path, "a", seed, value) for seed, value in ((0, 50.0), (1, 60.0), (2, 70.0))]
    found = table.lines([*done, job(tmp_path, "b", 0, 33.0)], {n: {"connector": 1234} for n in "ab"})
    assert table.texts(found) == [
        ["", "connector", "n", "all", "x", "images shuffled", "majority answer"],
        ["a", "1,234", "3", "60.0 ± 10.0", "30.0 ± 5.0", "25.0 ± 0.0", "20.0 ± 0.0"],
        ["b", "1,234", "1", "33.0", "16.5", "25.0", "20.0"],
    ]
    record = table.record(Grid("f", tmp_path, tmp_path, [0, 1, 2], []), found, [])
    assert record["rows"][0]["columns"]["all"] == {
        "mean": 60.0,
        "spread": 10.0,
        "values": {0: 50.0, 1: 60.0, 2: 70.0},
    }


def test_benchmarks_are_columns_in_their_units_with_what_is_partial_or_missing(tmp_path):
    """A: both benchmarks with two seeds, one of them without MME. B: POPE partly, and another protocol of it."""
    mme = {"unit": "points", "metric": "perception", "protocol": "mme"}
    done = [
        job(tmp_path, "a", 0, exams={"pope": exam(0.5), "mme": exam(1200.0, **mme)}),
        job(tmp_path, "a", 1, exams={"pope": exam(0.7)}),
        job(tmp_path, "b", 0, exams={"pope": exam(0.25, scored=12)}),
        job(tmp_path, "b", 1, exams={"pope": exam(0.25, scored=11)}),
        job(tmp_path, "c", 0, exams={"pope": exam(0.9, protocol="pope, other")}),
    ]
    found = table.lines(done, {n: {"connector": 1} for n in "abc"})
    assert table.texts(found) == [
        ["", "connector", "n", "mme: perception", "pope: F1, % (pope mean-F1)", "pope: F1, % (pope, other)"],
        ["a", "1", "2", "1200.0 (1 of 2 runs)", "60.0 ± 14.1", "–"],
        ["b", "1", "2", "–", "25.0 ± 0.0 (partial, 11–12 of 36)", "–"],
        ["c", "1", "1", "–", "–", "90.0"],
    ]
    told = table.notes(found)
    assert "a: not measured: pope: F1, % (pope, other)" in told
    assert "c: not measured: mme: perception, pope: F1, % (pope mean-F1)" in told
    text = table.markdown(found)
    assert "- Benchmarks. " in text
    assert not re.search("held.out|images shuffled", text, re.IGNORECASE)
    grid = Grid("f", tmp_path, tmp_path, [0, 1], [])
    record = table.record(grid, found, [])
    assert record["columns"]["mme: perception"]["unit"] == "points"
    assert record["rows"][1]["columns"]["pope: F1, % (pope mean-F1)"]["questions"][1] == {
        "scored": 11,
        "expected": 36,
        "partial": True,
    }
    assert (tmp_path / "table.png") in table.write(grid, found, [])


def test_accuracies_and_benchmarks_stand_side_by_side(tmp_path):
    """Held-out only where all runs are."""
    apart, same = ({"rows": 4, "trained_on": n, "stages": {"b": n}} for n in (0, 3))
    done = [
        job(tmp_path, "a", 0, 50.0, exams={"pope": exam(0.5)}, overlap=apart),
        job(tmp_path, "b", 0, 60.0, exams={"pope": exam(0.7)}, overlap=same),
    ]
    parameters = {n: {"connector": 1} for n in "ab"}
    found = table.lines(done[:1], parameters)
    assert table.metric(found) == "held-out accuracy, %; benchmarks"
    assert table.texts(found)[1][3:] == ["50.0", "25.0", "25.0", "20.0", "50.0"]
    found = table.lines(done[1:], parameters)
    assert table.metric(found) == "accuracy, % (3 of 4 rows are trained on); benchmarks"
    found = table.lines(done, parameters)
    assert table.metric(found) == "accuracy, %; benchmarks"
    assert "b: 3 of 4 rows are also in stage b's data" in table.notes(found)
    assert "held-out" not in table.markdown(found)


def test_any_number_of_variants_with_names_of_any_script_are_drawn(tmp_path):
    names = [f"_行{i} {'x' * 70}" for i in range(20)]
    done = [job(tmp_path, name, 0, 50.0, exams={"$m_e$": exam(5.0, unit="points")}) for name in names]
    found = table.lines(done, {name: {"connector": 1} for name in names})
    table.write(Grid("f", tmp_path, tmp_path, [0], []), found, [])


def test_a_run_with_benchmarks_alone_is_finished_and_has_a_table(sweep_file, tmp_path):
    path = sweep_file("rows: {a: {}}\n")
    spec = yaml.safe_load((tmp_path / "spec.yaml").read_text())
    del spec["train"]["held_out_qa"]
    spec["train"]["benchmarks"] = evals(tmp_path, tmp_path / "eval")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    grid = load(path)
    folder, _ = start(*grid.spec(grid.rows[0], 0))
    assert "(partial, 12 of 36)" in (folder.path / "results.md").read_text()
    (done,) = jobs(grid)
    assert done.state == "finished"
    (line,) = table.lines([done], {"a": {"connector": 1}})
    assert [column.name for column in table.columns([line])] == ["pope", "textvqa"]


def test_a_run_that_ended_early_counts_for_nothing(tmp_path):
    done = job(tmp_path, "a", 0, 50.0)
    (done.folder.path / "results.md").unlink()
    (line,) = table.lines([done], {"a": {"connector": 1}})
    assert table.texts([line])[1] == ["a", "1", "0"]


@pytest.mark.slow
def test_killed_and_gone_on_with(sweep_file, tmp_path):
    """SIGKILL while the second run trains; the same command ends the sweep, and the first run is left alone."""
    text = "rows: {a: {}, b: {train.stages.0.steps: 300}}\n"
    command = [
        sys.executable,
        "-c",
        "from vlm_train.cli.main import main; main()",
        "sweep",
        str(sweep_file(text)),
    ]
    first = subprocess.Popen(command)
    metrics = tmp_path / "out" / "b" / "seed-0" / "metrics.jsonl"
    end = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 20):
        assert time.monotonic() < end
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    left = (tmp_path / "out" / "a" / "seed-0" / "results.md").stat().st_mtime_ns
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "[1/1] b, seed 0" in second.stdout
    assert "0 begun" in second.stdout
    assert "resuming instruct at step" in (tmp_path / "out" / "b" / "seed-0.log").read_text()
    assert (tmp_path / "out" / "a" / "seed-0" / "results.md").stat().st_mtime_ns == left
    told = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["n"] for row in told["rows"]] == [1, 1]
