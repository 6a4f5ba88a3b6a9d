"""Engines on a tiny model."""

import pytest
import torch
from engine_cases import closed

from vlm_core.model_folder.assemble import load
from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.settings import EngineSettings


@pytest.fixture(scope="session")
def served(tiny_folder):
    """(model, template), shared by engines: they never change it. Its answers depend on every token and image."""
    model, spec = load(tiny_folder)
    with torch.no_grad():
        model.llm.backbone.norm_f.weight.mul_(30)
        for block in model.llm.backbone.layers:  # a long memory, and logits that differ
            block.mixer.A_log.sub_(3)
            block.mixer.x_proj.weight.mul_(10)
            block.mixer.out_proj.weight.mul_(3)
        for parameter in model.connector.parameters():
            parameter.mul_(3)
    return model, spec.template


@pytest.fixture
def engine_of(served):
    """`engine_of(**settings)` starts an engine, which is closed after the test."""
    engines = []

    def start(model=None, template=None, **settings):
        engine = LocalEngine(model or served[0], template or served[1], EngineSettings(**settings))
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        closed(engine)
