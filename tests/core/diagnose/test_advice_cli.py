"""`--check` as people read it: no network, nothing hidden, every number with its assumption."""

import json
import socket
from pathlib import Path

import pytest
import torch
import yaml

from vlm_core.cli import assemble
from vlm_core.diagnose.model_summary import summarize
from vlm_core.interfaces import parameter_count
from vlm_core.plugins.distribution import origin
from vlm_core.plugins.registry import Registry
from vlm_core.spec.spec import load_spec
from vlm_ssm.backends import default

SPECS = Path(__file__).parents[3] / "specs"
CHECKED = set()
STAGES = [
    {
        "name": "align",
        "trainable": ["connector"],
        "data": [{"type": "llava", "path": "none.json"}],
        "lr": 1e-3,
        "batch_size": 16,
        "micro_batch_size": 2,
    },
    {
        "name": "instruct",
        "trainable": ["connector", "llm"],
        "data": [{"type": "llava", "path": "none.json"}],
        "lr": 1e-3,
        "batch_size": 8,
        "steps": 100,
    },
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)


@pytest.fixture
def trained(tiny_spec, tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(
        yaml.safe_dump(tiny_spec | {"train": {"output": "runs/t", "max_length": 64, "stages": STAGES}})
    )
    return path


def _specs():
    """All but sweeps, once a model. Most of those with published weights take seconds to build: they are slow."""
    quick = ("vl-mamba-2.8b", "cobra", "encoder-clip", "quickstart", "own-data", "fashion", "grid", "moving")
    paths = sorted(p for p in SPECS.rglob("*.yaml") if not p.stem.startswith(("scans", "tables", "reducers")))
    assert {p.stem for p in paths} >= set(quick)
    return [pytest.param(p, marks=() if p.stem in quick else pytest.mark.slow, id=p.stem) for p in paths]


@pytest.mark.parametrize("path", _specs())
def test_every_spec_is_checked_without_network(path, monkeypatch, tmp_path):
    if path.stem in ("quickstart", "own-data"):  # their tokenizers are learnt from data beside them
        monkeypatch.chdir(SPECS.parent)
    spec, _ = load_spec(path)
    parts = spec.model_dump_json(include={"encoder", "connector", "llm"})
    if parts in CHECKED:  # rows of two tables can be one model
        return
    CHECKED.add(parts)
    sums = summarize(spec)
    assert sums.total == sum(row.parameters for row in sums.rows) > 1e5


def test_the_default_is_short_and_says_what_else_there_is(cli, trained):
    code, out, _ = cli(assemble.main, trained, "--check")
    assert code == 0
    assert "to download: nothing" in out
    assert out.endswith("--gpus N adds FLOPs, memory and hours of training on N GPUs\n")


def test_origin_and_downloads(cli):
    code, out, _ = cli(assemble.main, SPECS / "ablations/scan-csm.yaml", "--check")
    assert code == 0
    assert f"base: {SPECS / 'vl-mamba-2.8b.yaml'}" in out
    assert "connector.scan: bsm → csm" in out
    assert ["llm", "state-spaces/mamba-2.8b-slimpj", "weights", "5.54", "GB"] in [
        x.split() for x in out.splitlines()
    ]


def test_stages_on_eight_gpus(cli, trained):
    code, out, _ = cli(
        assemble.main, trained, "--check", "--gpus", 8, "--samples", "align=1000", "--text-tokens", 20
    )
    assert code == 0
    assert "align: memory of each of 8 GPUs, fp32, micro-batch of 2 samples of 24 positions" in out
    assert "instruct: memory of each of 8 GPUs, fp32, micro-batch of 1 samples of 24 positions" in out
    assert all(out.count(f"\n {name} ") == 2 for name in ("DDP", "FSDP2", "FSDP2-gathered"))
    hours = {
        line.split()[0]: line.split()[1]
        for line in out[out.index("hours on 8") :].splitlines()
        if "  " in line
    }
    assert (hours["align"], hours["instruct"]) == ("1000", "800")
    assert max(map(len, out.splitlines())) <= 120


def test_data_that_are_not_here_are_said_to_be(cli, trained):
    _, out, _ = cli(assemble.main, trained, "--check", "--gpus", 1, "--gpu", "h100", "--text-tokens", 20)
    assert "align each 100000" in " ".join(out.split())
    assert (
        "the data of align are not on this machine; give their number of samples with --samples align=N"
        in out
    )
    assert "H100 yes" in out


def words(out):
    return [line.split() for line in out.splitlines()]


def test_hours_rest_on_measured_mfu(cli, trained):
    _, out, _ = cli(assemble.main, trained, "--check", "--gpus", 1, "--samples", "align=1000")
    assert "MFU and tokens of a micro-batch (--mfu X replaces the MFU)" in out
    assert "MFU: VL-Mamba-2.8B measured on H200 at as many tokens; *: assumed to be the same" in out
    (row,) = [line for line in words(out) if line[:1] == ["align"] and "%" in line[1]]
    assert len(row) == 1 + 2 * 9
    assert [i for i, cell in enumerate(row[1::2]) if not cell.endswith("*")] == [7], "H200"
    _, out, _ = cli(assemble.main, trained, "--check", "--gpus", 1, "--mfu", 0.5)
    assert "50% MFU (--mfu)" in out
    assert "tokens of a micro-batch" not in out


@pytest.fixture
def auto(trained):
    spec = yaml.safe_load(trained.read_text())
    for stage in spec["train"]["stages"]:
        stage["micro_batch_size"] = "auto"
    trained.write_text(yaml.safe_dump(spec))
    return trained


def test_auto_is_estimated_for_every_gpu(cli, auto):
    code, out, _ = cli(assemble.main, auto, "--check", "--gpus", 2, "--text-tokens", 20)
    assert code == 0
    assert "micro_batch_size: auto, estimated for samples of 64 positions" in out
    table = words(out[out.index("micro_batch_size: auto") :])
    assert ["align", *["8"] * 9] in table, "a share of 16 samples fits everywhere"
    assert ["strategy", *["DDP"] * 9] in table
    _, out, _ = cli(assemble.main, auto, "--check", "--gpus", 2, "--gpu", "A800", "--text-tokens", 20)
    assert "align: micro_batch_size: auto: 8 on A800 with DDP, estimated for samples of 64 positions" in out
    assert "align: memory of each of 2 GPUs, fp32, micro-batch of 8 samples of 24 positions" in out
    assert max(map(len, out.splitlines())) <= 120


def test_a_gpu_that_is_too_small_is_a_warning(cli, auto, monkeypatch):
    from vlm_core.diagnose.costs.gpus import GPU, GPUS

    monkeypatch.setitem(GPUS, "tiny", GPU("tiny", 1e-4, 1e12))
    code, out, _ = cli(assemble.main, auto, "--check", "--gpus", 1, "--gpu", "tiny", "--text-tokens", 20)
    assert code == 0
    assert "instruct: micro_batch_size: auto: not even 1 on tiny with DDP" in out
    assert "warning: stage instruct needs " in out
    assert "and tiny has 100.00 kB; " in out
    assert "try activation_checkpointing: true, a smaller max_length, more GPUs with strategy: fsdp2\n" in out
    assert ["instruct", "800", "-"] in words(out)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--gpus", "0"], "--gpus: expected a whole number from 1 to 999999999, got '0'"),
        (["--gpus", "1", "--mfu", "2"], "--mfu 2.0: expected a share above 0 and at most 1"),
        (["--gpus", "1", "--samples", "align"], "expected STAGE=NUMBER"),
        (["--gpus", "1", "--samples", "align=²"], "expected STAGE=NUMBER"),
        (["--gpus", "1", "--samples", "align=" + "9" * 5000], "expected STAGE=NUMBER"),
        (["--gpus", "1" + "0" * 30], "--gpus: expected a whole number from 1 to 999999999"),
        (
            ["--gpus", "1", "--samples", "aling=5"],
            "no such stage; possible: align, instruct; did you mean 'align'",
        ),
        (["--gpus", "1", "--gpu", "H10"], "unknown GPU 'H10'"),
        (["--gpu", "H100"], "--gpu H100 needs the number of GPUs: add --gpus N"),
        (["--measure", "--samples", "aling=5"], "no such stage; possible: align, instruct"),
        (["--gpus", "3"], "stage align: batch_size 16 is not divisible by 3 GPUs"),
    ],
)
def test_questions_that_mean_nothing(cli, trained, args, message):
    code, _, err = cli(assemble.main, trained, "--check", *args)
    assert code == 2
    assert message in err


