"""What a prompt must have, the parts that a long one is processed in, and what ends the answer to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.model import VLM, splice_part
from vlm_core.text.batch import Batch
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


def embedded_parts(
    model: VLM, batch: Batch, image_embeds: Tensor | None, chunk: int | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Embeddings (B, T, M) and segments (B, T) of consecutive parts of a batch, the first of which may be shorter.

    At most `chunk` positions, all prompts together, are in one; None: all. `image_embeds` are those of all images.
    """
    ids, mask, segments = batch.input_ids, batch.image_mask, batch.segments
    count, length = ids.shape
    size = length if chunk is None else max(1, chunk // count)
    if length <= size:
        yield model.embed(ids, mask, image_embeds), segments
        return
    for end in range((length - 1) % size + 1, length + 1, size):
        part = slice(max(0, end - size), end)
        x = model.llm.embed(ids[:, part])
        if image_embeds is not None:
            x = splice_part(x, mask, image_embeds, part)
        yield x, None if segments is None else segments[:, part]
