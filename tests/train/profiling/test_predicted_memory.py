"""Memory by the estimate beside memory as measured on real steps."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
import yaml
from torch.utils._pytree import tree_leaves

from vlm_core.diagnose.costs.component_costs import ComponentCosts
from vlm_core.diagnose.costs.trace import SavedTensors
from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.model_folder.assemble import build
from vlm_core.numerics.layers import transformer_layers
from vlm_core.spec.spec import Spec
from vlm_ssm.backends import forced
from vlm_train.config.train import TrainConfig
from vlm_train.engine.activation_checkpointing import recomputing
from vlm_train.loss import SummedLoss
from vlm_train.micro_batch.longest_batch import assumed_batch

BOUND = 0.1
"""Largest relative difference of peaks: temporary tensors of one layer are not counted."""
EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Each tensor is a mapping of its own, so that freed blocks, which glibc keeps, do not count."""
SCRIPT = """
import json, sys
from vlm_core.diagnose.costs.estimate import Assumptions, estimate_costs
from vlm_core.diagnose.costs.measured_steps import MeasureOptions
from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.spec.spec import load_spec
from vlm_train.config.section import train_section
from vlm_train.profiling import stage_profiles
spec, document = load_spec(sys.argv[1])
stage_profiles.SECONDS = 0.0
estimate = estimate_costs(spec, build_on_meta(spec), Assumptions(text=508, device="cpu"))
profiles = stage_profiles.profile_stages(spec, train_section(spec, document), MeasureOptions(1, 508))
print(json.dumps([[s.memory["DDP"].total, p.peak_memory] for s, p in zip(estimate.stages, profiles)]))
"""


@pytest.mark.slow
def test_the_peak_of_a_process_grows_as_predicted(tiny_spec, tmp_path):
    """From a batch of 2 to one of 10, so that what a process needs besides does not count."""
    stage = {"trainable": ["llm"], "lr": 1e-3, "data": [{"type": "llava", "path": "none.json"}], "steps": 9}
    stages = [{"name": f"batch{size}", "batch_size": size, **stage} for size in (2, 10)]
    llm = {**tiny_spec["llm"], "d_model": 64, "n_layer": 12}
    path = tmp_path / "spec.yaml"
    train = {"output": str(tmp_path / "run"), "stages": stages}
    path.write_text(
        yaml.safe_dump({**tiny_spec, "llm": llm, "keep_random": ["encoder", "llm"], "train": train})
    )
    words = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(path)]
    environment = {**os.environ, **EXACT}
    out = subprocess.run(
        words, capture_output=True, text=True, check=True, timeout=600, env=environment
    ).stdout
    (small, small_peak), (large, large_peak) = json.loads(out.splitlines()[-1])
    assert large - small > 100e6, "far more than noise"
    assert large_peak - small_peak == pytest.approx(large - small, rel=BOUND)


def identity(tensor):
    return tensor


def keep_layers(layers, weights):
    """Wrap the layers so that what each keeps for its backward, besides its inputs, is in the result after a pass."""
    kept = [SavedTensors(weights) for _ in layers]
    sizes = []

    def call(own, forward, *args, **kwargs):
        with torch.autograd.graph.saved_tensors_hooks(own.pack, identity):
            out = forward(*args, **kwargs)
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        sizes.append(own.bytes(own.storages.keys() - {t.untyped_storage()._cdata for t in tensors}))
        return out

    for layer, own in zip(layers, kept, strict=True):
        layer.forward = partial(call, own, layer.forward)
    return sizes


def test_checkpointed_layers_keep_their_inputs_and_one_layer_the_rest(tiny_spec):
    """Against what autograd keeps between the passes with activation checkpointing, and in a layer without it."""
    spec = Spec.model_validate(tiny_spec)
    model = build(spec, weights=False)
    model.encoder.requires_grad_(False)
    batch = assumed_batch(model, TrainConfig.model_construct(max_length=100), 3, 40)
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept = SavedTensors(weights)
    with forced("numba"):
        with recomputing(model), torch.autograd.graph.saved_tensors_hooks(kept.pack, identity):
            first = SummedLoss(model)(batch)
        sizes = keep_layers(transformer_layers(model.llm), weights)
        second = SummedLoss(model)(batch)
    assert torch.equal(first, second)
    costs = ComponentCosts(build_on_meta(spec), "numba", checkpointing=True)
    found = costs.of_stage(("connector", "llm"), 3, batch.input_ids.shape[1], backward=False)
    assert found["llm"].recomputed > 0
    told = sum(cost.activations for cost in found.values())
    assert told == pytest.approx(kept.bytes() + max(sizes), rel=0.02)
