"""What `train.strategy` accepts, what it refuses, and what `reshard_after_forward` changes."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from resume_helpers import go

from vlm_core.diagnose.costs.estimate import Assumptions, estimate_costs
from vlm_core.diagnose.costs.fit import misfits
from vlm_core.diagnose.costs.gpus import GPU, HEADROOM
from vlm_core.diagnose.costs.training_memory import largest_block
from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.errors import UserError
from vlm_core.model import PARTS
from vlm_core.model_folder.weights import vector_names
from vlm_core.spec.spec import load_spec
from vlm_core.units import size
from vlm_train.cli.plan import fake_process_group, lines, plan, warnings
from vlm_train.config.section import train_section
from vlm_train.distributed import fsdp2, select
from vlm_train.distributed.fsdp2 import FSDP2Strategy
from vlm_train.profiling import fit_warnings


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


class Cuda:
    """What a run asks of accelerate, for GPUs of so many bytes."""

    distributed_type, is_main_process, device = DistributedType.MULTI_GPU, True, torch.device("cuda", 0)

    def __init__(self, world, memory, monkeypatch):
        self.num_processes = world
        properties = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        monkeypatch.setattr(select, "gather_object", lambda mine: mine)


@pytest.mark.parametrize("world", [1, 2, 8])
def test_auto_shards_where_a_copy_takes_more_than_half_of_a_gpu(run_spec, monkeypatch, caplog, world):
    spec, train = section(run_spec())
    model = build_on_meta(spec)
    most = max(select.training_states(train, model, "DDP", world).values())
    caplog.set_level("INFO")
    for memory, wanted in ((2 * most, "ddp"), (2 * most - 2, "fsdp2" if world > 1 else "ddp")):
        strategy = select.strategy_of(train, Cuda(world, memory, monkeypatch), model)
        assert strategy.name == wanted
    assert ("strategy: auto is fsdp2: with ddp, weights" in caplog.text) is (world > 1)
    for text in ("ddp", "fsdp2")[:world]:
        _, train = section(run_spec(), f"train.strategy={text}")
        if world > 1:
            assert select.strategy_of(train, Cuda(world, most, monkeypatch), model).name == text


def test_a_stage_that_can_not_fit_is_a_warning_before_the_run(run_spec, monkeypatch, capsys):
    """The run goes on; a GPU's memory counts at 92 %, a CPU's free memory whole."""
    settings = [
        "train.max_length=64",
        "train.held_out_qa=null",
        "train.stages.0.steps=1",
        "train.stages.1.steps=1",
    ]
    spec, _ = section(run_spec(), *settings)
    estimate = estimate_costs(spec, build_on_meta(spec), Assumptions(1, device="cpu"), memory_only=True)
    align, instruct = (stage.at_longest["DDP"].total for stage in estimate.stages)
    assert align < instruct
    monkeypatch.setattr(fit_warnings, "free_ram", lambda: int((align + instruct) / 2))
    go(run_spec(), *settings)
    printed = "".join(capsys.readouterr())
    assert (
        f"stage instruct needs {size(instruct)} by the estimate (DDP, micro-batch of 4, samples of 64"
        in printed
    )
    assert (
        f"and this machine's CPU has {size((align + instruct) // 2)}; try activation_checkpointing: true"
        in printed
    )
    assert "stage align needs" not in printed
    monkeypatch.setattr(fit_warnings, "free_ram", lambda: int(instruct) + 1)
    go(run_spec("again"), *settings)
    assert "by the estimate" not in "".join(capsys.readouterr())
    gpu = SimpleNamespace(name="Small GPU", total_memory=int((align + instruct) / 2 / HEADROOM))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    limit = fit_warnings.capacity(torch.device("cuda"))
    assert [line.split()[1] for line in misfits(estimate, "DDP", limit)] == ["instruct"]


def test_a_plan_warns_of_the_gpu_or_of_this_machine(run_spec, monkeypatch):
    spec, train = section(run_spec(), "train.max_length=64")
    planned = plan(spec, train, 1)
    assert warnings(spec, train, planned, 1, GPU("large", 80, 1e14)) == []
    (align, instruct) = warnings(spec, train, planned, 1, GPU("none", 1e-6, 1e14))
    assert (align[:21], instruct[:23]) == ("warning: stage align ", "warning: stage instruct")
    assert "and none has 1.00 kB; try" in align
    monkeypatch.setattr(fit_warnings, "free_ram", lambda: 1000)
    assert "and this machine's CPU has 1.00 kB; try" in warnings(spec, train, planned, 1, None)[0]


def test_eight_bit_moments_are_never_sharded_by_auto(run_spec, monkeypatch):
    spec, train = section(run_spec(), "train.stages.1.optimizer=adamw-8bit")
    assert select.strategy_of(train, Cuda(2, 1000, monkeypatch), build_on_meta(spec)).name == "ddp"


def test_a_plan_of_auto_depends_on_the_gpu(run_spec):
    """A share of 3 samples of 12 positions: which divisor fits, and whether a copy does."""
    auto = [f"train.stages.{i}.micro_batch_size=auto" for i in (0, 1)]
    spec, train = section(run_spec(), *auto, "train.max_length=64")
    one = plan(spec, train, 2, GPU("large", 80, 1e14))
    assert [(p.micro_batch_size, p.strategy, p.fits, p.gpu) for p in one] == [(3, "ddp", "yes", "large")] * 2
    sample = one[1].memory.activations / 3
    states = one[1].memory.states
    small = plan(spec, train, 2, GPU("small", (states + 2.5 * sample) / 0.92e9, 1e14))[1]
    assert (small.micro_batch_size, small.fits) == (1, "yes")
    none = plan(spec, train, 2, GPU("none", (states + 0.5 * sample) / 0.92e9, 1e14))[1]
    assert (none.micro_batch_size, none.fits) == (None, "NO")
    assert "none fits" in lines([none], 2)[2]
    (align, instruct) = plan(spec, train, 2)
    assert align.gpu.startswith("RTX-3090, RTX-4090, A100-40G")
    assert align.gpu == instruct.gpu
    assert lines([align], 2)[1].endswith("GPU")
