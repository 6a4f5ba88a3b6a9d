"""Memory by the estimate beside memory as measured on real steps."""

import json
import subprocess
import sys

import pytest
import torch
import yaml

from vlm_core.diagnose.costs.component_costs import ComponentCosts
from vlm_core.diagnose.costs.trace import SavedTensors
from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.model_folder.assemble import build
from vlm_core.spec.spec import Spec
from vlm_ssm.backends import forced
from vlm_train.config.train import TrainConfig
from vlm_train.engine.activation_checkpointing import recomputing
from vlm_train.loss import SummedLoss
from vlm_train.micro_batch.longest_batch import assumed_batch

BOUND = 0.15
"""Largest relative difference of peaks: temporary tensors of one layer are not counted."""
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
estimate = estimate_costs(spec, build_on_meta(spec), Assumptions(text=508, device="cpu"), memory_only=True)
profiles = stage_profiles.profile_stages(spec, train_section(spec, document), MeasureOptions(1, 508))
print(json.dumps([[s.memory["DDP"].total, p.peak_memory] for s, p in zip(estimate.stages, profiles)]))
"""


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
    out = subprocess.run(words, capture_output=True, text=True, check=True, timeout=600).stdout
    (small, small_peak), (large, large_peak) = json.loads(out.splitlines()[-1])
    assert large - small > 100e6, "far more than noise"
    assert large_peak - small_peak == pytest.approx(large - small, rel=BOUND)


def activations(tiny_spec, layers, length, *, checkpointing):
    """By the estimate, of three samples in a stage of connector and language model."""
    spec = Spec.model_validate({**tiny_spec, "llm": {**tiny_spec["llm"], "n_layer": layers}})
    costs = ComponentCosts(build_on_meta(spec), "numba", checkpointing=checkpointing)
    found = costs.of_stage(("connector", "llm"), 3, length, backward=False)
    assert (found["llm"].recomputed > 0) is checkpointing
    return sum(cost.activations for cost in found.values())


def test_checkpointed_layers_keep_their_inputs_and_one_layer_the_rest(tiny_spec):
    """Against what autograd keeps between forward and backward with activation checkpointing: within 2 %."""
    model = build(Spec.model_validate(tiny_spec), weights=False)
    model.encoder.requires_grad_(False)
    batch = assumed_batch(model, TrainConfig.model_construct(max_length=100), 3, 40)
    kept = SavedTensors({p.untyped_storage()._cdata for p in model.parameters()})
    hooks = torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor)
    with forced("numba"), recomputing(model), hooks:
        loss = SummedLoss(model)(batch)
    del loss
    two, three = (
        [activations(tiny_spec, n, batch.input_ids.shape[1], checkpointing=on) for on in (False, True)]
        for n in (2, 3)
    )
    layer, its_inputs = three[0] - two[0], three[1] - two[1]
    assert two[1] < two[0]
    assert two[1] == pytest.approx(kept.bytes() + layer - its_inputs, rel=0.02)
