"""Schedules, groups, freezing, 8-bit states and averages, each against its definition."""

import math
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from stages import stage

from vlm_core.errors import UserError
from vlm_core.model_folder.assemble import load
from vlm_core.spec.spec import load_spec
from vlm_train.checkpoint import optimizer_state, sharded_safetensors
from vlm_train.engine import optimizer as optim
from vlm_train.engine.ema import Average
from vlm_train.engine.lr_schedule import scale
from vlm_train.monitoring.run_messages import parameter_groups
from vlm_train.run import start


def test_warmup_then_cosine():
    rates = [scale(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5, abs=0.01)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.001
    assert [scale(s, 4, 0.0) for s in (0, 2)] == pytest.approx([1.0, 0.5])
    assert math.isfinite(scale(0, 1, 0.03))


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        ("linear", {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.5, 99: 1 / 90}),
        ("constant", {0: 0.1, 9: 1.0, 55: 1.0, 99: 1.0}),
        ("wsd", {0: 0.1, 9: 1.0, 55: 1.0, 80: 1.0, 90: 0.5, 99: 0.05}),
    ],
)
def test_schedules(schedule, at):
    assert {s: scale(s, 100, 0.1, schedule, 0.2) for s in at} == pytest.approx(at)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_a_floor_lifts_the_end_and_keeps_the_peak(schedule):
    rates = [scale(s, 50, 0.1, schedule, 0.5, 0.25) for s in range(50)]
    plain = [scale(s, 50, 0.1, schedule, 0.5) for s in range(50)]
    assert max(rates) == 1.0
    assert rates[5:] == pytest.approx([0.25 + 0.75 * x for x in plain[5:]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay_ratio": 0.2}, "decay_ratio belongs to schedule: wsd, not cosine"),
        ({"schedule": "constant", "min_lr_ratio": 0.1}, "schedule: constant has no decay"),
        ({"schedule": "wsd", "warmup_ratio": 0.5, "decay_ratio": 0.6}, "more than all steps"),
        ({"weight_decay": {"llm": 0.1}}, r"weight_decay names \['llm'\], but this stage trains"),
        ({"groups": [{"match": "*"}]}, "a group gives lr, weight_decay or both"),
        ({"trainable": ["connector"], "lr": 1.0, "lora": {"targets": ["*"]}}, "add llm to trainable"),
        ({"lora": {"targets": ["*"]}, "ema": {}}, "set ema.use: result"),
    ],
)
def test_recipes_that_contradict_themselves(changes, message):
    with pytest.raises(ValidationError, match=message):
        stage(**changes)


def settings(model, made):
    names = {p: n for n, p in model.named_parameters()}
    return {names[p]: (g["lr"], g["weight_decay"]) for g in made.param_groups for p in g["params"]}


def groups(model, made):
    optim.freeze(model, made)
    return optim.parameter_groups(model, made)


def test_groups_carry_rates_and_spare_what_must_not_decay(tiny_model):
    found = settings(tiny_model, optim.optimizer(groups(tiny_model, stage())))
    assert not any(name.startswith("encoder") for name in found)
    layer = "llm.backbone.layers.0.mixer."
    assert found[layer + "in_proj.weight"] == (1e-5, 0.1)
    for name in ("A_log", "D", "dt_proj.bias", "conv1d.bias"):
        assert found[layer + name] == (1e-5, 0.0), name
    assert found["connector.project.weight"] == (1e-3, 0.1)
    assert found["connector.norm.weight"] == (1e-3, 0.0)
    assert not optim.decays(tiny_model.llm.backbone.layers[0].mixer.A_log)


def test_the_first_pattern_that_fits_counts_and_the_rest_stays_with_its_part(tiny_model):
    made = stage(
        weight_decay={"connector": 0.2, "llm": 0.1},
        groups=[
            {"match": "*.embedding.*", "lr": 5e-6, "weight_decay": 0.0},
            {"match": "llm.*.mixer.*", "weight_decay": 0.3},
            {"match": "llm.*", "lr": 2e-5},
        ],
    )
    found = groups(tiny_model, made)
    values = settings(tiny_model, optim.optimizer(found))
    assert values["llm.backbone.embedding.weight"] == (5e-6, 0.0)
    assert values["llm.backbone.layers.1.mixer.in_proj.weight"] == (1e-5, 0.3)
    assert values["llm.backbone.layers.1.mixer.A_log"] == (1e-5, 0.0)
    assert values["llm.backbone.norm_f.weight"] == (2e-5, 0.0)
    assert values["connector.project.weight"] == (1e-3, 0.2)
    listed = [id(p) for g in found for p in g.parameters.values()]
    assert len(listed) == len(set(listed)) == sum(p.requires_grad for p in tiny_model.parameters())

    rows = [line.split() for line in parameter_groups(found)]
    assert ["*.embedding.*", "1", "4,864", "5e-06", "0"] in rows
    assert ["llm.*.mixer.*", "8", "448", "1e-05", "exempt"] in rows
    counts = sum(int(row[2].replace(",", "")) for row in rows[1:])
    assert counts == sum(p.numel() for p in tiny_model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"frozen": ["llm.backbone.embeding.weight"]},
            "frozen: .* the nearest are llm.backbone.embedding.weight",
        ),
        ({"frozen": ["encoder.*"]}, "'encoder.*' matches no trained parameter"),
        ({"groups": [{"match": "*.inproj.*", "lr": 1.0}]}, "groups.0: .*matches no trained parameter"),
        ({"groups": [{"match": "llm.*", "lr": 1.0}, {"match": "*A_log", "lr": 1.0}]}, "groups.1: earlier"),
        ({"frozen": ["*"]}, "frozen leaves nothing to train"),
    ],
)
def test_patterns_that_fit_nothing_name_the_nearest(tiny_model, changes, message):
    with pytest.raises(UserError, match=message):
        groups(
            tiny_model, stage(**changes, **({"trainable": ["llm"], "lr": 1.0} if "groups" in changes else {}))
        )


