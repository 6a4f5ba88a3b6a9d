"""`base:`: what is merged, what replaces, and that every fault names the file and line it really comes from."""

import os
import time

import pytest

from vlm_core.errors import SpecError
from vlm_core.spec.spec import load_spec

BASE = """\
name: big
encoder:
  type: timm
  model: vit_tiny_patch16_224
  layer: -2
connector: {type: vss-l2, scan: bsm, merge: mean}
llm: {type: mamba, d_model: 8, n_layer: 1, vocab_size: 264}
train:
  output: runs/big
  stages:
    - {name: a, trainable: [connector], data: [{type: llava, path: a.json}], lr: 1e-3, batch_size: 8}
    - {name: b, trainable: [llm], data: [{type: llava, path: b.json}], lr: 1e-4, batch_size: 8}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files by name into the working folder; returns nothing."""
    monkeypatch.chdir(tmp_path)

    def files(**texts):
        for name, text in texts.items():
            path = tmp_path / (name.replace("__", "/") + ".yaml")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    files(big=BASE)
    return files


def fault(name, overrides=()):
    with pytest.raises(SpecError) as caught:
        load_spec(name, overrides)
    return str(caught.value)


def test_mappings_merge_and_lists_are_replaced(write):
    stage = "{name: c, trainable: [llm], data: [{type: llava, path: c.json}], lr: 1e-3, batch_size: 4}"
    write(s=f"base: big.yaml\nname: small\nencoder: {{layer: -1}}\ntrain:\n  stages:\n    - {stage}\n")
    spec, document = load_spec("s.yaml")
    assert (spec.name, spec.encoder.model, spec.encoder.layer) == ("small", "vit_tiny_patch16_224", -1)
    assert spec.train["output"] == "runs/big"
    assert [stage["name"] for stage in spec.train["stages"]] == ["c"]
    assert [document.where(path) for path in (("name",), ("encoder", "layer"), ("encoder", "model"))] == [
        "s.yaml:2",
        "s.yaml:3",
        "big.yaml:4",
    ]
    assert document.where(("train", "stages", 0, "name")) == "s.yaml:6"
    assert document.where(("train", "stages", 1, "name")) == "s.yaml:5", "the base's second stage is gone"


def test_another_type_keeps_no_key_of_the_first(write):
    write(s="base: big.yaml\nconnector: {type: mlp}\n", t="base: big.yaml\nconnector: {type: vss-l2}\n")
    assert load_spec("s.yaml")[0].connector.label() == "mlp"
    assert load_spec("t.yaml")[0].connector.merge == "mean"


def test_null_takes_a_value_away(write):
    write(
        s="base: big.yaml\ntrain: null\nllm: {weights: state-spaces/mamba-130m, d_model: null, n_layer: null,"
        " vocab_size: null}\n"
    )
    spec, _ = load_spec("s.yaml")
    assert spec.train is None
    assert spec.llm.label() == "mamba state-spaces/mamba-130m"


def test_chains_are_relative_to_each_file_and_told(write):
    write(
        sub__middle="base: ../big.yaml\nconnector: {scan: csm}\n",
        last="base: sub/middle.yaml\nconnector: {merge: mean}\nname: last\n",
    )
    spec, document = load_spec("last.yaml", ["connector.merge=sum"])
    assert (spec.connector.scan, spec.connector.merge) == ("csm", "sum")
    told = [(one.file, [(".".join(c.path), c.old, c.new) for c in one.changes]) for one in document.layers]
    assert told == [
        ("big.yaml", []),
        ("sub/middle.yaml", [("connector.scan", "bsm", "csm")]),
        ("last.yaml", [("name", "big", "last")]),
    ]


