"""A run spread over two processes is the run of one: copies (DDP) and shards (FSDP2), over gloo."""

import json

import pytest
import torch
from ranks import run_ranks
from spread import STEPS, long_spec, losses, weights

from vlm_core.spec.spec import load_spec
from vlm_train.run import start

__all__ = ["long_spec"]


@pytest.mark.slow
def test_two_processes_train_as_one(long_spec, tmp_path, capsys):
    """Losses within 1e-6 over 20 steps of each stage, micro-batches included; the same validation; frozen is frozen."""
    start(*load_spec(long_spec, [f"train.output={tmp_path}/one"]))
    run_ranks(
        "spread_script.py",
        long_spec,
        tmp_path,
        "ddp:train.strategy=ddp",
        "fsdp2:train.strategy=fsdp2",
        "again:train.strategy=fsdp2,train.activation_checkpointing=true",
        "gathered:train.strategy=fsdp2,train.reshard_after_forward=false",
        "half:train.strategy=fsdp2,train.checkpoint_every=2",
    )
    wanted = losses(tmp_path / "one")
    assert len(wanted) == 2 * STEPS
    first = weights(tmp_path / "one")
    for name in ("ddp", "fsdp2", "again", "gathered"):
        found = losses(tmp_path / name)
        assert float(((found - wanted) / wanted).abs().max()) <= 1e-6, name
        last = weights(tmp_path / name)
        assert all(torch.equal(last[k], first[k]) for k in first if k.startswith("encoder"))
        assert {k for k in first if not torch.allclose(last[k], first[k], atol=1e-5)} == set(), name
    for name in ("again", "gathered"):
        assert torch.equal(losses(tmp_path / "fsdp2"), losses(tmp_path / name)), name
    told = [
        json.loads(line)["loss"] for line in (tmp_path / "one" / "validation.jsonl").read_text().splitlines()
    ]
    shared = [
        json.loads(line)["loss"]
        for line in (tmp_path / "fsdp2" / "validation.jsonl").read_text().splitlines()
    ]
    assert shared == pytest.approx(told, rel=1e-6)
    assert len(told) == 4
    asked = (tmp_path / "one" / "evals.jsonl").read_text()
    assert [f["scored"] for f in json.loads(asked.splitlines()[1])["benchmarks"].values()] == [6, 12]
    for name in ("ddp", "fsdp2"):
        assert (tmp_path / name / "evals.jsonl").read_text() == asked, name

    # what two processes left off, each with its shards, one goes on with
    names = sorted(p.name for p in max((tmp_path / "half" / "checkpoints").iterdir()).iterdir())
    assert {"llm-00001-of-00002.safetensors", "llm-00002-of-00002.safetensors"} <= set(names)
    capsys.readouterr()
    start(*load_spec(long_spec, [f"train.output={tmp_path}/half", "train.checkpoint_every=2"]))
    assert (
        "the checkpoint was written by 2 processes, this run has 1: the order of the rows is the same"
        in capsys.readouterr().out
    )
    torch.testing.assert_close(losses(tmp_path / "half"), wanted, rtol=1e-6, atol=1e-6)
