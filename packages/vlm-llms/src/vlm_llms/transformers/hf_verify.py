"""Contract check of a transformers model behind the adapter, on a few tokens when the model is built.

Some models of the library or with code on the hub keep state outside their cache, miscount positions or ignore padding.
Their answers would be fluent and wrong, so the check raises an error.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.interfaces import PADDING
from vlm_llms.transformers.hf_adapter import TransformersLM
from vlm_llms.transformers.hf_logits import LogitRule

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
COARSE = 0.1
"""Relative tolerance in half precision: another order of sums stays far below, a lost state is above."""
_PAD, _CUT, _LENGTH = 2, 3, 5


def verify(lm: TransformersLM) -> None:
    """Raise `UserError` if batching, padding, chunking or the head change the logits.

    Does nothing on the meta device.
    """
    if lm.model.get_input_embeddings().weight.is_meta:
        return
    training = lm.training
    lm.eval()
    try:
        for what, difference, remedy in _trials(lm):
            if not difference <= TOLERANCE.get(lm.model.dtype, COARSE):
                raise UserError(
                    f"{type(lm.model).__name__} can't be used: {what} differ by {difference:.2g} {remedy}"
                )
        lm.supports_packing = lm.supports_packing and _packs(lm)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{type(lm.model).__name__} can't be used: fed embeddings with a transformers cache, it fails: "
            f"{type(error).__name__}: {str(error).strip() or 'no message'!s:.200}"
        ) from error
    finally:
        lm.train(training)


def _difference(actual: Tensor, expected: Tensor) -> float:
    """Largest deviation, as a share of the largest expected value; NaN counts as one."""
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-6)).item()


_STATE = "of the largest value: it keeps state outside its cache. Write your own LanguageModel for it"
_RULE = (
    "of the largest value, so it scales embeddings or logits in an unsupported way; supported are a "
    f"plain head, {', '.join(LogitRule.KNOWN)}. Write your own LanguageModel for it"
)


def _ids(lm: TransformersLM) -> Tensor:
    """Two different rows (2, T)."""
    device = lm.model.get_input_embeddings().weight.device
    return torch.arange(2 * _LENGTH, device=device).view(2, _LENGTH) * 7 % lm.vocab_size


@torch.no_grad()
def _trials(lm: TransformersLM) -> Iterator[tuple[str, float, str]]:
    """What is compared, the relative difference, and its meaning."""
    ids = _ids(lm)
    x = lm.embed(ids)
    copy = x.clone()
    full, _ = lm(x)
    yield (
        "embeddings before and after a call",
        _difference(x, copy),
        "of the largest value: it overwrites its input",
    )
    logits = lm.model(input_ids=ids, use_cache=False).logits.float()
    yield "head(base(embeddings)) and its own logits", _difference(lm.logits(full).float(), logits), _RULE
    alone = torch.cat([lm(row[None])[0] for row in x])
    yield "a batch and its rows alone", _difference(full, alone), _STATE
    first, state = lm(x[:, :_CUT])
    lm(x[:, _CUT:].flip(1), state=state)  # must not change the state
    chunks = torch.cat([first, lm(x[:, _CUT:], state=state)[0]], 1)
    yield "a text in chunks and whole", _difference(chunks, full), _STATE
    yield "rows with padding in front and without", _padded(lm, x, full), _STATE


def _padded(lm: TransformersLM, x: Tensor, full: Tensor) -> float:
    """The largest difference if the second row follows padding and is then continued."""
    shifted, segments = x.roll(1, 0), torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
    shifted[1] = x[1].roll(_PAD, 0)
    shifted[0], segments[1, :_PAD] = x[0], PADDING
    hidden, state = lm(shifted, segments=segments)
    more, _ = lm(x[:, -_PAD:], state=state)
    after = torch.cat([hidden[1, _PAD:], more[1]])[None]
    return max(_difference(after, full[1:]), _difference(hidden[0], full[0]))


@torch.no_grad()
def _packs(lm: TransformersLM) -> bool:
    """Whether two packed samples equal the two alone."""
    x = lm.embed(_ids(lm))
    segments = torch.tensor([0] * _LENGTH + [1] * _LENGTH, device=x.device)[None]
    try:
        packed, _ = lm(x.flatten(0, 1)[None], segments=segments)
    except Exception:  # it does not support such a mask
        return False
    return _difference(packed.view_as(x), lm(x)[0]) <= TOLERANCE.get(lm.model.dtype, COARSE)
