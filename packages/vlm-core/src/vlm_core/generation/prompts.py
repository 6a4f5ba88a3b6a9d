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
