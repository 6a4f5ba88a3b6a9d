"""Fields of sampling and of an answer's end that several endpoints share."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Tag
from pydantic_core import PydanticCustomError

from vlm_core.errors import shown
from vlm_serve.api.schema.strict import Body, at_most, only, string_or_list
from vlm_serve.engine.request import SamplingParams

MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_BIASES = 1024
MAX_TOKENS = 2**31 - 1
_INT64 = 2**63

TokenCount = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Alternatives = Annotated[int, Field(ge=0, le=20)]
Label = Annotated[str, Field(max_length=512)]
"""Text that identifies somebody or something, and changes no answer."""


_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stops = Annotated[
    Annotated[_Stop, Tag("@string")]
    | Annotated[list[_Stop], Field(max_length=MAX_STOPS, fail_fast=True), Tag("@list")],
    string_or_list(),
]


def _token_ids(biases: dict[str, float]) -> dict[str, float]:
    for key in biases:
        if not (key.isascii() and key.isdecimal() and len(key) < 10 and key == str(int(key))):
            text = f"expected ids of tokens as keys, such as '50256', got {shown(key)}"
            raise PydanticCustomError("token_ids", "{text}", {"text": text})
    return biases


Biases = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(at_most(MAX_BIASES)),
    AfterValidator(_token_ids),
]


class SamplingBody(Body):
    """Fields of `temperature` and what it does; null stands for the default.

    `top_k`, `min_p` and `repetition_penalty` are no fields of OpenAI's: its client sends them in `extra_body`.
    """

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None

    def sampling(self) -> SamplingParams:
        """The sampling of the first answer, as far as these fields decide it."""
        return SamplingParams(
            temperature=1.0 if self.temperature is None else float(self.temperature),
            top_p=1.0 if self.top_p is None else float(self.top_p),
            top_k=max(0, self.top_k or 0),
            min_p=float(self.min_p or 0.0),
            seed=secrets.randbelow(_INT64) if self.seed is None else self.seed,
            repetition_penalty=float(self.repetition_penalty or 1.0),
        )


class PenaltyBody(SamplingBody):
    """Further fields that chat completions and completions have alike."""

    stop: Stops | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    logit_bias: Biases | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    user: Label | None = None

    def sampling(self) -> SamplingParams:
        return replace(
            super().sampling(),
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            logit_bias={int(key): float(bias) for key, bias in (self.logit_bias or {}).items()},
            frequency_penalty=float(self.frequency_penalty or 0.0),
            presence_penalty=float(self.presence_penalty or 0.0),
        )


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: Annotated[Literal[False] | None, only(False)] = None


def seed_of(seed: int, number: int) -> int:
    """The seed of answer `number` of a request; that of answer 0 is the request's own."""
    if number == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
