"""Log probabilities of tokens in the shapes of the endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_serve.engine.request import TokenLogprob

LEAST = -9999.0
"""Stands for minus infinity, which JSON can't write; OpenAI's API has the same."""


def token_logprob(token: TokenLogprob) -> dict[str, Any]:
    """A token with its bytes, without alternatives."""
    return {"token": token.token, "logprob": max(LEAST, token.logprob), "bytes": list(token.data)}


def with_alternatives(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [{**token_logprob(t), "top_logprobs": list(map(token_logprob, t.top))} for t in tokens]


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """`logprobs` of a choice of a chat completion."""
    return {"content": with_alternatives(tokens), "refusal": None}


def text_logprobs(tokens: Sequence[TokenLogprob], offset: int = 0) -> dict[str, Any]:
    """`logprobs` of a choice of a completion; `offset` is where the first token's text begins in the answer."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [max(LEAST, token.logprob) for token in tokens],
        "top_logprobs": [{each.token: max(LEAST, each.logprob) for each in token.top} for token in tokens],
        "text_offset": offsets,
    }
