"""What `train.strategy` accepts, what it refuses, and what `reshard_after_forward` changes."""

import pytest
import torch

from vlm_core.diagnose.costs.training_memory import largest_block
from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.errors import UserError
from vlm_core.model import PARTS
from vlm_core.model_folder.weights import vector_names
from vlm_core.spec.spec import load_spec
from vlm_train.cli.plan import fake_process_group, plan
from vlm_train.config.section import train_section
from vlm_train.distributed import fsdp2
from vlm_train.distributed.fsdp2 import FSDP2Strategy


def section(path, *changes):
    spec, document = load_spec(path, list(changes))
    return spec, train_section(spec, document)


@pytest.mark.parametrize(
    ("strategy", "instead"),
    [
        ("zero1", "ddp, or fsdp2"),
        ("zero2", "fsdp2 and reshard_after_forward: false"),
        ("ZeRO-3", "fsdp2$"),
        ("deepspeed_zero_stage_2", "fsdp2 and reshard_after_forward: false"),
        ("deepspeed", "fsdp2$"),
    ],
)
def test_deepspeed_is_refused_with_what_to_take_instead(run_spec, strategy, instead):
    with pytest.raises(UserError, match=rf"means DeepSpeed, which is not supported: set strategy: {instead}"):
        section(run_spec(), f"train.strategy={strategy}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.strategy=megatron"], "possible: auto, ddp, fsdp2"),
        (["train.reshard_after_forward=false"], "belongs to strategy: fsdp2, not auto"),
        (
            ["train.strategy=fsdp2", "train.stages.0.optimizer=adamw-8bit"],
            r"adamw-8bit can't be sharded.*fsdp2 shards",
        ),
        (["train.strategy=fsdp2"], None),
        (["train.strategy=fsdp2", "train.reshard_after_forward=false"], None),
    ],
)
def test_values(run_spec, changes, message):
    if message is None:
        assert section(run_spec(), *changes)[1].reshard_after_forward is (len(changes) == 1)
        return
    with pytest.raises(UserError, match=message):
        section(run_spec(), *changes)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_plan_counts_gathered_weights(run_spec, precision):
    """Without resharding each process holds all matrices in the precision of computing, beside its shards."""
    changes = ["train.strategy=fsdp2", f"train.precision={precision}"]
    spec, _ = section(run_spec())
    resharded, gathered = (
        plan(*section(run_spec(), *changes, f"train.reshard_after_forward={value}"), 2)[1].memory
        for value in ("true", "false")
    )
    model, item = build_on_meta(spec), 4 if precision == "fp32" else 2
    vectors = vector_names(model)
    matrices = sum(p.numel() for name, p in model.named_parameters() if name not in vectors)
    units = 2 * max(largest_block(getattr(model, part)) for part in PARTS)
    assert gathered.weights - resharded.weights == (matrices - units) * item
    assert gathered.gradients == resharded.gradients
    assert gathered.optimizer == resharded.optimizer


@pytest.mark.parametrize(("reshard", "wanted"), [(True, None), (False, False)])
def test_every_unit_is_told(monkeypatch, reshard, wanted):
    """None reshards all units but the root."""
    values = []

    class Sharded(torch.nn.Module):
        """Stands for what FSDP2 makes of a module."""

    class Loss(Sharded):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Linear(2, 2, device="meta")

    monkeypatch.setattr(
        fsdp2, "fully_shard", lambda *_, **options: values.append(options["reshard_after_forward"])
    )
    monkeypatch.setattr(fsdp2, "FSDPModule", Sharded)
    with fake_process_group(2) as accelerator:
        FSDP2Strategy(accelerator, reshard_after_forward=reshard).wrap(Loss())
    assert values == [wanted]
