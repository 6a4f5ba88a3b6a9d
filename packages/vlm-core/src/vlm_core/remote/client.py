"""Chat completions of an OpenAI-compatible server, whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vlm_core.errors import UserError
from vlm_core.io.files import parse_json
from vlm_core.markup.printable import printable
from vlm_core.remote.events import events
from vlm_core.remote.server import Server
from vlm_core.remote.transport import EVENTS, RequestFailed, error_text, read_json, send

Message = dict[str, Any]
_LONGEST_NAME = 1000
"""Most characters of a model's name, which goes into file names, reports and every answer."""
_NO_COMPLETION = "the answer is no chat completion; is this an OpenAI-compatible API?"


@dataclass(frozen=True)
class Decoding:
    """How an answer is made: greedily at temperature 0. `max_tokens` None is the server's own limit."""

    max_tokens: int | None = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def fields(self) -> dict[str, Any]:
        """The fields of a request; those without effect on a greedy answer are left out."""
        sampling = {"top_p": self.top_p, "seed": self.seed} if self.temperature else {}
        limit = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        return {"temperature": self.temperature, **limit, **sampling}


class Usage(NamedTuple):
    """Tokens of a prompt and its answer, and of the prompt those from a cache; None for what a server doesn't tell."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


class Completion(NamedTuple):
    """A whole answer; `finish_reason` is `stop`, `length`, or another word of the server.

    `fingerprint` differs once the server has another model or other settings; None if it tells none.
    """

    text: str
    finish_reason: str
    usage: Usage
    fingerprint: str | None = None


class Chunk(NamedTuple):
    """The next part of a streamed answer."""

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None


class ListedModel(NamedTuple):
    """A model of a server; `digest` of its weights if the server tells one."""

    name: str
    digest: str | None = None


class ChatClient:
    """Requests to one server. Methods raise `RequestFailed`; threads may share a client."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def models(self) -> list[ListedModel]:
        """The models that the server lists."""
        with send(self.server, "/models") as response:
            data = read_json(self.server, response).get("data")
        if not isinstance(data, list) or not all(isinstance(m, dict) and _is_name(m.get("id")) for m in data):
            raise RequestFailed(f"{self.server.url}: no list of models; is this an OpenAI-compatible API?")
        return [ListedModel(m["id"], _digest(m.get("digest"))) for m in data]

    def complete(self, model: str, messages: Sequence[Message], decoding: Decoding) -> Completion:
        """The whole answer to a conversation."""
        body = {"model": model, "messages": list(messages), **decoding.fields()}
        with send(self.server, "/chat/completions", body) as response:
            reply = read_json(self.server, response)
        choice, text = self._choice(reply, "message")
        fingerprint = reply.get("system_fingerprint")
        return Completion(
            text,
            str(choice.get("finish_reason") or "stop"),
            _usage(reply.get("usage")) or Usage(),
            fingerprint if isinstance(fingerprint, str) else None,
        )

    def stream(self, model: str, messages: Sequence[Message], decoding: Decoding) -> Iterator[Chunk]:
        """The answer piece by piece; closing the iterator ends the request. A stream that breaks off is an error."""
        asked = {"stream": True, "stream_options": {"include_usage": True}}
        body = {"model": model, "messages": list(messages), **decoding.fields(), **asked}
        finished = False
        with send(self.server, "/chat/completions", body, EVENTS) as response:
            for data in events(self.server, response):
                chunk = self._chunk(data)
                finished = finished or chunk.finish_reason is not None
                yield chunk
        if not finished:
            raise RequestFailed(
                f"{self.server.url}: the server stopped in the middle of its answer", temporary=True
            )

    def _chunk(self, data: str) -> Chunk:
        try:
            content = parse_json(data, "")
        except UserError:
            content = None
        if not isinstance(content, dict):
            raise RequestFailed(f"{self.server.url}: an event of the stream is no JSON object")
        if content.get("error"):
            text = error_text(self.server, content)
            raise RequestFailed(
                f"{self.server.url}: the server has failed in its answer: {text}", temporary=True
            )
        usage = _usage(content.get("usage"))
        if content.get("choices") == []:
            return Chunk("", None, usage)
        choice, text = self._choice(content, "delta")
        reason = choice.get("finish_reason")
        return Chunk(text, None if reason is None else str(reason), usage)

    def _choice(self, reply: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
        """The only choice of a reply, and its text; an absent text is empty."""
        listed = reply.get("choices")
        choice = listed[0] if isinstance(listed, list) and listed else None
        message = choice.get(key) if isinstance(choice, dict) else None
        text = message.get("content") if isinstance(message, dict) else 0
        if not isinstance(choice, dict) or not isinstance(text, str | None):
            raise RequestFailed(
                f"{self.server.url}: {error_text(self.server, reply.get('error') or '') or _NO_COMPLETION}"
            )
        return choice, text or ""


def choose_model(client: ChatClient, name: str | None) -> ListedModel:
    """The model `name`, or the only one of the server; raises `UserError` if there are several.

    A named model need not be listed: some servers take aliases, and some list none.
    """
    try:
        models = client.models()
    except RequestFailed as error:
        if name is None or error.status not in (404, 405, 501):
            raise
        models = []
    listed = {model.name: model for model in models}
    if name is not None:
        return listed.get(name, ListedModel(name))
    if len(listed) != 1:
        names = ", ".join(printable(n, 80) for n in sorted(listed)[:20]) or "none"
        raise UserError(f"{client.server.url}: has {len(listed)} models ({names}); name one with --model")
    return models[0]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME


def _digest(value: Any) -> str | None:
    return value if isinstance(value, str) and 8 <= len(value) <= 200 and value.isprintable() else None


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    counts = (value.get("prompt_tokens"), value.get("completion_tokens"), cached)
    return Usage(*(count if type(count) is int and count >= 0 else None for count in counts))
