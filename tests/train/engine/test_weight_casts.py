"""bf16 copies of fp32 weights: one a step, not one a micro-batch, and not a bit of difference."""

from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from ranks import run_ranks
from torch.utils._python_dispatch import TorchDispatchMode

from vlm_core.text.batch import collate
from vlm_core.text.render import TokenizedConversation
from vlm_ssm.backends import forced
from vlm_ssm.fused import compute_dtype
from vlm_train.distributed.base import DDPStrategy
from vlm_train.engine.activation_checkpointing import recomputing
from vlm_train.engine.train_step import take_step
from vlm_train.loss import SummedLoss, target_count


class WeightCasts(TorchDispatchMode):
    """Counts, by the address of a matrix, how often it is cast to bf16; kernels cast vectors themselves."""

    def __init__(self, module):
        super().__init__()
        self.counts = {p.data_ptr(): 0 for p in module.parameters() if p.ndim == 2}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and out.dtype == torch.bfloat16:
            address = args[0].data_ptr()
            self.counts |= {address: self.counts[address] + 1} if address in self.counts else {}
        return out


def micro_batches(model, count, step):
    """Micro-batches of an image and text; every second one has text alone."""
    tokens, generator = model.image_tokens_by_default, torch.Generator().manual_seed(step)
    batches = []
    for i in range(count):
        ids = torch.randint(5, 60, (8,), generator=generator).tolist()
        image = 0 if i % 2 else tokens
        sample = TokenizedConversation(
            [0] * image + ids, [True] * image + [False] * 8, [False] * (image + 4) + [True] * 4
        )
        images = [torch.rand(3, *model.encoder.image_size, generator=generator)] if image else []
        batches.append(collate([sample], images))
    return batches


def trained(model, accumulation, *, once, recompute=False):
    """Outcomes, weights, and casts by weight of two optimizer steps."""
    strategy = DDPStrategy(Accelerator(cpu=True, mixed_precision="bf16"))
    if not once:
        strategy.weights_cast_once = nullcontext
    model.train().requires_grad_(True)
    outcomes, casts = [], []
    with recomputing(model) if recompute else nullcontext():
        module = strategy.wrap(SummedLoss(model))
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
        for step in range(2):
            batches = micro_batches(model, accumulation, step)
            targets = sum(target_count(batch) for batch in batches)
            with WeightCasts(model) as seen:
                outcomes.append(take_step(strategy, module, optimizer, batches, 1.0, targets))
            casts.append(seen.counts)
    return outcomes, [p.detach().clone() for p in model.parameters()], casts


@pytest.fixture
def fresh(tiny_spec):
    """`fresh()` builds the same model each time."""
    from vlm_core.model_folder.assemble import build
    from vlm_core.spec.spec import Spec

    return lambda: build(Spec.model_validate(tiny_spec))


@pytest.mark.parametrize(("accumulation", "recompute"), [(1, False), (2, False), (4, False), (3, True)])
def test_a_weight_is_cast_once_a_step(fresh, accumulation, recompute):
    """By torch's operations, which autocast casts weights for."""
    with forced("torch"):
        outcomes, weights, casts = trained(fresh(), accumulation, once=False, recompute=recompute)
        own_outcomes, own_weights, own_casts = trained(fresh(), accumulation, once=True, recompute=recompute)
    assert own_outcomes == outcomes
    assert all(outcome.changed for outcome in outcomes)
    assert all(torch.equal(a, b) for a, b in zip(own_weights, weights, strict=True))
    if accumulation > 1 or not recompute:
        assert all(set(counts.values()) <= {0, 1} for counts in own_casts), "in the second step again, once"
    assert max(casts[0].values()) >= accumulation, "the mode sees every cast"
    cast = [sum(counts.values()) for counts in own_casts]
    assert cast[0] == cast[1] >= 10
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("recompute", [False, True])
def test_fused_layers_cast_a_weight_once_a_step(fresh, recompute, monkeypatch):
    """They get their matrices through `cast_weight`, which autocast doesn't reach."""
    copies = {}

    def recorded(weight, dtype, cast=compute_dtype.cast):  # pyright: ignore[reportPrivateImportUsage]
        copy = cast(weight, dtype)
        copies.setdefault((weight.data_ptr(), weight._version), {})[id(copy)] = copy
        return copy

    monkeypatch.setattr(compute_dtype, "cast", recorded)
    ends = []
    for once in (False, True):
        copies.clear()
        ends.append(trained(fresh(), 3, once=once, recompute=recompute))
        most = max(map(len, copies.values()))
        assert most == 1 if once else most >= 4, "forward and backward of each micro-batch that it is in"
    (outcomes, weights, _), (own_outcomes, own_weights, _) = ends
    assert own_outcomes == outcomes
    assert all(torch.equal(a, b) for a, b in zip(own_weights, weights, strict=True))


def test_an_error_leaves_no_cache_behind(fresh, monkeypatch):
    model = fresh().train().requires_grad_(True)
    strategy = DDPStrategy(Accelerator(cpu=True, mixed_precision="bf16"))
    module = strategy.wrap(SummedLoss(model))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    batches = micro_batches(model, 3, 0)
    calls = []

    def backward(module, loss):
        calls.append(loss)
        if len(calls) == 2:
            raise ValueError("stop")
        loss.backward()

    monkeypatch.setattr(strategy, "backward", backward)
    with pytest.raises(ValueError, match="stop"):
        take_step(strategy, module, optimizer, batches, 1.0, 12)
    assert torch.autocast_increment_nesting() == 1, "outside of all autocast regions, which cleared its cache"
    assert torch.autocast_decrement_nesting() == 0
    layer = torch.nn.Linear(3, 3)
    with torch.autocast("cpu", torch.bfloat16), WeightCasts(layer) as seen:
        layer(torch.ones(1, 3))
    with torch.autocast("cpu", torch.bfloat16), seen:
        layer(torch.ones(1, 3))
    assert seen.counts[layer.weight.data_ptr()] == 2


def test_fp32_enters_no_autocast_region():
    strategy = DDPStrategy(Accelerator(cpu=True, mixed_precision="no"))
    assert isinstance(strategy.weights_cast_once(), nullcontext)


@pytest.mark.slow
def test_two_processes_with_ddp_agree_to_the_bit_with_casts_in_each_micro_batch():
    """DDP's hooks are on the fp32 weights, whose casts the micro-batches share."""
    first, second = (lines[-1:] for lines in run_ranks("casts_script.py"))
    assert first == second
    assert first[0].startswith("equal True casts 1 ")