def test_the_resolved_spec_stands_alone(write, tmp_path):
    write(s="base: big.yaml\nconnector: {scan: csm}\n")
    spec, _ = load_spec("s.yaml")
    (tmp_path / "elsewhere.yaml").write_text(spec.to_yaml())
    assert "base" not in spec.to_yaml()
    assert load_spec("elsewhere.yaml")[0] == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: none.yaml\n", "s.yaml:1: base: none.yaml: cannot read this spec: no such file"),
        ("name: x\nbase: 3\n", "s.yaml:2: base: expected the name of a spec file, got 3"),
        ("base: [a, b]\n", "s.yaml:1: base: expected the name of a spec file, got ['a', 'b']"),
        ("base: s.yaml\n", "s.yaml:1: base: a spec can't be based on itself: s.yaml → s.yaml"),
        ("base: t.yaml\n", "t.yaml:1: base: a spec can't be based on itself: s.yaml → t.yaml → s.yaml"),
        ("base: list.yaml\n", "s.yaml:1: base: list.yaml is not a mapping"),
        ("base: broken.yaml\n", "broken.yaml:2: not valid YAML"),
        ("base: sub\n", "s.yaml:1: base: sub: cannot read this spec: a folder, expected a regular file"),
        ("base: big.yaml\nbase: big.yaml\n", "s.yaml:2: base: this key appears twice"),
    ],
)
def test_a_base_that_can_not_be_used(write, text, message):
    write(s=text, t="base: s.yaml\n", list="- 1\n", broken="a: [\n", sub__x="")
    assert fault("s.yaml").startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: wrong.yaml\n", "wrong.yaml:1: connector.sacn: unknown key"),
        ("base: big.yaml\nconnector: {sacn: csm}\n", "s.yaml:2: connector.sacn: unknown key"),
        ("base: big.yaml\nconnector: {type: mlp, scan: csm}\n", "s.yaml:2: connector.scan: unknown key"),
        ("base: big.yaml\nencoder: {type: timm}\n", None),
        ("base: big.yaml\nencoder: {type: open-clip}\n", "s.yaml:2: encoder.model: this key is required"),
        ("base: big.yaml\nllm:\n  weights: x\n", "s.yaml:2: llm: weights determine the size; remove d_model"),
    ],
)
def test_faults_stand_where_the_value_comes_from(write, text, message):
    write(
        s=text,
        wrong=BASE.replace("scan: bsm", "sacn: bsm")
        .replace("name: big\n", "")
        .replace("encoder:\n  type: timm\n  model: vit_tiny_patch16_224\n  layer: -2\n", "")
        .replace("llm:", "encoder: {type: timm, model: x}\nllm:"),
    )
    if message is None:
        load_spec("s.yaml")
    else:
        assert fault("s.yaml").startswith(message)


def test_set_comes_last_and_is_named(write):
    write(s="base: big.yaml\nconnector: {scan: csm}\n")
    assert load_spec("s.yaml", ["connector.scan=bsm"])[0].connector.scan == "bsm"
    assert fault("s.yaml", ["connector.scan=bms"]).startswith(
        "--set connector.scan=bms: connector.scan: unknown scan"
    )


def test_long_chains_and_large_ones_are_refused(write, monkeypatch):
    write(**{f"b{i}": f"base: b{i + 1}.yaml\n" for i in range(1500)})
    assert fault("b0.yaml").startswith("b32.yaml:1: base: more than 32 bases in a chain")
    assert fault("b1480.yaml").startswith("b1499.yaml:1: base: b1500.yaml: cannot read this spec")
    write(a="base: b.yaml\n" + "# x\n" * 40_000, b="name: x\n" + "# x\n" * 40_000)
    assert fault("a.yaml").startswith("a.yaml:1: base: with b.yaml, the files are together 320021 characters")
    write(
        a="base: b.yaml\n" + "".join(f"a{i}: 1\n" for i in range(6000)),
        b="".join(f"b{i}: 1\n" for i in range(6000)),
    )
    assert fault("a.yaml").startswith("a.yaml:1: base: with its base, a.yaml holds more than 10000 values")


def test_many_keys_are_merged_and_told_quickly(write):
    write(
        a="base: b.yaml\n" + "".join(f"k{i}: 1\n" for i in range(9000)),
        b="".join(f"k{i}: 0\n" for i in range(9000)),
    )
    began = time.process_time()
    lines = fault("a.yaml").splitlines()
    assert len(lines) == 51
    assert lines[-1] == "and 8953 more faults"
    assert time.process_time() - began < 4


@pytest.mark.parametrize("kind", ["fifo", "device", "loop"])
def test_a_base_is_a_regular_file(write, tmp_path, kind):
    write(s="base: other.yaml\n")
    other = tmp_path / "other.yaml"
    os.mkfifo(other) if kind == "fifo" else other.symlink_to("/dev/zero" if kind == "device" else other)
    assert fault("s.yaml").startswith("s.yaml:1: base: other.yaml: cannot read this spec: ")
