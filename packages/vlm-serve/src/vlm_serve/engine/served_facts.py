"""What an engine tells of its model."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from vlm_core.errors import UserError
from vlm_core.io import digests
from vlm_core.model import VLM
from vlm_core.states.manifest import ModelFacts as StateFacts
from vlm_core.text.messages import Message
from vlm_core.text.render import render
from vlm_core.text.template import AnyTemplate
from vlm_serve.engine.request import ModelFacts


def served_facts(model: VLM, template: AnyTemplate, name: str, max_positions: int) -> ModelFacts:
    state = StateFacts.of(model, template)
    return ModelFacts(
        name=name,
        digest=digests.of(state.model_dump(mode="json")),
        max_positions=max_positions,
        images=True,
        videos=_reads_videos(),
        system=_takes_system(model, template),
    )


def _reads_videos() -> bool:
    return find_spec("av") is not None


def _takes_system(model: VLM, template: AnyTemplate) -> bool:
    question: Any = [Message("user", ("a",))]
    try:
        render(template, question, model.llm.tokenizer, system="b")
    except UserError:
        return False
    return True