def test_only_training_steps_can_be_measured(cli, trained, tiny_spec, tmp_path):
    code, _, err = cli(assemble.main, trained, "--measure")
    assert (code, "--measure needs --check" in err) == (2, True)
    untrained = tmp_path / "untrained.yaml"
    untrained.write_text(yaml.safe_dump(tiny_spec))
    code, _, err = cli(assemble.main, untrained, "--check", "--measure")
    assert (code, "--measure times training steps, and this spec has no train section" in err) == (2, True)


def test_measuring_needs_the_package_that_trains(cli, trained, monkeypatch):
    names = Registry.names
    monkeypatch.setattr(Registry, "names", lambda self, kind: [] if kind == "section" else names(self, kind))
    code, _, err = cli(assemble.main, trained, "--check", "--measure")
    assert code == 2
    assert "pip install vlm-train" in err


def test_activation_checkpointing_lowers_the_activations(cli, trained):
    _, whole, _ = cli(assemble.main, trained, "--check", "--gpus", 1, "--gpu", "H100")
    changes = ("--set", "train.activation_checkpointing=true")
    _, less, _ = cli(assemble.main, trained, "--check", "--gpus", 1, "--gpu", "H100", *changes)
    assert "activation checkpointing: layers are computed again in the backward pass" in less
    rows = [[line for line in words(out) if line[-2:] == ["H100", "yes"]] for out in (whole, less)]
    assert rows[0] != rows[1]


