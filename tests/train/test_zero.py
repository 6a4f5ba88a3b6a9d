"""DeepSpeed's ZeRO over two processes: the run of one, resumed to the bit, and refused where it is not there."""

import json
import sys

import pytest
import torch
from deepspeed_there import deepspeed_there, installed
from ranks import run_ranks
from spread import STEPS, long_spec, losses, weights

from vlm_core.diagnose.check import on_meta
from vlm_core.diagnose.costs.advice import Question, advise
from vlm_core.errors import UserError
from vlm_core.spec.spec import load_spec
from vlm_train.cli.plan import plan
from vlm_train.config.section import train_section
from vlm_train.run import start

__all__ = ["deepspeed_there", "installed", "long_spec"]

PATIENCE = 1200
"""Seconds for the processes of one call, which import DeepSpeed and train several times."""


@pytest.mark.slow
@pytest.mark.usefixtures("deepspeed_there")
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_two_processes_train_as_one(long_spec, tmp_path, capsys, strategy):
    """Losses within 1e-6 over 20 steps of each stage, micro-batches included; the same validation; frozen is frozen."""
    start(*load_spec(long_spec, [f"train.output={tmp_path}/one"]))
    set_to, often = f"train.strategy={strategy}", "train.checkpoint_every=2"
    run_ranks(
        "spread_script.py", long_spec, tmp_path, f"own:{set_to}",
        f"again:{set_to},train.activation_checkpointing=true", f"half:{set_to},{often}", f"half-other:{set_to},{often}",
        timeout=PATIENCE,
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
                assert all(
                    json.loads(a)["loss"] == pytest.approx(json.loads(b)["loss"], rel=1e-6) for a, b in pairs
                )

    # what two processes left off, each with its rows, one goes on with, and so does another strategy
    names = sorted(p.name for p in max((tmp_path / "half" / "checkpoints").iterdir()).iterdir())
    assert {"llm-00001-of-00002.safetensors", "optimizer-00002-of-00002.safetensors"} <= set(names)
    start(*load_spec(long_spec, [f"train.output={tmp_path}/half", "train.checkpoint_every=2"]))
    other = {"zero2": "zero3", "zero3": "fsdp2"}[strategy]
    run_ranks(
        "spread_script.py",
        long_spec,
        tmp_path,
        f"half-other:train.strategy={other},{often}",
        timeout=PATIENCE,
    )
    for name in ("half", "half-other"):
        torch.testing.assert_close(losses(tmp_path / name), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("deepspeed_there")
def test_bf16_rounds_as_ddp_does(long_spec, tmp_path):
    """Frozen matrices held in bf16, autocast; ZeRO-3 takes products apart, which rounds in other places."""
    rest = "train.precision=bf16,train.evals=null,train.validation=null,train.evaluation=null"
    cases = [f"{name}:train.strategy={name},{rest}" for name in ("ddp", "zero2", "zero3")]
    run_ranks("spread_script.py", long_spec, tmp_path, *cases)
    wanted = losses(tmp_path / "ddp")
    assert torch.equal(losses(tmp_path / "zero2"), wanted)
    torch.testing.assert_close(losses(tmp_path / "zero3"), wanted, rtol=2e-4, atol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("deepspeed_there")
def test_averages_are_those_of_one_process(long_spec, tmp_path):
    rest = "train.stages.1.ema={decay: 0.9},train.evals=null,train.evaluation=null"
    start(*load_spec(long_spec, [f"train.output={tmp_path}/one", *rest.split(",")]))
    run_ranks("spread_script.py", long_spec, tmp_path, f"zero2:train.strategy=zero2,{rest}")
    for name in ("model", "model-average"):
        first, last = (weights(tmp_path / n, name) for n in ("one", "zero2"))
        assert {k for k in first if not torch.allclose(last[k], first[k], atol=1e-5)} == set(), name


@pytest.mark.slow
@pytest.mark.usefixtures("deepspeed_there")
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_one_process_is_enough_to_leave_a_step_out_on_all(strategy):
    """As `test_one_step` has it for DDP: only the second process sees a bad number."""
    first, second = (lines[-5:] for lines in run_ranks("ranks_script.py", strategy))
    alone = run_ranks("ranks_script.py")[0][-5:]
    assert first == second
    assert first[:4] == alone[:4]
    assert first[4].startswith("True ")
    assert float(first[4].split()[1]) == pytest.approx(float(alone[4].split()[1]), rel=1e-6)


def test_without_deepspeed_the_message_says_how_to_get_it(run_spec, monkeypatch):
    from vlm_train.distributed.deepspeed import imported

    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(
        UserError, match=r"zero2 and zero3 need DeepSpeed.*pip install 'vlm-train\[deepspeed\]'"
    ):
        imported("cpu")
    with pytest.raises(UserError, match=r"train\.strategy: zero2 needs several processes.*--nproc N"):
        start(*load_spec(run_spec(), ["train.strategy=zero2"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.stages.0.optimizer=adamw-8bit"], r"adamw-8bit can't be sharded.*zero3 divides"),
        (["train.stages.1.ema={decay: 0.9}"], r"ema would be whole.*set strategy: fsdp2"),
        (['train.stages.1.lora={targets: ["*.in_proj"]}'], r"lora can't be proved to learn under zero3"),
    ],
)
def test_what_zero_can_not_do_is_refused(run_spec, changes, message):
    with pytest.raises(UserError, match=message):
        start(*load_spec(run_spec(), ["train.strategy=zero3", *changes]))


@pytest.mark.parametrize(("strategy", "title"), [("zero2", "ZeRO-2"), ("zero3", "ZeRO-3")])
def test_a_plan_tells_what_each_process_would_hold(run_spec, strategy, title):
    """By the adviser's formulas; of the first stage's 2 784 weights, each of two has half of the moments."""
    spec, document = load_spec(run_spec(), [f"train.strategy={strategy}"])
    first, _ = found = plan(spec, train_section(spec, document), 2)
    assert [one.strategy for one in found] == [strategy] * 2
    assert first.memory.optimizer == 12 * 2784 / 2
    assert first.memory == advise(spec, on_meta(spec), Question(2)).stages[0].at_longest[title]
