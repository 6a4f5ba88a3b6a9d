"""Log probabilities of tokens in the shapes of the endpoints."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Any

from vlm_serve.engine.request import TokenLogprob

LEAST = -9999.0
"""Stands for minus infinity, which JSON can't write; OpenAI's API has the same."""


def token_logprob(token: TokenLogprob) -> dict[str, Any]:
    """A token with its bytes, without alternatives; a control token has none."""
    return {"token": token.token, "logprob": max(LEAST, token.logprob), "bytes": list(token.data)}


def with_alternatives(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [{**token_logprob(t), "top_logprobs": list(map(token_logprob, t.top))} for t in tokens]


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """`logprobs` of a choice of a chat completion."""
    return {"content": with_alternatives(tokens), "refusal": None}


class TextLogprobs:
    """`logprobs` of the choices of one completion, whose tokens may come in parts."""

    def __init__(self) -> None:
        self._decoder, self._characters = getincrementaldecoder("utf-8")("replace"), 0

    def add(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Those of the next tokens."""
        return {
            "tokens": [_name(token) for token in tokens],
            "token_logprobs": [max(LEAST, token.logprob) for token in tokens],
            "top_logprobs": [_by_name(token) for token in tokens],
            "text_offset": [self._offset(token.data) for token in tokens],
        }

    def _offset(self, data: bytes) -> int:
        """Where the next token begins in the text, in characters; within a character, where that begins."""
        is_new = not 0x80 <= data[0] < 0xC0 if data else False
        if is_new and self._decoder.getstate()[0]:  # the character before it stays incomplete
            self._characters += len(self._decoder.decode(b"", final=True))
        offset = self._characters
        self._characters += len(self._decoder.decode(data))
        return offset


def _by_name(token: TokenLogprob) -> dict[str, float]:
    """The alternatives and the token itself; of several tokens of one name, the likeliest alternative."""
    names = {_name(each): max(LEAST, each.logprob) for each in reversed(token.top)}
    return {**dict(reversed(names.items())), _name(token): max(LEAST, token.logprob)}


def _name(token: TokenLogprob) -> str:
    """The token's text or, as in OpenAI's API, the bytes of a part of a character, which tell it from other parts."""
    try:
        token.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)
    return token.token
