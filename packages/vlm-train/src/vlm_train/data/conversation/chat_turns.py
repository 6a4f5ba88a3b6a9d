"""Reads the turns of a conversation in the formats of datasets: the speaker, and text and images in order."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from vlm_core.errors import BadSample
from vlm_train.config.unknown_keys import check_unread, is_empty
from vlm_train.data.conversation.image_values import INSIDE, LOCATIONS, VIDEO_LOCATIONS, image_value
from vlm_train.data.conversation.video_values import SAMPLING, video_value

SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
PART_TYPES = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "video": "video",
    "video_url": "video",
    "input_video": "video",
}
_LOSS = ("loss", "loss_scale", "weight", "train")
_PART_EXTRAS = frozenset(("type", "index", "detail", "cache_control", "media_type", "mime_type"))


class ImagePart(NamedTuple):
    """An image in a message: `value`, or with None the row's image `number`, or with None the row's next image.

    With `video` it is a video; the row's images and videos are counted apart.
    """

    value: Any
    number: int | None = None
    video: bool = False


Content = list[str | ImagePart]


class Turn(NamedTuple):
    speaker: str
    content: Content


class Dialogue(NamedTuple):
    """Alternating turns of human and gpt, gpt last. `dropped`: gpt spoke first, and that turn is not used."""

    turns: list[Turn]
    system: str | None = None
    dropped: bool = False


def read_turns(turns: Any, key: str, where: str) -> Dialogue:
    """Turns with the keys `from`/`value` or `role`/`content`; raises `BadSample` with the turn and valid forms."""
    if not isinstance(turns, list) or not turns:
        raise BadSample("schema", f"{where}: {key} must be a non-empty list, got {turns!r:.60}")
    parsed = [(i, _read_turn(turn, f"{where}, turn {i}")) for i, turn in enumerate(turns)]
    system = _text_of(parsed.pop(0)[1].content) if parsed[0][1].speaker == "system" else None
    dropped = len(parsed) >= 3 and parsed[0][1].speaker == "gpt"
    parsed = parsed[dropped:]
    for k, (i, turn) in enumerate(parsed):
        _check_order(turns[i], turn.speaker, ("human", "gpt")[k % 2], f"{where}, turn {i}")
    if len(parsed) % 2 or not parsed:
        raise BadSample("schema", f"{where}: the last turn must be gpt's answer")
    return Dialogue([turn for _, turn in parsed], system, dropped)


def _check_order(turn: Mapping[str, Any], speaker: str, expected: str, where: str) -> None:
    if speaker == "system":
        raise BadSample("schema", f"{where}: a system message must be the first turn")
    if speaker != expected:
        form = f"{{from: {expected}, value: text}}"
        if "role" in turn:
            form = f"{{role: {'user' if expected == 'human' else 'assistant'}, content: …}}"
        raise BadSample("schema", f"{where}: expected {form}, got {turn!r:.80}")


def _read_turn(turn: Any, where: str) -> Turn:
    who, what = ("role", "content") if isinstance(turn, dict) and turn.get("role") else ("from", "value")
    if not isinstance(turn, dict) or not isinstance(turn.get(who), str):
        forms = "{from: human, value: text} or {role: user, content: text}"
        raise BadSample("schema", f"{where}: expected {forms}, got {turn!r:.80}")
    role = turn[who]
    speaker = SPEAKERS.get(role)
    if speaker is None:
        raise BadSample("schema", f"{where}: unknown role {role!r:.40}; possible: {', '.join(SPEAKERS)}")
    _check_one_form(turn, who, what, speaker, where)
    _check_loss(turn, speaker, where)
    check_unread(turn, (who, what, *_LOSS), where, (who, what))
    content = read_content(turn.get(what), where)
    if speaker != "human" and any(isinstance(part, ImagePart) for part in content):
        raise BadSample(
            "schema", f"{where}: an image in a turn of {role!r}; only the user's turns may have images"
        )
    return Turn(speaker, content)


def _check_one_form(turn: Mapping[str, Any], who: str, what: str, speaker: str, where: str) -> None:
    """Raise `BadSample` for a turn that has both forms with different content."""
    other_who, other_what = ("from", "value") if who == "role" else ("role", "content")
    other, text = turn.get(other_who), turn.get(other_what)
    if (not is_empty(other) and SPEAKERS.get(str(other)) != speaker) or (
        not is_empty(text) and text != turn.get(what)
    ):
        raise BadSample(
            "schema",
            f"{where}: {who} and {what} contradict {other_who} and {other_what}: {turn!r:.80}",
        )


def _check_loss(turn: Mapping[str, Any], speaker: str, where: str) -> None:
    """Raise `BadSample` for a turn with another loss weight than training uses: 1 for answers, 0 for the rest."""
    for key in _LOSS:
        if (value := turn.get(key)) is not None and value != (1 if speaker == "gpt" else 0):
            rule = "all answers have loss, with equal weight, and no other turn has"
            raise BadSample("schema", f"{where}: {key}: {value!r:.40} is not supported: {rule}")


def read_content(content: Any, where: str) -> Content:
    """The parts of a message: text, or a list of text and image parts."""
    if isinstance(content, str):
        return [content]
    parts = [content] if isinstance(content, dict) else content
    if not isinstance(parts, list) or not parts:
        raise BadSample("schema", f"{where}: expected text, or a list of parts, got {content!r:.80}")
    return [_read_part(part, f"{where}, part {i}") for i, part in enumerate(parts)]


def _read_part(part: Any, where: str) -> str | ImagePart:
    if not isinstance(part, dict):
        raise BadSample(
            "schema", f"{where}: expected {{type: text, text: …}} or {{type: image}}, got {part!r:.60}"
        )
    filled = {key: value for key, value in part.items() if not is_empty(value)}
    kind = _kind_of(part, filled, where)
    if kind == "text":
        _check_keys(filled, ("text",), where)
        if not isinstance(part.get("text"), str):
            raise BadSample("schema", f"{where}: expected text, got {part.get('text')!r:.60}")
        return part["text"]
    is_video = kind == "video"
    locations = VIDEO_LOCATIONS if is_video else LOCATIONS
    payload = {key: filled[key] for key in (*INSIDE, *locations) if key in filled}
    sampling = {key: filled[key] for key in SAMPLING if is_video and key in filled}
    _check_keys(filled, {*payload, *sampling}, where)
    index = filled.get("index")
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
        raise BadSample("schema", f"{where}: index must be a number from 0, got {index!r:.40}")
    if is_video:
        return _video_part(payload, sampling, index, where)
    value = image_value(payload, where)
    if payload and value is None:  # else it would count as a placeholder of another image
        raise BadSample("schema", f"{where}: no image in {payload!r:.80}")
    return ImagePart(value, None if payload else index)


def _video_part(
    payload: Mapping[str, Any], sampling: Mapping[str, Any], index: int | None, where: str
) -> ImagePart:
    if not payload and sampling:
        raise BadSample(
            "schema", f"{where}: {next(iter(sampling))} of a video that the row names; give it there"
        )
    if not payload:
        return ImagePart(None, index, video=True)
    video = video_value({**payload, **sampling}, where)
    if isinstance(video.value, list):
        raise BadSample(
            "schema", f"{where}: a video as a list of frames is not read; give the frames as images"
        )
    if video.value is None:
        raise BadSample("schema", f"{where}: no video in {payload!r:.80}")
    return ImagePart(video, video=True)


def _kind_of(part: Mapping[str, Any], filled: Mapping[str, Any], where: str) -> str:
    """`text`, `image` or `video`; for a part without a type, inferred from its keys."""
    named = filled.get("type")
    if named is None:
        if "text" in filled or isinstance(part.get("text"), str):
            return "text"
        if "video" in filled or "video_url" in filled:
            return "video"
        if any(key in filled for key in (*INSIDE, *LOCATIONS)):
            return "image"
        keys = ", ".join(map(str, filled)) or "none"
        raise BadSample("schema", f"{where}: a part without type, text or image; its keys: {keys}")
    if not isinstance(named, str) or named not in PART_TYPES:
        raise BadSample("schema", f"{where}: unknown type {named!r:.40}; possible: {', '.join(PART_TYPES)}")
    return PART_TYPES[named]


def _check_keys(filled: Mapping[str, Any], read: Collection[str], where: str) -> None:
    for key in filled:
        if key not in read and key not in _PART_EXTRAS:
            kind = filled.get("type", "text" if "text" in read else "image")
            raise BadSample("schema", f"{where}: {key!r} is not read in a part of type {kind!r}")


def _text_of(content: Content) -> str:
    return "\n".join(part for part in content if isinstance(part, str))
