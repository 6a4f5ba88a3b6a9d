"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from vlm_serve.api.answers.answer import Answer
from vlm_serve.api.answers.completion_object import CompletionShape
from vlm_serve.api.answers.logprobs import chat_logprobs
from vlm_serve.api.answers.response import AnswerResponse
from vlm_serve.api.answers.running import RunningAnswers
from vlm_serve.api.conversation import Media, Turn, read_conversation
from vlm_serve.api.schema.chat import ChatBody, ChatItem, ImagePart, TextPart
from vlm_serve.api.schema.strict import parsed
from vlm_serve.api.server import server_of
from vlm_serve.api.transport.body import read_json
from vlm_serve.api.transport.disconnect import while_connected
from vlm_serve.engine.request import ChatPrompt, Piece, TokenLogprob

FIELDS = {"prompt": "messages", "grammar": "response_format"}


async def create(request: Request) -> Response:
    body = parsed(ChatBody, await read_json(request))
    server = server_of(request)
    facts, params, n = server.facts(body.model), body.params(), body.n or 1
    limit_field = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    server.check_limits(n, params.max_tokens, facts, limit_field)
    turns = [turn_of(message, f"messages[{i}]") for i, message in enumerate(body.messages)]
    reading = read_conversation(turns, facts, server.settings)
    messages, places = await while_connected(request.receive, reading)
    requests = server.requests(request, [ChatPrompt(messages)], params, n)
    running = RunningAnswers(
        server.engine, requests, server.metrics, per_prompt=n, fields=FIELDS, places=places
    )
    usage = bool(body.stream_options and body.stream_options.include_usage)
    # of the model that answers: it may have changed while images were fetched
    facts = server.facts(body.model)
    shape = _ChatShape(facts, logprobs=bool(body.logprobs), usage=usage)
    return AnswerResponse(running, shape, stream=bool(body.stream))


def turn_of(message: ChatItem, place: str) -> Turn:
    """A message with its parts, each image with its place."""
    content = message.content
    if isinstance(content, str):
        parts: tuple[str | Media, ...] = (content,)
    else:
        parts = tuple(_part(part, f"{place}.content[{i}]") for i, part in enumerate(content))
    role = "system" if message.role == "developer" else message.role
    return Turn(role, parts, place)


def _part(part: Any, place: str) -> str | Media:
    if isinstance(part, TextPart):
        return part.text
    if isinstance(part, ImagePart):
        return Media("image", part.image_url.url, f"{place}.image_url.url")
    return Media("video", part.video_url.url, f"{place}.video_url.url")


class _ChatShape(CompletionShape):
    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def choice(self, number: int, answer: Answer) -> dict[str, Any]:
        return {
            "index": number,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self._logprobs(answer.logprobs),
            "finish_reason": answer.finish_reason,
        }

    def first(self, number: int) -> dict[str, Any]:
        return self._delta(number, {"role": "assistant", "content": "", "refusal": None})

    def changed(self, number: int, piece: Piece) -> dict[str, Any]:
        return self._delta(number, {"content": piece.text}, logprobs=self._logprobs(piece.logprobs))

    def last(self, number: int, reason: str) -> dict[str, Any]:
        return self._delta(number, {}, finish_reason=reason)

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        return chat_logprobs(tokens) if self.logprobs else None

    @staticmethod
    def _delta(number: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"index": number, "delta": delta, "logprobs": None, "finish_reason": None, **more}
