"""DeepSpeed's ZeRO over two processes: the run of one, resumed to the bit, and refused where it is not there."""

import json
import sys

import pytest
import torch
from ranks import run_ranks
from spread import STEPS, long_spec, losses, weights

from vlm_core.errors import UserError
from vlm_core.spec import load_spec
from vlm_train.run import start

__all__ = ["long_spec"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_two_processes_train_as_one(long_spec, tmp_path, capsys, strategy):
    """Losses within 1e-6 over 20 steps of each stage, micro-batches included; the same validation; frozen is frozen."""
    pytest.importorskip("deepspeed")
    start(*load_spec(long_spec, [f"train.output={tmp_path}/one"]))
    set_to = f"train.strategy={strategy}"
    run_ranks(
        "spread_script.py", long_spec, tmp_path, f"own:{set_to}",
        f"again:{set_to},train.activation_checkpointing=true", f"half:{set_to},train.checkpoint_every=2",
    )  # fmt: skip
    wanted, first = losses(tmp_path / "one"), weights(tmp_path / "one")
    assert len(wanted) == 2 * STEPS
    for name in ("own", "again"):
        found = losses(tmp_path / name)
        assert float(((found - wanted) / wanted).abs().max()) <= 1e-6, name
        last = weights(tmp_path / name)
        assert all(torch.equal(last[k], first[k]) for k in first if k.startswith("encoder"))
        assert {k for k in first if not torch.allclose(last[k], first[k], atol=1e-5)} == set(), name
        for measured in ("validation.jsonl", "evals.jsonl"):
            told, alone = ((tmp_path / n / measured).read_text().splitlines() for n in (name, "one"))
            assert len(told) == len(alone)
            if measured == "evals.jsonl":
                assert told == alone
            else:
                pairs = zip(told, alone, strict=True)
                assert all(json.loads(a)["loss"] == pytest.approx(json.loads(b)["loss"], rel=1e-6) for a, b in pairs)

    # what two processes left off, each with its rows, one goes on with
    names = sorted(p.name for p in max((tmp_path / "half" / "checkpoints").iterdir()).iterdir())
    assert {"llm-00001-of-00002.safetensors", "optimizer-00002-of-00002.safetensors"} <= set(names)
    start(*load_spec(long_spec, [f"train.output={tmp_path}/half", "train.checkpoint_every=2"]))
    torch.testing.assert_close(losses(tmp_path / "half"), wanted, rtol=1e-6, atol=1e-6)
