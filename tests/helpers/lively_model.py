"""A tiny model whose answers depend on every token and image: those of random weights hardly do."""

import torch

from vlm_core.model_folder.assemble import build, save
from vlm_core.spec.spec import Spec


def make_lively(model):
    """Larger weights, in place -> the model."""
    with torch.no_grad():
        model.llm.backbone.norm_f.weight.mul_(30)
        for block in model.llm.backbone.layers:  # a long memory, and logits that differ
            block.mixer.A_log.sub_(3)
            block.mixer.x_proj.weight.mul_(10)
            block.mixer.out_proj.weight.mul_(3)
        for parameter in model.connector.parameters():
            parameter.mul_(3)
    return model


def save_lively(spec_data, folder):
    """Save a model of `tiny_spec` with larger weights -> its folder."""
    spec = Spec.model_validate(spec_data)
    save(make_lively(build(spec)), spec, folder)
    return folder
