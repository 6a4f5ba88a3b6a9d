"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from vlm_serve.api.answers.logprobs import chat_logprobs
from vlm_serve.api.answers.response import AnswerResponse
from vlm_serve.api.answers.running import RunningAnswers
from vlm_serve.api.conversation import Media, Turn, read_conversation
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.schema.chat import ChatBody, ChatItem, ImagePart, TextPart
from vlm_serve.api.schema.strict import parsed
from vlm_serve.api.server import fingerprint, new_id, server_of
from vlm_serve.api.transport.body import read_json
from vlm_serve.api.transport.disconnect import while_connected
from vlm_serve.api.transport.sse import DONE, event
from vlm_serve.engine.request import ChatPrompt, Event, Finished, ModelFacts, Piece


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
    running = RunningAnswers(server.engine, requests, server.metrics, per_prompt=n, places=places)
    return AnswerResponse(running, _ChatShape.of(facts, body), stream=bool(body.stream))


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


@dataclass(frozen=True)
class _ChatShape:
    """What all objects of one answer have in common, and the objects themselves."""

    id: str
    created: int
    model: str
    fingerprint: str
    logprobs: bool
    usage: bool
    """Whether a stream ends with the usage."""

    @classmethod
    def of(cls, facts: ModelFacts, body: ChatBody) -> _ChatShape:
        return cls(
            id=new_id("chatcmpl-"),
            created=int(time.time()),
            model=facts.name,
            fingerprint=fingerprint(facts),
            logprobs=bool(body.logprobs),
            usage=bool(body.stream_options and body.stream_options.include_usage),
        )

    def _object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **more,
        }

    def whole(self, running: RunningAnswers) -> dict[str, Any]:
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": chat_logprobs(answer.logprobs) if self.logprobs else None,
                "finish_reason": answer.finish_reason,
            }
            for i, answer in enumerate(running.answers)
        ]
        return self._object("chat.completion", choices, usage=running.usage.completion_usage())

    async def events(self, running: RunningAnswers) -> AsyncGenerator[bytes, None]:
        """Role, content and reason of each answer, then the usage if asked for; after an error nothing more."""
        null_usage = {"usage": None} if self.usage else {}

        def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
            return event(self._object("chat.completion.chunk", choices, **{**null_usage, **more}))

        try:
            for i in range(len(running.answers)):
                delta = {"role": "assistant", "content": "", "refusal": None}
                yield chunk([self._choice(i, delta)])
            async with aclosing(running.events()) as events:
                async for number, each in events:
                    if (choice := self._changed(number, each)) is not None:
                        yield chunk([choice])
            if self.usage:
                yield chunk([], usage=running.usage.completion_usage())
            yield DONE
        except RequestError as error:
            yield event(error.body())

    def _changed(self, number: int, each: Event) -> dict[str, Any] | None:
        if isinstance(each, Finished):
            return self._choice(number, {}, finish_reason=each.reason)
        if isinstance(each, Piece) and (each.text or (self.logprobs and each.logprobs)):
            logprobs = chat_logprobs(each.logprobs) if self.logprobs else None
            return self._choice(number, {"content": each.text}, logprobs=logprobs)
        return None

    @staticmethod
    def _choice(number: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"index": number, "delta": delta, "logprobs": None, "finish_reason": None, **more}
