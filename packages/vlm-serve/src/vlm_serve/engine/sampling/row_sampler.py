"""The choice of one answer's next token from its logits, by its own parameters and nothing else.

Shapes: V ids of the tokenizer.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vlm_core.generation.sampling import scaled
from vlm_serve.engine.request import SamplingParams
from vlm_serve.engine.sampling.group_draws import Draw

SORTED_AT_FIRST = 256
"""Most likely ids among which `top_p` is looked for, before all are sorted."""


class Constraint(Protocol):
    """A grammar's state within an answer."""

    def allowed(self) -> Tensor:
        """Which ids (V,) may follow."""
        ...


class Choice(NamedTuple):
    """An id, its log probability, and those of the most likely ids; None and empty unless asked for.

    The id is -1 if the logits are not finite.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Distribution(NamedTuple):
    """Probabilities (K,) that sum to `total`, of the ids (K,); of id 0, 1, … if `ids` is None."""

    probabilities: Tensor
    total: float
    ids: Tensor | None


def uniform(seed: int, number: int) -> float:
    """A number in [0, 1) for a token, which depends on the seed and the token's number alone."""
    digest = blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


class RowSampler:
    """Logit bias, penalties, grammar, temperature, top_k, top_p and min_p, in this order, for one answer.

    The frequency and presence penalties count the answer's ids, the repetition penalty also the prompt's.
    """

    def __init__(
        self,
        params: SamplingParams,
        vocabulary: int,
        prompt_ids: list[int],
        constraint: Constraint | None = None,
    ) -> None:
        self.params, self.constraint, self._number = params, constraint, 0
        self._counts = self._seen = None
        if params.frequency_penalty or params.presence_penalty:
            self._counts = torch.zeros(vocabulary)
        if params.repetition_penalty != 1:
            self._seen = torch.zeros(vocabulary, dtype=torch.bool)
            self._seen[torch.tensor(prompt_ids, dtype=torch.long)] = True
        bias = dict(params.logit_bias)
        self._biased = torch.tensor(list(bias), dtype=torch.long)
        self._bias = torch.tensor(list(bias.values()), dtype=torch.float32)
        is_plain = constraint is None and self._counts is None and self._seen is None and not bias
        is_plain = is_plain and params.logprobs is None
        self.is_argmax = is_plain and params.temperature == 0
        """Whether the choice is the largest logit, and nothing else is asked for."""
        is_whole = not params.top_k and params.top_p >= 1 and not params.min_p
        self.is_draw = is_plain and params.temperature > 0 and is_whole
        """Whether the choice is a draw among all ids at a temperature, and nothing else is asked for."""

    def choose(self, logits: Tensor) -> Choice:
        """The next id from logits (V,), which are not modified."""
        logits = logits.detach().to("cpu", torch.float32, copy=True)
        if not logits.max().isfinite():
            return Choice(-1)
        self._process(logits)
        params = self.params
        if params.temperature == 0:
            distribution, index = Distribution(logits, 1.0, None), int(logits.argmax())
            if params.logprobs is not None:
                distribution = Distribution(logits.softmax(-1), 1.0, None)
        else:
            distribution = _truncated(scaled(logits, params.temperature), params)
            cumulative = distribution.probabilities.double().cumsum(0)
            target = uniform(params.seed, self._number) * cumulative[-1]
            index = min(int(torch.searchsorted(cumulative, target, right=True)), len(cumulative) - 1)
        choice = _choice(distribution, index, params.logprobs)
        self.count(choice.token)
        return choice

    @property
    def needs_no_host(self) -> bool:
        """Whether a GPU can choose."""
        return self.is_argmax or self.is_draw

    def draw(self, ahead: int = 0) -> Draw | None:
        """What decides the next token, or one that comes `ahead` tokens later; None unless it `is_draw`."""
        if not self.is_draw:
            return None
        return Draw(self.params.temperature, uniform(self.params.seed, self._number + ahead))

    def count(self, token: int) -> None:
        """Take the next token into account, however it was chosen."""
        self._number += 1
        if self._counts is not None:
            self._counts[token] += 1
        if self._seen is not None:
            self._seen[token] = True

    def _process(self, logits: Tensor) -> None:
        """Bias, penalties and grammar, in place."""
        params = self.params
        if len(self._bias):
            logits[self._biased] += self._bias
        if self._counts is not None:
            logits -= params.frequency_penalty * self._counts
            logits -= params.presence_penalty * (self._counts > 0)
        if self._seen is not None:
            scaled = torch.where(
                logits > 0, logits / params.repetition_penalty, logits * params.repetition_penalty
            )
            torch.where(self._seen, scaled, logits, out=logits)
        if self.constraint is not None:
            logits.masked_fill_(~self.constraint.allowed(), -torch.inf)


def _truncated(logits: Tensor, params: SamplingParams) -> Distribution:
    """Softmax of logits (V,) without the ids that top_k, top_p and min_p leave out.

    All three keep the most likely ids, so that the smallest of their numbers counts.
    """
    p = logits.softmax(-1)
    if not params.top_k and params.top_p >= 1 and not params.min_p:
        return Distribution(p, float(p.sum()), None)
    most = min(params.top_k or len(p), len(p))
    if params.min_p:
        most = min(most, max(1, int((p >= params.min_p * p.max()).sum())))
    kept, ids = _most_likely(p, most, params)
    return Distribution(kept, float(kept.sum()), ids)


def _most_likely(p: Tensor, most: int, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """The `most` largest of p (V,), descending, up to the one with which their sum reaches top_p, and their ids."""
    if params.top_p >= 1:
        kept, ids = p.topk(most)
        return kept, ids
    whole = (p.topk(params.top_k).values if 0 < params.top_k < len(p) else p).double().sum()
    for size in (min(most, SORTED_AT_FIRST), most):
        kept, ids = p.topk(size)
        before = kept.double().cumsum(0) - kept  # a sum of many floats would be off by some ids
        count = int((before < params.top_p * whole).sum())
        if count < size:
            break
    count = max(1, count)
    return kept[:count], ids[:count]


def _choice(distribution: Distribution, index: int, logprobs: int | None) -> Choice:
    p, total, ids = distribution
    token = index if ids is None else int(ids[index])
    if logprobs is None:
        return Choice(token)
    values, places = p.topk(min(logprobs, len(p)))
    likely = [(float(value), int(place)) for value, place in zip(values, places, strict=True) if value > 0]
    top = tuple((place if ids is None else int(ids[place]), _log(value / total)) for value, place in likely)
    return Choice(token, _log(float(p[index]) / total), top)


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -9999.0
