"""The sweep file: rows, axes, and every fault at its line."""

import time
from pathlib import Path

import pytest
import yaml

from vlm_core.errors import SpecError, UserError
from vlm_core.spec.spec import load_spec
from vlm_train.sweep.grid import load
from vlm_train.sweep.rows import Setting

ROOT = Path(__file__).parents[3]


@pytest.fixture
def sweep_file(run_spec, tmp_path):
    """`sweep_file(text)` writes a sweep over the tiny run."""
    run_spec()

    def write(text):
        path = tmp_path / "sweep.yaml"
        path.write_text(f"base: spec.yaml\noutput: {tmp_path / 'out'}\n{text}")
        return path

    return write


def faults(path):
    with pytest.raises(UserError) as caught:
        load(path)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_rows_come_before_the_combinations_of_axes(sweep_file):
    grid = load(
        sweep_file(
            "rows:\n  as it is:\n  mlp: {connector: {type: mlp}}\n"
            "axes: {connector.scan: [bsm, csm], connector.d_state: [4, 8]}\n"
        )
    )
    assert grid.seeds == [0, 1, 2]
    assert [row.name for row in grid.rows] == [
        "as it is",
        "mlp",
        "bsm d_state=4",
        "bsm d_state=8",
        "csm d_state=4",
        "csm d_state=8",
    ]
    last = grid.rows[-1]
    assert [str(s) for s in last.settings] == ["connector.scan=csm", "connector.d_state=8"]
    spec, _ = grid.spec(last, 2)
    assert (spec.connector.scan, spec.connector.d_state) == ("csm", 8)
    assert spec.train["seed"] == 2
    assert spec.train["output"] == str(grid.output / "csm-d_state-8" / "seed-2")
    assert grid.spec(grid.rows[1], 0)[0].connector.type == "mlp"
    assert grid.spec(grid.rows[0], 0)[0].connector.type == "vss-l2", "no row sees another's changes"


def test_what_a_run_is_started_with_gives_the_same_spec(sweep_file, tmp_path):
    """`--set` text is YAML: numbers, mappings and text that looks like something else come back as they were."""
    path = sweep_file("rows: {a: {connector: {type: mlp, depth: 3}, train.on_too_long: error}}\n")
    grid = load(path, ["train.max_length=100"])
    given = [*grid.common, *map(str, grid.settings(grid.rows[0], 1))]
    assert load_spec(tmp_path / "spec.yaml", given)[0] == grid.spec(grid.rows[0], 1)[0]
    for value in (
        "1e-5",
        "true",
        "null",
        "a: b",
        "",
        "plain words",
        1e-5,
        3,
        True,
        None,
        {"type": "x"},
        ["a", 1],
    ):
        assert (
            yaml.safe_load(str(Setting("k", value, "")).removeprefix("k=").replace("1e-05", "1.0e-05"))
            == value
        )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows: {a: {connector.scan: bms}}", "sweep.yaml:3: connector.scan: unknown scan 'bms'"),
        ("rows:\n  a:\n    connector.scn: csm", "sweep.yaml:5: connector.scn: unknown key"),
        ("rows:\n  a: {conector.scan: csm}", "sweep.yaml:4: the spec has no conector; possible: "),
        ("axes:\n  connector.d_state: [4,\n    many]", "sweep.yaml:5: connector.d_state: got 'many'"),
        (
            "rows: {a: {train.seed: 1}}",
            "sweep.yaml:3: rows.a.train.seed: a row can't set train.seed; `seeds` does",
        ),
        ("axes: {train.output: [x]}", "sweep.yaml:3: axes.train.output.0: a row can't set train.output"),
        (
            "rows: {a: {}}\nsedes: [1]",
            "sweep.yaml:4: sedes: unknown key; possible: axes, base, output, rows, seeds, set, tables",
        ),
        ("seeds: [1]", "expected rows, axes or both; or tables"),
        ("rows: {a: {}}\nseeds: [1, 1]", "seeds contains a duplicate"),
        ("rows: {a: {}}\nseeds: [-1]", "sweep.yaml:4: seeds.0: got -1"),
        ("rows: {a/b: {}, a-b: {}}", "two rows would share the folder 'a-b'"),
        ("rows: {../up: {}, 'a  b': {}}", "sweep.yaml:3"),
        (
            "axes: {{a.b: {0}, c.d: {0}, e.f: {0}}}".format(list(range(1000))),
            "the sweep has 3000000000 runs; at most 2000 go into one",
        ),
        ("rows: {a: {}}\nseeds: " + str(list(range(2001))), "the sweep has 2001 runs"),
        ("axes: {connector.scan: [" + "x" * 300 + "]}", "give a name of more than 255 bytes"),
        ("rows: {a: {}}\nrows: {b: {}}", "sweep.yaml:4: rows: this key appears twice"),
    ],
    ids=lambda value: value[:24],
)
def test_faults_name_file_and_line(sweep_file, text, said):
    assert said in faults(sweep_file(text + "\n"))


def test_many_rows_are_checked_quickly(sweep_file):
    began = time.process_time()
    grid = load(
        sweep_file(f"seeds: [0]\naxes: {{train.max_length: [{', '.join(map(str, range(40, 1040)))}]}}\n")
    )
    assert len(grid.rows) == 1000
    assert time.process_time() - began < 10


def test_a_base_that_is_not_there(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("output: x\nbase: gone.yaml\nrows: {a: {}}\n")
    with pytest.raises(SpecError, match=r"sweep\.yaml:2: base: no such file: .*gone\.yaml"):
        load(path)


def test_a_fault_of_the_base_is_told_once(sweep_file, run_spec):
    path = sweep_file("rows: {a: {}, b: {}}\n")
    run_spec(checkpoint_every=0)
    assert faults(path).count("checkpoint_every") == 1


@pytest.mark.parametrize("name", ["scans", "scans-fashion"])
def test_the_published_sweeps_are_valid(monkeypatch, name):
    monkeypatch.chdir(ROOT)
    rows = [row.name for row in load(f"specs/ablations/{name}.yaml").rows]
    assert rows == ["mlp", "vss-mlp bsm", "vss-mlp csm", "vss-l2 bsm", "vss-l2 csm"]


def test_the_sweeps_of_connectors_with_fewer_tokens_are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = load("specs/ablations/reducers.yaml")
    connectors = [sweep.spec(row, 0)[0].connector.build(64, 64) for row in sweep.rows]
    assert [connector.num_tokens(8, 8) for connector in connectors] == [16] * 5  # 48 pixels in patches of 6
    frames = load("specs/ablations/reducers-moving.yaml")
    connectors = [frames.spec(row, 0)[0].connector.build(64, 64) for row in frames.rows]
    assert [connector.num_tokens(3, 3) for connector in connectors] == [1] * 3
