"""Small random models of transformers, as they are and accelerated, and batches for them."""

import copy

import torch
from transformers import FalconMambaConfig, FalconMambaForCausalLM, MambaConfig, MambaForCausalLM

import vlm_ssm

SIZES = {"vocab_size": 53, "hidden_size": 24, "state_size": 8, "num_hidden_layers": 3, "time_step_rank": 3}
KINDS = {"mamba": (MambaConfig, MambaForCausalLM), "falcon": (FalconMambaConfig, FalconMambaForCausalLM)}
TOKENS = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": 52}


def pair(kind="mamba", dtype=torch.float32, **options):
    """The same random model twice: transformers' own, and accelerated."""
    torch.manual_seed(0)
    config, model = KINDS[kind]
    theirs = model(config(**SIZES, **options))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith(("A_log", ".D", "bias", "dt_proj.weight")):
                parameter += 0.3 * torch.randn_like(parameter)
            elif "norm" not in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    theirs = theirs.to(dtype).eval()
    ours = copy.deepcopy(theirs)
    assert vlm_ssm.accelerate(ours) is ours
    return ours, theirs


def padded(batch=3, length=9):
    """Ids and a mask with padding on the left."""
    ids, mask = torch.randint(1, 52, (batch, length)), torch.ones(batch, length, dtype=torch.long)
    for row in range(batch):
        mask[row, :row], ids[row, :row] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def accelerated(model):
    """Number of its layers that vlm_ssm computes."""
    return sum("vlm_ssm" in module.extra_repr() for module in model.modules())


def near(x, y, limit):
    assert (x.double() - y.double()).norm() <= limit * y.double().norm()
