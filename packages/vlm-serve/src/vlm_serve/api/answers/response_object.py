"""The object of `/v1/responses`, and the events of its stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from vlm_serve.api.answers.answer import Answer
from vlm_serve.api.answers.logprobs import with_alternatives
from vlm_serve.api.answers.running import RunningAnswers
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.transport.sse import event
from vlm_serve.engine.request import Piece


@dataclass
class ResponseShape:
    """Builds a response around `echo`, the fields that repeat the request; `keep` is called with a whole one."""

    echo: Mapping[str, Any]
    item_id: str
    logprobs: bool
    keep: Callable[[Mapping[str, Any], Answer], None]
    _numbers: Iterator[int] = field(default_factory=count)

    def whole(self, running: RunningAnswers) -> dict[str, Any]:
        (answer,) = running.answers
        cut = answer.finish_reason == "length"
        status = "incomplete" if cut else "completed"
        response = {
            **self._response(status, [self._item(answer, status)]),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "completed_at": None if cut else int(time.time()),
            "usage": running.usage.response_usage(),
        }
        self.keep(response, answer)
        return response

    async def events(self, running: RunningAnswers) -> AsyncGenerator[bytes, None]:
        yield self._event("response.created", response=self._response("in_progress", []))
        yield self._event("response.in_progress", response=self._response("in_progress", []))
        item = {
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._part_event("response.content_part.added", part=self._part(Answer()))
        try:
            async with aclosing(running.events()) as events:
                async for _, each in events:
                    if isinstance(each, Piece) and (each.text or (self.logprobs and each.logprobs)):
                        logprobs = self._delta_logprobs(each.logprobs)
                        yield self._part_event(
                            "response.output_text.delta", delta=each.text, logprobs=logprobs
                        )
        except RequestError as error:
            for chunk in self._failed(error):
                yield chunk
            return
        for chunk in self._completed(running):
            yield chunk

    def _completed(self, running: RunningAnswers) -> Iterator[bytes]:
        (answer,) = running.answers
        logprobs = self._delta_logprobs(answer.logprobs)
        yield self._part_event("response.output_text.done", text=answer.text, logprobs=logprobs)
        yield self._part_event("response.content_part.done", part=self._part(answer))
        response = self.whole(running)
        yield self._event("response.output_item.done", output_index=0, item=response["output"][0])
        yield self._event(f"response.{response['status']}", response=response)

    def _failed(self, error: RequestError) -> Iterator[bytes]:
        yield self._event("error", code=error.code, message=error.message, param=error.param)
        failed = self._response("failed", [])
        failed["error"] = {"code": "server_error", "message": error.message}
        yield self._event("response.failed", response=failed)

    def _event(self, kind: str, **fields: Any) -> bytes:
        return event({"type": kind, "sequence_number": next(self._numbers), **fields}, kind)

    def _part_event(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self.item_id, output_index=0, content_index=0, **fields)

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        empty = {"error": None, "incomplete_details": None, "completed_at": None, "usage": None}
        return {**self.echo, **empty, "status": status, "output": output}

    def _item(self, answer: Answer, status: str) -> dict[str, Any]:
        return {
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [self._part(answer)],
        }

    def _part(self, answer: Answer) -> dict[str, Any]:
        part = {"type": "output_text", "text": answer.text, "annotations": []}
        return {**part, "logprobs": with_alternatives(answer.logprobs)} if self.logprobs else part

    def _delta_logprobs(self, tokens: Any) -> list[dict[str, Any]]:
        """Events of text have no bytes."""
        if not self.logprobs:
            return []

        def bare(token: Mapping[str, Any]) -> dict[str, Any]:
            return {"token": token["token"], "logprob": token["logprob"]}

        return [
            {**bare(t), "top_logprobs": list(map(bare, t["top_logprobs"]))} for t in with_alternatives(tokens)
        ]
