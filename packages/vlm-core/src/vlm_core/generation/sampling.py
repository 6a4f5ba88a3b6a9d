"""The choice of the next id from logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from vlm_core.errors import UserError


@dataclass(frozen=True)
class GenerationConfig:
    """Greedy decoding at temperature 0, else nucleus sampling with `top_p`."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


GREEDY = GenerationConfig()


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """(logits − max) / temperature in fp32, along the last dimension, for a temperature above 0.

    No temperature is too low: the largest become 0, all others −∞ at worst. Below the smallest normal number of fp32,
    whose reciprocal a GPU can't represent, a temperature is that number.
    """
    logits = logits.float()
    return (logits - logits.amax(-1, keepdim=True)) / max(temperature, torch.finfo(torch.float32).tiny)


def most_likely(logits: Tensor) -> Tensor:
    """Logits (B, V) -> the ids (B) of the largest, -1 where they are not finite; without waiting for a GPU."""
    best = logits.max(-1)
    return torch.where(best.values.isfinite(), best.indices, -1)


@dataclass(frozen=True)
class TokenSampler:
    """`vlm_core.interfaces.Sampler` of a `GenerationConfig`; ids from `vocabulary` on are padding, never chosen."""

    temperature: float
    top_p: float
    vocabulary: int

    def __call__(self, logits: Tensor, generator: Generator) -> Tensor:
        """Logits (B, V), whose padding becomes -inf -> ids (B), -1 where logits are not finite; without waiting."""
        logits[:, self.vocabulary :] = -torch.inf
        if self.temperature == 0:
            return most_likely(logits)
        p, order = scaled(logits, self.temperature).softmax(-1).sort(-1, descending=True)
        finite = p[..., 0].isfinite()
        p = p.masked_fill(p.cumsum(-1) - p >= self.top_p, 0)  # the first id is always kept
        # as torch.multinomial, which makes the host wait
        chosen = (p / torch.empty_like(p).exponential_(generator=generator)).argmax(-1, keepdim=True)
        return torch.where(finite, order.gather(-1, chosen).squeeze(-1), -1)


def refuse_damaged(ids: list[int]) -> None:
    """Raise `UserError` if a sampler found logits that are not finite."""
    if min(ids) < 0:
        raise UserError(
            "the model's logits are not finite: its weights are damaged, or too large for their dtype"
        )


def sample(logits: Tensor, decoding: GenerationConfig, generator: Generator) -> Tensor:
    """Next ids (B) from logits (B, V). Raises `UserError` if logits are not finite."""
    ids = TokenSampler(decoding.temperature, decoding.top_p, logits.shape[-1])(logits, generator)
    refuse_damaged(ids.tolist())
    return ids
