"""Limits that follow from the model."""

import copy

from engine_cases import answered, chat, request

from vlm_serve.engine.request import Failed, Finished
from vlm_serve.engine.settings import EngineSettings


def test_no_more_positions_than_the_model_was_made_for(served, engine_of, caplog):
    """Beyond them a Transformer's answers mean nothing, without an error."""
    model = copy.deepcopy(served[0])
    assert EngineSettings().of_model(model) == EngineSettings()
    model.llm.max_positions = 40
    engine = engine_of(model)
    assert engine.facts().max_positions == 40
    assert "the model was made for 40 positions" in caplog.text
    assert EngineSettings(max_positions=30).of_model(model).max_positions == 30
    short, long = answered(engine, request(chat("red")), request(chat("red " * 40)))
    assert isinstance(short.last, Finished)
    assert isinstance(long.last, Failed)
    assert long.last.code == "context_length_exceeded"
