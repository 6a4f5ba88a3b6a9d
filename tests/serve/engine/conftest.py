"""Engines on a tiny model."""

import pytest
from engine_cases import closed
from lively_model import make_lively

from vlm_core.model_folder.assemble import load
from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.settings import EngineSettings


@pytest.fixture(scope="session")
def served(tiny_folder):
    """(model, template), shared by engines: they never change it. Its answers depend on every token and image."""
    model, spec = load(tiny_folder)
    return make_lively(model), spec.template


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
