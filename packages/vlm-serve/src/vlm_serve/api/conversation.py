"""Turns of a body as the prompt that an engine reads: texts as they are, images fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vlm_serve.api.errors import refused
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.guard.images import check_count, fetch_image, fetch_video
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.engine.request import ChatMessage, ImageFile, ModelFacts, VideoFile


@dataclass(frozen=True)
class Media:
    """An image or a video that a part names; `place` is that of its URL in the body."""

    kind: Literal["image", "video"]
    url: str
    place: str


@dataclass(frozen=True)
class Turn:
    """A message of a body before its images are fetched; `place` is that of the message."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | Media, ...]
    place: str


async def read_conversation(
    turns: Sequence[Turn], facts: ModelFacts, settings: ServerSettings, before: Sequence[ChatMessage] = ()
) -> tuple[tuple[ChatMessage, ...], list[str]]:
    """The messages of `turns`, and the places of their images; raises `RequestError`.

    `before` are the messages that the turns go on from.
    Everything is checked that can be before the first image is fetched.
    """
    _check_order(turns, facts, before)
    media = [part for turn in turns for part in turn.parts if isinstance(part, Media)]
    for each in media:
        if not (facts.images if each.kind == "image" else facts.videos):
            raise refused(each.place, f"the model {facts.name!r} takes no {each.kind}s")
    count = len(media) + sum(not isinstance(part, str) for message in before for part in message.parts)
    check_count(count, turns[0].place.partition("[")[0], settings)
    files = {each.place: await _fetch(each, settings) for each in media}

    def message(turn: Turn) -> ChatMessage:
        parts = (part if isinstance(part, str) else files[part.place] for part in turn.parts)
        return ChatMessage(turn.role, tuple(parts))

    return tuple(map(message, turns)), list(files)


def instructions_message(text: str, facts: ModelFacts, before: Sequence[ChatMessage]) -> ChatMessage:
    """`instructions` as the system message of one response; raises `RequestError` if there is no place for it."""
    if before and before[0].role == "system":
        raise refused("instructions", "the conversation that is continued has a system message of its own")
    _check_system(facts, "instructions")
    return ChatMessage("system", (text,))


def _check_system(facts: ModelFacts, place: str) -> None:
    if not facts.system:
        text = f"the template of the model {facts.name!r} has no place for a system message"
        raise refused(place, text)


def _check_order(turns: Sequence[Turn], facts: ModelFacts, before: Sequence[ChatMessage]) -> None:
    """A system message first, if any; then user and assistant by turns, the user last: all that templates know."""
    expected = "user"
    for number, turn in enumerate(turns, len(before)):
        place = f"{turn.place}.role"
        if turn.role == "system":
            if number:
                raise refused(place, "a system message must be the only one, and the first message")
            _check_system(facts, place)
            continue
        if turn.role != expected:
            raise refused(place, f"expected {expected!r}, got {turn.role!r}: user and assistant take turns")
        expected = "assistant" if turn.role == "user" else "user"
    if expected == "user":
        raise refused(turns[-1].place, "the last message must be the user's")


async def _fetch(media: Media, settings: ServerSettings) -> ImageFile | VideoFile:
    fetch = fetch_image if media.kind == "image" else fetch_video
    try:
        return await fetch(media.url, media.place, settings)
    except RequestError as error:
        error.param = error.param or media.place
        raise
