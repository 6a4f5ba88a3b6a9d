"""Streams the text of an answer while its ids are generated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vlm_core.interfaces import Tokenizer


def stream_text(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Yield the text of each id as it comes, empty while a character, which may take several ids, is incomplete."""
    shown, text, answer_ids = "", "", list[int]()
    for token in ids:
        answer_ids.append(token)
        text = tokenizer.decode(answer_ids).lstrip()
        readable = text.startswith(shown) and not text.endswith("\ufffd")
        piece = text[len(shown) :] if readable else ""
        shown += piece
        yield piece
    if len(text) > len(shown):  # the last character is incomplete
        yield text[len(shown) :]
