"""`POST /v1/completions`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from vlm_serve.api.answers.answer import Answer
from vlm_serve.api.answers.completion_object import CompletionShape
from vlm_serve.api.answers.logprobs import TextLogprobs
from vlm_serve.api.answers.response import AnswerResponse
from vlm_serve.api.answers.running import RunningAnswers
from vlm_serve.api.errors import refused
from vlm_serve.api.schema.completions import CompletionBody
from vlm_serve.api.schema.strict import parsed
from vlm_serve.api.server import server_of
from vlm_serve.api.transport.body import read_json
from vlm_serve.engine.request import ModelFacts, Piece, TokenLogprob


async def create(request: Request) -> Response:
    body = parsed(CompletionBody, await read_json(request))
    server = server_of(request)
    facts, params, n = server.facts(body.model), body.params(), body.n or 1
    server.check_limits(n, body.max_tokens, facts, "max_tokens")
    prompts = body.prompts()
    if len(prompts) > server.settings.max_choices:
        text = f"expected at most {server.settings.max_choices} prompts, got {len(prompts)}"
        raise refused("prompt", text)
    requests = server.requests(request, prompts, params, n)
    running = RunningAnswers(
        server.engine, requests, server.metrics, per_prompt=n, fields={"prompt": "prompt"}
    )
    usage = bool(body.stream_options and body.stream_options.include_usage)
    shape = _TextShape(facts, logprobs=body.logprobs is not None, usage=usage)
    return AnswerResponse(running, shape, stream=bool(body.stream))


class _TextShape(CompletionShape):
    prefix, kind, chunk_kind = "cmpl-", "text_completion", "text_completion"

    def __init__(self, facts: ModelFacts, *, logprobs: bool, usage: bool) -> None:
        super().__init__(facts, logprobs=logprobs, usage=usage)
        self._logprobs = defaultdict[int, TextLogprobs](TextLogprobs)

    def choice(self, number: int, answer: Answer) -> dict[str, Any]:
        return self._choice(number, answer.text, answer.logprobs, answer.finish_reason)

    def first(self, number: int) -> None:
        return None

    def changed(self, number: int, piece: Piece) -> dict[str, Any]:
        return self._choice(number, piece.text, piece.logprobs, None)

    def last(self, number: int, reason: str) -> dict[str, Any]:
        return self._choice(number, "", (), reason)

    def _choice(
        self, number: int, text: str, tokens: Sequence[TokenLogprob], reason: str | None
    ) -> dict[str, Any]:
        logprobs = self._logprobs[number].add(tokens) if self.logprobs and tokens else None
        return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}
