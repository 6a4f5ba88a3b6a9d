"""The manifest of a state file: which model and template it belongs to, and what was read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from vlm_core.errors import UserError, shown
from vlm_core.io import digests
from vlm_core.model import VLM
from vlm_core.model_folder.model_digest import content_digests, dtypes
from vlm_core.text.messages import IMAGE, ImageSlot, Message, Part
from vlm_core.text.template import AnyTemplate

FORMAT, VERSION = "vlm-state", 1
MOST_KEPT = 10_000
"""Kept states in the file of a stream."""
Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**31)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ReadPiece(_Strict):
    """Consecutive positions that were read at once: text, an image, or a generated answer; `sha256` of its content.

    The `frames` of a stream and the text between them are one piece, whatever their number.
    """

    kind: Literal["text", "image", "answer", "frames"]
    start: Count
    tokens: Count
    sha256: Digest


class SavedPart(_Strict):
    """A part of a message: text, or an image."""

    type: Literal["text", "image"]
    text: str = ""


class SavedMessage(_Strict):
    """`vlm_core.text.messages.Message`."""

    role: Literal["user", "assistant"]
    parts: list[SavedPart]

    @classmethod
    def of(cls, message: Message) -> SavedMessage:
        parts = [
            SavedPart(type="image") if isinstance(part, ImageSlot) else SavedPart(type="text", text=part)
            for part in message.parts
        ]
        return cls(role=message.role, parts=parts)

    def message(self) -> Message:
        parts: list[Part] = [IMAGE if part.type == "image" else part.text for part in self.parts]
        return Message(self.role, tuple(parts))


class SavedImage(_Strict):
    """An image for the next question: pixels (3, h, w), or the views (V, 3, h, w) of one, perhaps with an order."""

    views: bool = False
    view_tokens: Count | None = None


class SavedConversation(_Strict):
    """What a conversation knows besides its session: messages, and tokens that are not processed."""

    messages: list[SavedMessage] = []
    pending_tokens: list[Count] = []


class SavedMoment(_Strict):
    """A moment of a stream: its frames so far, and seconds of the last one."""

    frames: Annotated[int, Field(ge=1, lt=2**31)]
    time: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SavedStream(SavedMoment):
    """A stream at its last frame; whether its frames are those of one video, and the moments whose states are kept."""

    as_video: bool = False
    kept: Annotated[list[SavedMoment], Field(max_length=MOST_KEPT)] = []


class ModelFacts(_Strict):
    """What a state depends on: digests of the model's parts, views, tokenizer and template, and dtypes of the parts."""

    encoder: Digest
    connector: Digest
    llm: Digest
    views: Digest
    tokenizer: Digest
    template: Digest
    dtypes: dict[str, str]

    @classmethod
    def of(cls, model: VLM, template: AnyTemplate) -> ModelFacts:
        patterns = digests.of(type(template).__name__, template.model_dump(mode="json"))
        views = digests.of(repr(model.views))
        return cls(**content_digests(model), views=views, template=patterns, dtypes=dtypes(model))

    def differences(self, now: ModelFacts, *, convert: bool) -> list[str]:
        """What differs in the model at hand, one line each; dtypes only without `convert`."""
        what = {"tokenizer": "files", "template": "patterns", "views": "tiles"}
        lines = []
        for name in ("encoder", "connector", "llm", "views", "tokenizer", "template"):
            saved, seen = getattr(self, name), getattr(now, name)
            if saved != seen:
                kind = what.get(name, "weights or configuration")
                lines.append(f"{name}: other {kind}: {saved[:12]}… in the file, {seen[:12]}… here")
        if self.dtypes != now.dtypes and not convert:
            for part in {**self.dtypes, **now.dtypes}:
                saved, seen = self.dtypes.get(part), now.dtypes.get(part)
                if saved != seen:
                    lines.append(f"dtype of {part}: {shown(saved)} in the file, {shown(seen)} here")
        return lines


class StateManifest(_Strict):
    """The manifest. `positions` are those read so far by each of `sequences`; `ends` the ids that end an answer.

    With a `stream` it is the state after frames, which has no next logits and no ends.
    """

    format: Literal["vlm-state"] = FORMAT
    version: Literal[1] = VERSION
    written_by: str
    device: str
    model: ModelFacts
    sequences: Count
    positions: Count
    read: list[ReadPiece] = []
    ends: list[list[Count]] = []
    conversation: SavedConversation = SavedConversation()
    images: list[SavedImage] = []
    stream: SavedStream | None = None


def parse_manifest(facts: Mapping[str, Any], path: object) -> StateManifest:
    """The manifest in a file; raises `UserError` naming the first field that can't be one, or lies."""
    plain = {key: value for key, value in facts.items() if key != "sha256"}
    try:
        manifest = StateManifest.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: damaged: {where}: {first['msg']}; got {shown(first['input'])}") from None
    _require_consecutive(manifest, path)
    return manifest


def _require_consecutive(manifest: StateManifest, path: object) -> None:
    """Raise `UserError` if the pieces that were read don't follow each other up to `positions`."""
    end = 0
    for number, piece in enumerate(manifest.read):
        if piece.start != end:
            raise UserError(
                f"{path}: damaged: read.{number} begins at position {piece.start}, expected {end}"
            )
        end += piece.tokens
    if manifest.positions != end:
        raise UserError(f"{path}: damaged: positions is {manifest.positions}, and what was read has {end}")
