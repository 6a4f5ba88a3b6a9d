"""`POST /v1/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from vlm_serve.api.answers.logprobs import text_logprobs
from vlm_serve.api.answers.response import AnswerResponse
from vlm_serve.api.answers.running import RunningAnswers
from vlm_serve.api.errors import refused
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.schema.completions import CompletionBody
from vlm_serve.api.schema.strict import parsed
from vlm_serve.api.server import fingerprint, new_id, server_of
from vlm_serve.api.transport.body import read_json
from vlm_serve.api.transport.sse import DONE, event
from vlm_serve.engine.request import Event, Finished, ModelFacts, Piece, TokenLogprob


async def create(request: Request) -> Response:
    body = parsed(CompletionBody, await read_json(request))
    server = server_of(request)
    facts, params, n = server.facts(body.model), body.params(), body.n or 1
    server.check_limits(n, body.max_tokens, facts, "max_tokens")
    prompts = body.prompts()
    if len(prompts) > server.settings.max_choices:
        text = f"expected at most {server.settings.max_choices} prompts, got {len(prompts)}"
        raise refused("prompt", text, code="invalid_value")
    requests = server.requests(request, prompts, params, n)
    running = RunningAnswers(server.engine, requests, server.metrics, per_prompt=n)
    return AnswerResponse(running, _CompletionShape.of(facts, body), stream=bool(body.stream))


@dataclass(frozen=True)
class _CompletionShape:
    """What all objects of one completion have in common, and the objects themselves."""

    id: str
    created: int
    model: str
    fingerprint: str
    logprobs: bool
    usage: bool
    """Whether a stream ends with the usage."""
    offsets: dict[int, int] = field(default_factory=dict)
    """Where the next token of each answer of a stream begins in its text."""

    @classmethod
    def of(cls, facts: ModelFacts, body: CompletionBody) -> _CompletionShape:
        return cls(
            id=new_id("cmpl-"),
            created=int(time.time()),
            model=facts.name,
            fingerprint=fingerprint(facts),
            logprobs=body.logprobs is not None,
            usage=bool(body.stream_options and body.stream_options.include_usage),
        )

    def _object(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **more,
        }

    def whole(self, running: RunningAnswers) -> dict[str, Any]:
        choices = [
            self._choice(i, answer.text, answer.logprobs, answer.finish_reason)
            for i, answer in enumerate(running.answers)
        ]
        return self._object(choices, usage=running.usage.completion_usage())

    async def events(self, running: RunningAnswers) -> AsyncGenerator[bytes, None]:
        null_usage = {"usage": None} if self.usage else {}
        try:
            async with aclosing(running.events()) as events:
                async for number, each in events:
                    if (choice := self._changed(number, each)) is not None:
                        yield event(self._object([choice], **null_usage))
            if self.usage:
                yield event(self._object([], usage=running.usage.completion_usage()))
            yield DONE
        except RequestError as error:
            yield event(error.body())

    def _changed(self, number: int, each: Event) -> dict[str, Any] | None:
        if isinstance(each, Finished):
            return self._choice(number, "", (), each.reason)
        if isinstance(each, Piece) and (each.text or (self.logprobs and each.logprobs)):
            choice = self._choice(number, each.text, each.logprobs, None)
            self.offsets[number] = self.offsets.get(number, 0) + sum(len(t.token) for t in each.logprobs)
            return choice
        return None

    def _choice(
        self,
        number: int,
        text: str,
        tokens: list[TokenLogprob] | tuple[TokenLogprob, ...],
        reason: str | None,
    ) -> dict[str, Any]:
        logprobs = text_logprobs(tokens, self.offsets.get(number, 0)) if self.logprobs and tokens else None
        return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}
