"""Specs: every fault named by file, line and path; every spec of the repository valid."""

from pathlib import Path

import pytest
import yaml

from vlm_core.errors import SpecError
from vlm_core.spec.spec import Spec, json_schema, load_spec

SPECS = sorted(
    p
    for p in (Path(__file__).parents[3] / "specs").rglob("*.yaml")
    if not p.stem.startswith(("scans", "tables", "reducers"))
)  # without the sweeps
GOOD = """\
name: good
encoder: {type: timm, model: vit_tiny_patch16_224}
connector:
  type: vss-l2
  scan: bsm
llm: {type: mamba, weights: state-spaces/mamba-130m}
train:
  output: runs/x
  stages:
    - name: align
      trainable: [connector]
      data: [{type: llava, path: data.json}]
      lr: 1e-3
      batch_size: 8
"""


def errors(tmp_path, old, new, overrides=()):
    """The message for `GOOD` with one change, file name shortened."""
    assert old in GOOD
    path = tmp_path / "s.yaml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(SpecError) as caught:
        load_spec(path, overrides)
    return str(caught.value).replace(str(path), "s.yaml")


def test_the_good_one_is_good(tmp_path):
    (tmp_path / "s.yaml").write_text(GOOD)
    spec, _ = load_spec(tmp_path / "s.yaml")
    assert spec.connector.label() == "vss-l2 (bsm, shared)"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "vss-l2",
            "vss-l3",
            "s.yaml:4: connector.type: unknown connector 'vss-l3'; possible: ldpv2, linear, mlp, msc, "
            "pixel-shuffle, resampler, state-query, vss-l2, vss-mlp; "
            "did you mean 'vss-l2'?",
        ),
        (
            "  scan",
            "  sacn",
            "s.yaml:5: connector.sacn: unknown key; possible: d_conv, d_state, expand, merge, norm, "
            "parameters, scan, type; did you mean 'scan'?",
        ),
        (
            "scan: bsm",
            "scan: bms",
            "s.yaml:5: connector.scan: unknown scan 'bms'; possible: bsm, csm; did you mean 'bsm'?",
        ),
        (
            "scan: bsm",
            "merge: som",
            "s.yaml:5: connector.merge: unknown value 'som'; possible: mean, sum; did you mean 'sum'?",
        ),
        (
            "scan: bsm",
            "d_state: 16.5",
            "s.yaml:5: connector.d_state: got 16.5: expected a whole number",
        ),
        (
            "scan: bsm",
            "d_state: '16'",
            "s.yaml:5: connector.d_state: got '16': expected a whole number",
        ),
        (
            "scan: bsm",
            "d_state: 1000000000000",
            "s.yaml:5: connector.d_state: got 1000000000000: expected a number less",
        ),
        ("scan: bsm", "d_state: -1", "s.yaml:5: connector.d_state: got -1: expected a number greater than 0"),
        ("lr: 1e-3", "lr: .nan", "s.yaml:13: train.stages.0.lr"),
        ("lr: 1e-3", "lr: 1e400", "s.yaml:13: train.stages.0.lr"),
        (
            "batch_size: 8",
            "batch_size: 1000000000000",
            "s.yaml:14: train.stages.0.batch_size: got 1000000000000",
        ),
        (
            "batch_size: 8",
            "batchsize: 8",
            "s.yaml:14: train.stages.0.batchsize: unknown key; possible: batch_size",
        ),
        (
            "trainable: [connector]",
            "trainable: [conector]",
            "s.yaml:11: train.stages.0.trainable.0: unknown value",
        ),
        ("type: llava", "type: lava", "s.yaml:12: train.stages.0.data.0.type: unknown dataset 'lava'"),
        ("path: data", "pth: data", "s.yaml:12: train.stages.0.data.0.pth: unknown key"),
        ("encoder:", "encodr:", "s.yaml:2: encodr: unknown key; possible: connector, encoder"),
        ("name: good", "template: lava-v1", "s.yaml:1: template: unknown template 'lava-v1'"),
        (
            "name: good",
            "template: {user: '{txt}', assistant: x}",
            "s.yaml:1: template.user: unknown field {txt}",
        ),
        ("weights: state", "d_model: 8, weights: state", "weights determine the size; remove d_model"),
        (
            "llm: {type: mamba, weights: state-spaces/mamba-130m}",
            "llm: mamba",
            "s.yaml:6: llm: expected a mapping with a type; possible: mamba, transformers",
        ),
        ("  type: vss-l2\n", "", "s.yaml:3: connector: expected a mapping with a type"),
        (
            "lr: 1e-3",
            "lr: {connector: 1e-3, llm: 1e-5}",
            "lr names ['connector', 'llm'], but this stage trains",
        ),
        (
            "batch_size: 8",
            "batch_size: 8\n      steps: 3\n      epochs: 1.0",
            "give epochs or steps, not both",
        ),
    ],
)
def test_each_fault_is_named(tmp_path, old, new, message):
    assert message in errors(tmp_path, old, new)


