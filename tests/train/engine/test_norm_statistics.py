"""Running statistics: an encoder's are never trained, others by each row once, and what is frozen doesn't move."""

import json

import pytest
import torch
from ranks import run_ranks
from safetensors.torch import load_file
from statistics_script import Norm, Patches, Words, batch
from torch import nn

from vlm_core.errors import UserError
from vlm_core.model import VLM
from vlm_core.spec.spec import load_spec
from vlm_core.text.batch import empty_batch
from vlm_train.config.section import train_section
from vlm_train.config.train import Stage
from vlm_train.distributed.accelerator import accelerator_of
from vlm_train.engine.activation_checkpointing import recomputing
from vlm_train.engine.evaluator import resting
from vlm_train.engine.norm_statistics import NormStatistics
from vlm_train.engine.optimizer import freeze
from vlm_train.loss import SummedLoss
from vlm_train.run import start

CONVOLUTIONS = {"type": "timm", "model": "test_efficientnet", "image_size": 64}
ALL = ["encoder", "connector", "llm"]


@pytest.fixture(autouse=True)
def nothing_to_compile(monkeypatch):
    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")


def trained(run_spec, name, *overrides):
    """The encoder's tensors after a run that trains it."""
    path = run_spec(name, held_out_qa=None)
    given = [
        f"encoder={json.dumps(CONVOLUTIONS)}",
        f"train.stages.1.trainable={json.dumps(ALL)}",
        "train.stages.0.steps=1",
        "train.stages.1.steps=2",
    ]
    folder = start(*load_spec(path, [*given, *overrides]))[0]
    return load_file(folder.path / "model" / "encoder" / "weights.safetensors"), folder


@pytest.mark.slow
def test_an_encoder_learns_and_its_statistics_stay_recomputed_or_not(run_spec):
    plain, first = trained(run_spec, "plain")
    again, second = trained(run_spec, "again", "train.activation_checkpointing=true")
    frozen, _ = trained(run_spec, "frozen", 'train.stages.1.frozen=["encoder.*"]')
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert [m["loss"] for m in first.metrics()] == [m["loss"] for m in second.metrics()]
    moved = {name for name in plain if not torch.equal(plain[name], frozen[name])}
    assert moved
    assert not [name for name in moved if "running" in name or "num_batches" in name]
    counts = [int(tensor) for name, tensor in plain.items() if name.endswith("num_batches_tracked")]
    assert counts
    assert set(counts) == {0}


def test_frozen_layers_of_a_trained_part_drop_nothing(tiny_model):
    stage = Stage(
        name="s",
        trainable=ALL,
        data=[{"type": "llava", "path": "x"}],
        lr=1.0,
        batch_size=1,
        frozen=["llm.backbone.layers.0.*"],
    )
    for layer in tiny_model.llm.backbone.layers:
        layer.drop = nn.Dropout(0.9)
    freeze(tiny_model, stage)
    first, second = tiny_model.train().llm.backbone.layers
    assert not first.drop.training
    assert second.drop.training
    with pytest.raises(UserError, match="stage s: trainable: encoder has no parameters"):
        freeze(VLM(Patches(), tiny_model.connector, tiny_model.llm), stage)


def test_under_adapters_the_language_model_rests(tiny_model):
    pytest.importorskip("peft")
    from vlm_train.config.recipe import Lora
    from vlm_train.engine import lora

    tiny_model.llm.backbone.drop = nn.Dropout(0.9)
    settings = Lora(targets=["*.in_proj"], dropout=0.5)
    stage = Stage(
        name="s",
        trainable=["llm"],
        data=[{"type": "llava", "path": "x"}],
        lr=1.0,
        batch_size=1,
        lora=settings,
    )
    freeze(tiny_model, stage, lora.inject(tiny_model, settings, "s", 0).values())
    tiny_model.train()
    assert not tiny_model.llm.backbone.drop.training
    assert all(layer.lora_dropout["default"].training for layer in lora.layers(tiny_model).values())


def small():
    torch.manual_seed(0)
    model = VLM(Patches(), Norm(), Words()).train()
    return model, model.connector.norm


def test_only_a_rows_own_pass_counts():
    model, norm = small()
    loss = SummedLoss(model, always_sees=True)
    loss(batch(1, image=True)).backward()
    assert int(norm.num_batches_tracked) == 1
    for other in (batch(2, image=False), empty_batch()):
        loss(other).backward()
    with resting(model):
        loss(batch(3, image=True))
        norm.running_mean.add_(1)
    assert int(norm.num_batches_tracked) == 1
    assert norm.running_mean.abs().max() < 1
    before = NormStatistics(loss)
    loss(batch(4, image=True))
    before.put_back()
    assert int(norm.num_batches_tracked) == 1


def test_a_recomputed_layer_starts_from_the_same_buffers_and_keeps_nothing():
    class Counting(nn.Module):
        """Gives another result in each pass, by what it has counted."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x):
            self.passes += 1
            return self.linear(x) * self.passes.clone()

    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Sequential(Counting(), Counting())])
    x, grads = torch.randn(2, 3), []
    for passes in (1, 2):
        layers.zero_grad()
        with recomputing(layers):
            layers[0](x).square().sum().backward()
        assert [int(m.passes) for m in layers[0]] == [passes, passes]
        grads.append([p.grad.clone() for p in layers.parameters()])
    layers.zero_grad()
    for module in layers[0]:
        module.passes.fill_(1)
    layers[0](x).square().sum().backward()
    assert all(torch.allclose(a, p.grad) for a, p in zip(grads[1], layers.parameters(), strict=True))


@pytest.mark.slow
def test_processes_agree_and_what_differs_is_named():
    """The second has no image in one step, whose passes count for nothing there."""
    first, second = ([json.loads(line) for line in lines[-2:]] for lines in run_ranks("statistics_script.py"))
    assert first == second
    for told in first:
        assert [count for count, _ in told[:3]] == [2, 4, 6]
        assert told[3].startswith("connector.norm.running_var: not the same on the 2 processes")
    torch.testing.assert_close(torch.tensor(first[0][2][1]), torch.tensor(first[1][2][1]))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_MIXED_PRECISION", "fp8"),
        ("ACCELERATE_DYNAMO_BACKEND", "no"),
        ("ACCELERATE_USE_FSDP", "false"),
        ("FSDP_OFFLOAD_PARAMS", "true"),
    ],
)
def test_what_the_spec_says_accelerate_reads_nowhere_else(run_spec, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    accelerator = accelerator_of(train_section(*load_spec(run_spec())))
    assert accelerator.gradient_accumulation_steps == 1
    assert accelerator.mixed_precision == "no"
    assert accelerator.state.dynamo_plugin.backend.value == "NO"
    assert accelerator.distributed_type.value == "NO"


@pytest.mark.parametrize(
    "variable",
    [
        "ACCELERATE_USE_FSDP=true",
        "ACCELERATE_USE_DEEPSPEED=1",
        "ACCELERATE_DYNAMO_BACKEND=inductor",
        "ACCELERATE_TORCH_DEVICE=meta",
        "ACCELERATE_USE_MEGATRON_LM=yes",
    ],
)
def test_what_no_spec_says_is_refused_by_name(run_spec, monkeypatch, variable):
    monkeypatch.setenv(*variable.split("="))
    with pytest.raises(UserError, match=f"{variable} "):
        accelerator_of(train_section(*load_spec(run_spec())))