def test_freezing(tiny_model):
    optim.freeze(tiny_model, stage(frozen=["*.norm.*", "llm.backbone.embedding.*"]))
    for name, parameter in tiny_model.named_parameters():
        still = name.startswith("encoder") or ".norm." in name or "embedding" in name
        assert parameter.requires_grad is not still, name
    assert not tiny_model.encoder.training
    assert tiny_model.connector.training


def test_the_average_is_its_recurrence():
    p = torch.nn.Parameter(torch.zeros(3))
    average = Average({"p": p}, 0.5)
    wanted = torch.zeros(3)
    for n in range(8):
        with torch.no_grad():
            p.add_(n + 1)
        average.update()
        d = min(0.5, (1 + n) / (10 + n))
        wanted = d * wanted + (1 - d) * p.detach()
    torch.testing.assert_close(average.average["p"], wanted)
    before = p.detach().clone()
    with average.weights_averaged():
        torch.testing.assert_close(p.detach(), wanted)
    assert torch.equal(p.detach(), before)


def stored(folder, name="model"):
    parts = ("encoder", "connector", "llm")
    return {
        f"{part}.{k}": v
        for part in parts
        for k, v in load_file(folder.path / name / part / "weights.safetensors").items()
    }


EVERYTHING = [
    "train.stages.0.ema={decay: 0.6, use: result}",
    "train.stages.1.ema={decay: 0.9}",
    "train.stages.1.schedule=wsd",
    "train.stages.1.frozen=['*.norm.*']",
    "train.stages.1.groups=[{match: '*.embedding.*', lr: 1.0e-4}]",
]


def test_averages_are_evaluated_saved_and_resumed_exactly(run_spec, killed_at):
    whole, results = start(*load_spec(run_spec("whole"), EVERYTHING))
    assert [name for name, _ in results][:3] == ["after align", "after instruct", "after instruct, average"]
    plain, average = stored(whole), stored(whole, "model-average")
    name = "llm.backbone.layers.0.mixer.in_proj.weight"
    assert not torch.equal(plain[name], average[name])
    assert torch.equal(plain["connector.norm.weight"], average["connector.norm.weight"])
    load(whole.path / "model-average")
    last = load_file(max((whole.path / "checkpoints").iterdir()) / "extras.safetensors")
    assert torch.equal(last["ema|" + name], average[name])

    killed_at(1, 5)
    with pytest.raises(KeyboardInterrupt):
        start(*load_spec(run_spec("part"), EVERYTHING))
    part, _ = start(*load_spec(run_spec("part"), EVERYTHING))
    for folder in ("model", "model-average"):
        found, wanted = stored(part, folder), stored(whole, folder)
        assert all(torch.equal(found[k], wanted[k]) for k in wanted)


def test_eight_bit_states_are_small_and_resume_exactly(tmp_path, tiny_model):
    """Moments of one byte; saved, loaded and continued they give the same weights as without a stop."""
    pytest.importorskip("bitsandbytes")
    layer = torch.nn.Linear(96, 96)
    tiny_model.connector.project = layer

    def step(optimizer, seed):
        torch.manual_seed(seed)
        layer.weight.grad = torch.randn_like(layer.weight)
        optimizer.step()

    made = stage(trainable=["connector"], lr=1e-2, optimizer="adamw-8bit")
    first = optim.optimizer(groups(tiny_model, made), "adamw-8bit")
    step(first, 1)
    assert first.state[layer.weight]["state1"].dtype == torch.uint8
    sharded_safetensors.write(tmp_path, "optimizer", optimizer_state.named_state(tiny_model, first), 0, 1)
    start_ = layer.weight.detach().clone()
    step(first, 2)
    wanted = layer.weight.detach().clone()
    layer.weight.data.copy_(start_)
    second = optim.optimizer(groups(tiny_model, made), "adamw-8bit")
    optimizer_state.restore(
        tiny_model, second, sharded_safetensors.ShardedTensorReader(tmp_path, "optimizer")
    )
    step(second, 2)
    assert torch.equal(layer.weight, wanted)


def test_eight_bit_without_its_library_says_what_to_install(tiny_model, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes.optim.adamw", None)
    with pytest.raises(UserError, match=r"needs bitsandbytes.*pip install 'vlm-train\[8bit\]'"):
        optim.optimizer(groups(tiny_model, stage()), "adamw-8bit")
