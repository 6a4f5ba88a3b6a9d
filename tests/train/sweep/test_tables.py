"""Sweeps with tables: rows of equal specs share a run, whatever their names are; files after each run."""

import json

import pytest
import yaml
from exam_files import evals

from vlm_core.diagnose.costs.gpus import find_gpu
from vlm_core.errors import UserError
from vlm_train.checkpoint.run_dir import RunDir
from vlm_train.cli.plan import plan
from vlm_train.config.section import train_section
from vlm_train.run import start
from vlm_train.sweep import table
from vlm_train.sweep.grid import load
from vlm_train.sweep.jobs import Job, jobs, sizes

TABLES = """\
set: {train.stages.0.steps: 1}
tables:
  Table A:
    as it is: {spec: spec.yaml}
    MLP: {spec: mlp.yaml}
  Table B:
    the base: {connector.scan: bsm}
    the other file: {spec: same.yaml}
    CSM: {connector.scan: csm}
"""


@pytest.fixture
def sweep_file(run_spec, tmp_path):
    """A sweep over the tiny run, one that measures benchmarks alone; `write(text)` -> its path."""
    base = run_spec()
    spec = yaml.safe_load(base.read_text())
    spec["connector"]["scan"] = "bsm"
    spec["train"]["stages"] = spec["train"]["stages"][1:]
    del spec["train"]["held_out_qa"]
    spec["train"]["benchmarks"] = evals(tmp_path, tmp_path / "eval")
    base.write_text(yaml.safe_dump(spec))
    (tmp_path / "mlp.yaml").write_text("base: spec.yaml\nname: mlp\nconnector: {type: mlp}\n")
    (tmp_path / "same.yaml").write_text("base: mlp.yaml\nname: same\nconnector: {type: vss-l2, d_state: 4}\n")

    def write(text=TABLES, head="base: spec.yaml\n"):
        path = tmp_path / "sweep.yaml"
        path.write_text(f"{head}output: {tmp_path / 'out'}\nseeds: [0]\n{text}")
        return path

    return write


def test_equal_specs_are_one_run_whatever_their_names(sweep_file):
    grid = load(sweep_file())
    assert [row.name for row in grid.rows] == ["tiny", "mlp", "CSM"]
    named = {title: {n: row.name for n, row in rows.items()} for title, rows in grid.tables.items()}
    assert named == {
        "Table A": {"as it is": "tiny", "MLP": "mlp"},
        "Table B": {"the base": "tiny", "the other file": "tiny", "CSM": "CSM"},
    }
    runs = jobs(grid)
    assert [job.folder.path.parent.name for job in runs] == ["tiny", "mlp", "CSM"]
    assert runs[1].arguments[1].endswith("mlp.yaml")
    assert grid.spec(grid.rows[1], 0)[0].train["stages"][0]["steps"] == 1, "`set` holds for every row"
    assert grid.tables["Table A"]["as it is"] is grid.tables["Table B"]["the base"]


def test_what_a_run_is_started_with_gives_the_same_spec(sweep_file):
    """`set` first, then --set of the command, then the row's own keys."""
    from vlm_core.spec.spec import load_spec

    grid = load(sweep_file(), ["train.max_length=100", "train.stages.0.steps=3"])
    for row in grid.rows:
        spec = grid.spec(row, 0)[0]
        assert load_spec(grid.base_of(row), grid.assignments(row, 0))[0] == spec
        assert (spec.train["max_length"], spec.train["stages"][0]["steps"]) == (100, 3)


@pytest.mark.parametrize(
    ("text", "head", "said"),
    [
        ("tables: {T: {a: {spec: no.yaml}}}", "", "sweep.yaml:3: tables.T.a.spec: no such file"),
        ("tables: {T: {a: {spec: 3}}}", "", "sweep.yaml:3: tables.T.a.spec: expected the name of a spec"),
        ("tables:\n  T:\n    a: {}", "", "sweep.yaml:5: tables.T.a: expected spec: FILE"),
        ("tables: {T: {}}", "", "sweep.yaml:3: tables.T"),
        ("tables: {T: {a: {spec: mlp.yaml}}}\nrows: {b: {}}", "", "has tables, and rows or axes"),
        ("rows: {b: {}}", "", "base: missing"),
        ("tables: {T: {a: {spec: mlp.yaml, train.seed: 1}}}", "", "a row can't set train.seed"),
        ("set: {name: x}\ntables: {T: {a: {spec: mlp.yaml}}}", "", "sweep.yaml:3: set.name: a row can't set"),
        (
            "set: {conector.scan: x}\ntables: {T: {a: {spec: mlp.yaml}}}",
            "",
            "sweep.yaml:3: the spec has no conector",
        ),
        (
            "tables:\n  T: {a: {spec: spec.yaml}, b: {spec: mlp.yaml, connector.dept: 3}}",
            "",
            "sweep.yaml:4: connector.dept: unknown key",
        ),
        (
            "tables:\n  T: {x: {connector.d_state: 2}}\n  U:\n    x: {connector.d_state: 8}",
            "base: spec.yaml\n",
            "sweep.yaml:7: tables.U.x: would share the folder 'x' with T: x, whose spec differs in "
            "connector.d_state (2, 8)",
        ),
    ],
    ids=lambda value: value[:30],
)
def test_faults_name_file_and_line(sweep_file, tmp_path, text, head, said):
    path = sweep_file(text + "\n", head)
    text = path.read_text()
    with pytest.raises(UserError) as caught:
        load(path)
    assert said in str(caught.value).replace(f"{tmp_path}/", "")


