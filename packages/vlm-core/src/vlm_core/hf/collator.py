"""Data collator: rows of conversations -> a training batch. Labels come from the template's loss mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlm_core.errors import UserError
from vlm_core.hf.conversations import ParsedConversation, parse_llava, parse_messages
from vlm_core.hf.training import IGNORED
from vlm_core.text.render import TokenizedConversation, TooLong
from vlm_core.views.given_videos import video_lists


@dataclass
class VLMDataCollator:
    """`data_collator` of transformers' Trainer and of trl's SFTTrainer.

    A row has `messages` (role and content), `prompt` and `completion`, or LLaVA's `conversations`. Its images are in
    the content or in `images` or `image`, its videos in the content or in `videos` or `video`. A system prompt is the
    first turn or in `system`. Labels are those of `vlm-train`: answers up to and including their end token, or all text
    with `loss_on="all"`. A row longer than `max_length` is truncated; it is a `UserError` if that cuts an image or
    leaves no answer.
    """

    processor: Any
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    loss_on: Literal["answers", "all"] = "answers"

    def __post_init__(self) -> None:
        if self.loss_on not in ("answers", "all"):
            raise UserError(f"loss_on {self.loss_on!r}: expected 'answers' or 'all'")

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Rows -> input_ids, attention_mask, labels (B, T); with images, image_mask (B, T), pixel_values (N, 3, h, w),
        with tiles also image_order (B, T).

        Raises `UserError` naming the row that can't be used.
        """
        samples: list[TokenizedConversation] = []
        pixels: list[Any] = []
        for i, row in enumerate(rows):
            try:
                sample, row_pixels = self.processor.render(parse_row(row), loss_on=self.loss_on)
                samples.append(sample if self.max_length is None else sample.truncated(self.max_length))
            except (UserError, TooLong) as error:
                raise UserError(f"row {_name(row, i)} of the batch: {error}") from None
            pixels += row_pixels
        batch = self.processor.tensors(samples, pixels, side="right", multiple=self.pad_to_multiple_of)
        loss_mask = batch.pop("loss_mask")
        batch["labels"] = batch["input_ids"].masked_fill(~loss_mask, IGNORED)
        return dict(batch)


def _name(row: Any, index: int) -> str:
    row_id = row.get("id") if isinstance(row, Mapping) else None
    return f"{index}" if row_id is None else f"{index} (id {row_id})"


def parse_row(row: Any) -> ParsedConversation:
    """The conversation of a row; `UserError` if it has none or more than one."""
    if isinstance(row, list | tuple):
        return parse_messages(row)
    if not isinstance(row, Mapping):
        raise UserError(f"a {type(row).__name__}: expected a dictionary")
    conversation, system = _conversation(row), row.get("system")
    if not isinstance(system, str | None):
        raise UserError(f"system {system!r:.60}: expected text")
    if system and conversation.system and system != conversation.system:
        raise UserError("it has two system prompts: the key 'system' and the first turn")
    return conversation._replace(system=system or conversation.system or None)


def _conversation(row: Mapping[str, Any]) -> ParsedConversation:
    keys = [key for key in ("messages", "conversations", "prompt") if row.get(key) is not None]
    if len(keys) != 1:
        raise UserError(
            f"it has {', '.join(keys or row) or 'nothing'}; expected one of messages, conversations, or prompt and "
            "completion (Trainer removes these columns: set remove_unused_columns=False)"
        )
    media = _column(row, "image"), _column(row, "video")
    if keys == ["prompt"]:
        return parse_messages(_prompt_turns(row), *media)
    turns = row[keys[0]]
    if keys == ["conversations"] and isinstance(turns, list | tuple) and any(map(_is_llava_turn, turns[:1])):
        return parse_llava(turns, *media)
    return parse_messages(turns, *media)


def _is_llava_turn(turn: Any) -> bool:
    return isinstance(turn, Mapping) and "from" in turn


def _column(row: Mapping[str, Any], kind: str) -> list[Any]:
    """The images or videos in the row's own column, `image` or `images`."""
    if row.get(kind) is not None and row.get(f"{kind}s") is not None:
        raise UserError(f"it has {kind} and {kind}s; give one of them")
    values = row.get(kind) if row.get(f"{kind}s") is None else row.get(f"{kind}s")
    if values is None:
        return []
    if kind == "video":
        return video_lists(values, 1)[0]
    return list(values) if isinstance(values, list | tuple) else [values]


def _prompt_turns(row: Mapping[str, Any]) -> list[Any]:
    """Prompt and completion as one list of turns; only the completion may hold answers, which are the targets."""
    prompt, completion = row["prompt"], row.get("completion")
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    if not isinstance(prompt, list) or not isinstance(completion, list):
        raise UserError("prompt and completion must both be text, or lists of turns")
    if any(isinstance(turn, Mapping) and turn.get("role") == "assistant" for turn in prompt):
        raise UserError(
            "the prompt has an assistant turn, which would be a target; write the row as messages"
        )
    return [*prompt, *completion]
