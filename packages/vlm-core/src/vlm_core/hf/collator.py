"""Rows of conversations as a training batch, its labels written by the template beside the tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlm_core.errors import UserError
from vlm_core.hf.conversations import Talk, llava_talk, talk_of
from vlm_core.hf.training import IGNORED
from vlm_core.text.render import TokenizedConversation, TooLong


@dataclass
class VLMDataCollator:
    """`data_collator` of transformers' Trainer and of trl's SFTTrainer.

    A row holds `messages` (role and content), `prompt` and `completion`, or LLaVA's `conversations`; its images are in
    the content or in `images` or `image`, a system text is the first turn or in `system`. Labels are those of
    `vlm-train`: the answers up to their end of text, or with `loss_on="all"` all text. A row longer than `max_length`
    is cut, and refused if that cuts an image or every answer.
    """

    processor: Any
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    loss_on: Literal["answers", "all"] = "answers"

    def __post_init__(self) -> None:
        if self.loss_on not in ("answers", "all"):
            raise UserError(f"loss_on {self.loss_on!r}: expected 'answers' or 'all'")

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Rows -> input_ids, attention_mask, labels, and image_mask and pixel_values where there are images."""
        samples: list[TokenizedConversation] = []
        pixels: list[Any] = []
        for i, row in enumerate(rows):
            try:
                sample, shown = self.processor.render(talk_of_row(row), loss_on=self.loss_on)
                samples.append(sample if self.max_length is None else sample.truncated(self.max_length))
            except (UserError, TooLong) as error:
                raise UserError(f"row {_name(row, i)} of the batch: {error}") from None
            pixels += shown
        batch = self.processor.tensors(samples, pixels, side="right", multiple=self.pad_to_multiple_of)
        targets = batch.pop("loss_mask")
        batch["labels"] = batch["input_ids"].masked_fill(~targets, IGNORED)
        return dict(batch)


def _name(row: Any, index: int) -> str:
    held = row.get("id") if isinstance(row, Mapping) else None
    return f"{index}" if held is None else f"{index} (id {held})"


def talk_of_row(row: Any) -> Talk:
    """The conversation of a row; `UserError` where it holds none, or one in two forms."""
    if isinstance(row, list | tuple):
        return talk_of(row)
    if not isinstance(row, Mapping):
        raise UserError(f"a {type(row).__name__}: expected a dictionary")
    talk, own = _talk(row), row.get("system")
    if not isinstance(own, str | None):
        raise UserError(f"system {own!r:.60}: expected text")
    if own and talk.system and own != talk.system:
        raise UserError("it has two system texts: the key 'system' and the first turn")
    return talk._replace(system=own or talk.system or None)


def _talk(row: Mapping[str, Any]) -> Talk:
    given = [key for key in ("messages", "conversations", "prompt") if row.get(key) is not None]
    if len(given) != 1:
        raise UserError(
            f"it has {', '.join(given or row) or 'nothing'}; expected one of messages, conversations, or prompt and "
            "completion (Trainer takes these out: set remove_unused_columns=False)"
        )
    if given == ["prompt"]:
        return talk_of(_prompt(row), _images(row))
    turns = row[given[0]]
    if given == ["conversations"] and isinstance(turns, list | tuple) and any(map(_by_llava, turns[:1])):
        return llava_talk(turns, _images(row))
    return talk_of(turns, _images(row))


def _by_llava(turn: Any) -> bool:
    return isinstance(turn, Mapping) and "from" in turn


def _images(row: Mapping[str, Any]) -> list[Any]:
    """The row's images beside its conversation."""
    if row.get("image") is not None and row.get("images") is not None:
        raise UserError("it has image and images; give one of them")
    held = row.get("image") if row.get("images") is None else row.get("images")
    return [] if held is None else list(held) if isinstance(held, list | tuple) else [held]


def _prompt(row: Mapping[str, Any]) -> list[Any]:
    """Prompt and completion as one conversation, of whose answers only the completion may be learnt."""
    prompt, completion = row["prompt"], row.get("completion")
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    if not isinstance(prompt, list) or not isinstance(completion, list):
        raise UserError("prompt and completion must both be text, or lists of turns")
    if any(isinstance(turn, Mapping) and turn.get("role") == "assistant" for turn in prompt):
        raise UserError("the prompt holds an answer, which would be learnt, too; write the row as messages")
    return [*prompt, *completion]