def test_two_files_of_one_name_and_different_specs_are_refused(sweep_file, tmp_path):
    (tmp_path / "also.yaml").write_text("base: mlp.yaml\nconnector: {type: mlp, depth: 3}\n")
    path = sweep_file("tables: {T: {a: {spec: mlp.yaml}}, U: {b: {spec: also.yaml}}}\n", "")
    with pytest.raises(UserError, match=r"folder 'mlp' with T: a, whose spec differs in connector\.depth"):
        load(path)


def test_a_table_has_a_line_for_each_of_its_rows(sweep_file, tmp_path):
    """After one run of three: both of its rows have figures, the others none."""
    grid = load(sweep_file())
    run = RunDir(tmp_path / "out/tiny/seed-0")
    run.path.mkdir(parents=True)
    score = {
        "protocol": "p",
        "metric": "F1",
        "score": 0.5,
        "unit": "fraction",
        "partial": False,
        "scored": 36,
        "asked": 36,
        "expected": 36,
    }
    run.log(
        {"stage": 0, "name": "instruct", "step": 1, "weights": "own", "benchmarks": {"pope": score}},
        name="evals.jsonl",
    )
    run.write("results.md", "")
    folders = {row.name: RunDir(grid.folder(row, 0)) for row in grid.rows}
    runs = [Job(row, 0, folders[row.name], (), tmp_path / "log", "instruct") for row in grid.rows]
    lines = table.lines(runs, sizes(grid))
    named = {title: [line.name for line in rows] for title, rows in table.by_table(grid, lines).items()}
    assert named == {title: list(rows) for title, rows in grid.tables.items()}
    table.write(grid, lines, [], draw=False)
    assert not (tmp_path / "out/table.png").exists()
    text = (tmp_path / "out/table.md").read_text()
    assert text.startswith("## Table A\n")
    second = text[text.index("## Table B") :]
    assert second.count("| 50.0 |") == 2
    assert "| CSM | " in second
    record = json.loads((tmp_path / "out/table.json").read_text())
    assert record["tables"]["Table B"] == {"the base": "tiny", "the other file": "tiny", "CSM": "CSM"}
    assert [(row["folder"], row["n"]) for row in record["rows"]] == [("tiny", 1), ("mlp", 0), ("CSM", 0)]


def test_after_a_kill_between_runs_only_the_others_are_left(sweep_file):
    """Also if tables and rows have other names and another order meanwhile: a run has the name of its spec."""
    grid = load(sweep_file())
    start(*grid.spec(grid.rows[0], 0))
    assert [job.state for job in jobs(load(sweep_file()))] == ["finished", "new", "new"]
    other = """\
set: {train.stages.0.steps: 1}
tables:
  Other: {c: {connector.scan: csm}, a: {spec: spec.yaml}, b: {spec: same.yaml}}
"""
    assert [(job.row.name, job.state) for job in jobs(load(sweep_file(other)))] == [
        ("c", "new"),
        ("tiny", "finished"),
    ]


def test_the_papers_tables_are_seven_runs():
    grid = load("specs/ablations/tables.yaml")
    assert [row.folder for row in grid.rows] == [
        "llm-mamba-1-4b",
        "llm-mamba-2-8b",
        "llm-mamba-2-8b-slimpj",
        "connector-mlp",
        "connector-vss-mlp",
        "vl-mamba-2-8b",
        "scan-csm",
    ]
    assert sum(map(len, grid.tables.values())) == 10


@pytest.mark.slow
def test_the_papers_models_fit_the_papers_machine():
    """Eight GPUs of 80 GB, by the project's own planner: both stages of every run."""
    grid, gpu = load("specs/ablations/tables.yaml"), find_gpu("A800")
    for row in grid.rows:
        spec, document = grid.spec(row, 0)
        planned = plan(spec, train_section(spec, document), 8, gpu)
        strategy = "ddp" if row.name == "llm-mamba-1.4b" else "fsdp2"
        assert [(stage.strategy, stage.fits) for stage in planned] == [(strategy, "yes")] * 2, row.name
