"""What every route needs: the engine, the settings, and what the server counts and remembers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from starlette.requests import Request

from vlm_serve.api.errors import refused
from vlm_serve.api.guard.context import owner, request_id
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.api.metrics import Metrics
from vlm_serve.api.schema.sampling import seed_of
from vlm_serve.api.stored_responses import ResponseStore
from vlm_serve.engine.request import (
    ChatPrompt,
    Engine,
    GenerationRequest,
    ModelFacts,
    SamplingParams,
    TextPrompt,
)


@dataclass(frozen=True)
class Server:
    engine: Engine
    settings: ServerSettings
    metrics: Metrics
    responses: ResponseStore
    created: int = field(default_factory=lambda: int(time.time()))
    """When the server was started, in seconds since 1970."""

    def facts(self, model: str) -> ModelFacts:
        """The served model; raises `RequestError` if a request asks for another one."""
        facts = self.engine.facts()
        if model != facts.name:
            text = f"the model {model[:100]!r} does not exist; this server has {facts.name!r}"
            raise refused("model", text, code="model_not_found", status=404)
        return facts

    def requests(
        self, request: Request, prompts: Sequence[ChatPrompt | TextPrompt], params: SamplingParams, n: int
    ) -> list[GenerationRequest]:
        """`n` adjacent requests for each prompt, with seeds of their own."""
        name = request_id(request.scope)
        return [
            GenerationRequest(
                id=f"{name}-{i * n + j}",
                prompt=prompt,
                sampling=replace(params, seed=seed_of(params.seed, j)),
                owner=owner(request.scope),
            )
            for i, prompt in enumerate(prompts)
            for j in range(n)
        ]

    def check_limits(self, n: int, max_tokens: int | None, facts: ModelFacts, field_name: str) -> None:
        """Raise `RequestError` for more answers or tokens than the server allows."""
        if n > self.settings.max_choices:
            raise refused("n", f"expected at most {self.settings.max_choices}, got {n}")
        if max_tokens is not None and max_tokens > facts.max_positions:
            text = f"expected at most {facts.max_positions}, the positions of a prompt with its answer"
            raise refused(field_name, f"{text}, got {max_tokens}")


def server_of(request: Request) -> Server:
    return request.app.state.server


def fingerprint(facts: ModelFacts) -> str:
    """`system_fingerprint`: another one after the model's files have changed."""
    return f"fp_{facts.digest[:12]}"


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(12)}"