def test_all_faults_at_once(tmp_path):
    text = errors(tmp_path, "scan: bsm", "sacn: bsm", ["train.seed=-1"])
    assert [line.split(": ")[1] for line in text.splitlines()] == ["connector.sacn", "train.seed"]
    assert "--set train.seed=-1" in text


def test_one_e_minus_five_is_a_float(tmp_path):
    (tmp_path / "s.yaml").write_text(GOOD.replace("1e-3", "1e-5"))
    spec, _ = load_spec(tmp_path / "s.yaml")
    assert spec.train["stages"][0]["lr"] == 1e-5


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_every_spec_is_valid_and_survives_being_written(path, tmp_path):
    spec, _ = load_spec(path)
    again = tmp_path / "again.yaml"
    again.write_text(spec.to_yaml())
    assert load_spec(again)[0] == spec


def test_schema_knows_every_component():
    properties = json_schema()["properties"]
    connectors = {one["properties"]["type"]["const"] for one in properties["connector"]["oneOf"]}
    assert connectors >= {"mlp", "vss-mlp", "vss-l2"}
    assert "stages" in properties["train"]["properties"]
    assert "$ref" not in yaml.safe_dump(properties["train"])


def test_the_papers_final_model_adds_up():
    """SigLIP-SO400M/14-384 → 27×27 patches of 1152 → 729 tokens of 2560 → Mamba-2.8B, without any weights."""
    from vlm_core.diagnose.model_summary import summarize

    path = next(p for p in SPECS if p.stem == "vl-mamba-2.8b")
    sums = summarize(load_spec(path)[0])
    assert (sums.image_size, sums.grid, sums.tokens) == ((384, 384), (27, 27), 729)
    assert (sums.d_in, sums.d_out, sums.vocab_size) == (1152, 2560, 50280)
    counts = {row.part: row.parameters for row in sums.rows}
    assert round(counts["connector"] / 1e6, 2) == 50.75
    assert round(counts["llm"] / 1e9, 2) == 2.77
    assert 390e6 < counts["encoder"] < 415e6, "26 of 27 blocks, without the pooling head"


def test_spec_holds_configs_of_subclasses():
    spec = Spec.model_validate(
        {
            "encoder": {"type": "timm", "model": "x"},
            "connector": {"type": "mlp"},
            "llm": {"type": "mamba", "d_model": 8, "n_layer": 1},
        }
    )
    assert yaml.safe_load(spec.to_yaml())["llm"]["d_model"] == 8


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lr", "abc", "got 'abc': expected a number, or a mapping of keys"),
        ("micro_batch_size", "-1", "got -1: expected a number greater than 0, or auto"),
    ],
)
def test_a_value_of_no_type_of_a_union_is_one_problem(key, value, message):
    grid = Path(__file__).parents[3] / "specs" / "grid.yaml"
    with pytest.raises(SpecError) as caught:
        load_spec(grid, [f"train.stages.0.{key}={value}"])
    assert [problem.text for problem in caught.value.problems] == [message]
