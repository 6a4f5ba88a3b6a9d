"""What a prompt must have, and what ends the answer to it."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_core.errors import UserError
from vlm_core.text.render import TokenizedConversation


def refuse_empty(prompts: Sequence[TokenizedConversation]) -> None:
    """Raise `UserError` for a prompt without positions, which can't be continued."""
    if not all(map(len, prompts)):
        raise UserError(
            "the prompt is empty: it has no text, no image and no BOS token; add a question or an image"
        )


def refuse_past_end(ends: Sequence[set[int]]) -> None:
    """Raise `UserError` for conversations of which one has read more than its answer, while others of a batch went on.

    `ends` are the ids that end each one's answer, none where it is past.
    """
    if past := [n for n, ids in enumerate(ends) if not ids]:
        raise UserError(
            f"conversation {past[0] + 1} of {len(ends)} ended before the others, and its state has read what it was "
            "given since; ask the next question in a session of its own for each conversation"
        )


def answer_ends(eos: int, end: int | None) -> set[int]:
    """The ids that end an answer: EOS, and the template's control token `end` if it has one."""
    return {eos} if end is None else {eos, end}


def check_chunks(prefill_chunk: int | None, image_chunk: int | None) -> None:
    """Raise `UserError` for what can't be a number of positions or images that are processed together."""
    for name, size, unit in (
        ("prefill_chunk", prefill_chunk, "positions"),
        ("image_chunk", image_chunk, "images"),
    ):
        if size is not None and (type(size) is not int or size < 1):
            raise UserError(f"{name} is {size!r}; expected a number of {unit}, at least 1, or None")