def test_the_backend_of_the_activations_is_named(cli, trained):
    _, out, _ = cli(assemble.main, trained, "--check", "--gpus", 1, "--gpu", "H100")
    backend = default(torch.device("cuda"))
    assert f"activations of connector and llm: as kept by scan backend {backend} (that of GPUs)" in out


def test_published_shapes_know_their_size():
    from vlm_llms.mamba.mamba_config import MambaConfig

    small = MambaConfig(weights="state-spaces/mamba-130m")
    import torch

    with torch.device("meta"):
        count = parameter_count(small.build(weights=False))
    assert [d.bytes for d in small.downloads()] == [2 * count, None]
    assert MambaConfig(weights="state-spaces/mamba-130m-hf").downloads()[0].bytes == 4 * count
    assert MambaConfig(weights="somebody/mamba").downloads()[0].bytes is None


def test_the_whole_trunk_is_fetched():
    import timm

    from vlm_encoders.configs import TimmConfig

    (one,) = TimmConfig(model="vit_tiny_patch16_224", pretrained=True).downloads()
    assert one.source.startswith("timm/vit_tiny_patch16_224")
    assert one.bytes == 4 * sum(p.numel() for p in timm.create_model("vit_tiny_patch16_224").parameters())
    assert TimmConfig(model="vit_tiny_patch16_224").downloads() == []


def test_origin_of_what_is_installed_and_what_is_not(tmp_path, monkeypatch):
    assert origin("vlm-core").endswith("packages/vlm-core (editable)")
    assert "site-packages" in origin("timm")
    assert origin("no-such-package") == "not installed"
    info = tmp_path / "strange-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1\n")
    (info / "direct_url.json").write_text(
        json.dumps({"url": f"file://{tmp_path}/a%20b", "dir_info": {"editable": True}})
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert origin("strange") == f"{tmp_path}/a b (editable)"


def test_gpus_without_check_build_nothing(cli, trained, tmp_path):
    code, _, err = cli(assemble.main, trained, "--gpus", 1, "--out", tmp_path / "model")
    assert code == 2
    assert "--gpus needs --check" in err
    assert not (tmp_path / "model").exists()
