"""What answers rows: a model of this process through the engine of `vlm-serve`, or a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vlm_core.errors import BadSample, UserError
from vlm_core.io.files import MAX_BYTES
from vlm_core.remote import Decoding, RemoteModel
from vlm_serve.predict.rows import Message


class RowAnswer(NamedTuple):
    """An answer; `finish_reason` is `stop` or `length`, token counts are None if a server doesn't tell them."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None


class RowModel(Protocol):
    """Answers conversations; several threads may call `ask`."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What tells the model from others, as far as that is known."""
        ...

    def ask(self, messages: Sequence[Message], decoding: Decoding) -> RowAnswer:
        """Raises `BadSample` for a conversation that is refused, `UserError` if there can be no further answers."""
        ...


@dataclass(frozen=True)
class ServedRows:
    """A model of a server."""

    model: RemoteModel

    @property
    def facts(self) -> Mapping[str, Any]:
        digest = self.model.digest
        return {"model": self.model.name, "digest": digest, **({} if digest else {"server": self.model.url})}

    def ask(self, messages: Sequence[Message], decoding: Decoding) -> RowAnswer:
        completion = self.model.complete(messages, decoding)
        usage = completion.usage
        return RowAnswer(
            completion.text, completion.finish_reason, usage.prompt_tokens, usage.completion_tokens
        )


class LocalRows:
    """A model folder, answered by a `LocalEngine`; close it at the end."""

    def __init__(
        self, folder: Path, slots: int, *, dtype: str | None, device: str | None, trust: bool
    ) -> None:
        import torch

        from vlm_core.model_folder.assemble import default_device
        from vlm_serve.api.guard.settings import ServerSettings
        from vlm_serve.engine.local import LocalEngine
        from vlm_serve.engine.settings import EngineSettings

        self._engine = LocalEngine.load(
            folder,
            EngineSettings(slots=slots, queue=slots),
            dtype=getattr(torch, dtype) if dtype else None,
            device=device or default_device(),
            trust_remote_code=trust,
        )
        self._dtype = dtype
        self._settings = ServerSettings(model=folder, max_image_bytes=MAX_BYTES, max_images=10_000)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="answers", daemon=True)
        self._thread.start()

    @property
    def facts(self) -> Mapping[str, Any]:
        facts = self._engine.facts()
        return {
            "model": facts.name,
            "digest": facts.digest,
            **({"dtype": self._dtype} if self._dtype else {}),
        }

    def ask(self, messages: Sequence[Message], decoding: Decoding) -> RowAnswer:
        return asyncio.run_coroutine_threadsafe(self._ask(messages, decoding), self._loop).result()

    async def _ask(self, messages: Sequence[Message], decoding: Decoding) -> RowAnswer:
        """As the server would answer: the same rules for messages and images, and the same engine."""
        from vlm_serve.api.answers.answer import Answer
        from vlm_serve.api.errors import failure
        from vlm_serve.api.routes.chat import FIELDS
        from vlm_serve.engine.request import Failed

        answer = Answer()
        async for event in self._engine.submit(await self._request(messages, decoding)):
            if isinstance(event, Failed):  # always the last event
                text = failure(event, fields=FIELDS).message
                raise BadSample("refused", text) if event.kind == "refused" else UserError(text)
            answer.add(event)
        return RowAnswer(
            answer.text.strip(), str(answer.finish_reason), answer.prompt_tokens, answer.completion_tokens
        )

    async def _request(self, messages: Sequence[Message], decoding: Decoding) -> Any:
        from vlm_serve.api.conversation import read_conversation
        from vlm_serve.api.guard.errors import RequestError
        from vlm_serve.api.routes.chat import turn_of
        from vlm_serve.api.schema.chat import ChatBody
        from vlm_serve.api.schema.strict import parsed
        from vlm_serve.engine.request import ChatPrompt, GenerationRequest

        facts = self._engine.facts()
        try:
            body = parsed(ChatBody, {"model": facts.name, "messages": list(messages), **decoding.fields()})
            turns = [turn_of(message, f"messages[{i}]") for i, message in enumerate(body.messages)]
            prompt, _ = await read_conversation(turns, facts, self._settings)
        except RequestError as error:
            raise BadSample("refused", error.message) from None
        return GenerationRequest("predict", ChatPrompt(prompt), body.params())

    def close(self) -> None:
        """End the engine's threads."""
        asyncio.run_coroutine_threadsafe(self._engine.close(grace=0), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
