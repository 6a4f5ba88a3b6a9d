"""A part at random values of which a run trains nothing is an error, or told where `frozen` asks for it."""

import pytest
from stages import stage

from vlm_core.spec.spec import Spec
from vlm_train.config.train import TrainConfig
from vlm_train.monitoring.weights_summary import facts, frozen_random


@pytest.mark.parametrize(
    ("patterns", "told"),
    [(["encoder.*"], True), (["encoder.model.*"], True), (["encoder.model.pos*"], False), ([], False)],
)
def test_patterns_that_freeze_a_whole_part(tiny_spec, tiny_model, patterns, told):
    spec = Spec.model_validate({**tiny_spec, "keep_random": None})
    train = TrainConfig(
        output="x", stages=[stage(trainable=["encoder", "connector", "llm"], lr=1.0, frozen=patterns)]
    )
    line = "encoder: its values are random, and `frozen` names all of its parameters: no stage trains it"
    assert frozen_random(spec, train, tiny_model) == ([line] if told else [])
    assert frozen_random(Spec.model_validate(tiny_spec), train, tiny_model) == []


def test_a_run_tells_its_sources(tiny_spec, tiny_model):
    lines = facts(Spec.model_validate(tiny_spec), tiny_model)
    assert "weights of encoder, timm vit_tiny_patch16_224: random values" in lines
    assert any(line.startswith("encoder: mean 0.5, 0.5, 0.5 (from ") for line in lines)
