"""Generation: prefill the prompt once, then decode one token per step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.interfaces import GraphDecoder, State
from vlm_core.model import VLM
from vlm_core.text.batch import collate
from vlm_core.text.render import TokenizedConversation


@dataclass(frozen=True)
class GenerationConfig:
    """Greedy decoding at temperature 0, else nucleus sampling with `top_p`."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


GREEDY = GenerationConfig()
GRAPH_AFTER_TOKENS = 4
"""Tokens generated before a CUDA graph is captured: for a short answer the capture costs more than it saves."""


def refuse_empty(prompts: Sequence[TokenizedConversation]) -> None:
    """Raise `UserError` for a prompt without positions, which can't be continued."""
    if not all(map(len, prompts)):
        raise UserError(
            "the prompt is empty: it has no text, no image and no BOS token; add a question or an image"
        )


def sample(logits: Tensor, decoding: GenerationConfig, generator: torch.Generator) -> Tensor:
    """Next ids (B) from logits (B, V). Raises `UserError` if sampling from logits that are not finite."""
    if decoding.temperature == 0:
        return logits.argmax(-1)
    p, order = (logits.float() / decoding.temperature).softmax(-1).sort(-1, descending=True)
    if not p[..., 0].isfinite().all():
        raise UserError(
            "the model's logits are not finite: its weights are damaged, or too large for their dtype"
        )
    p = p.masked_fill(p.cumsum(-1) - p >= decoding.top_p, 0)  # the first id is always kept
    return order.gather(-1, torch.multinomial(p, 1, generator=generator)).squeeze(-1)


class Session:
    """A batch of conversations and the model's state after them."""

    def __init__(self, model: VLM) -> None:
        self.model = model
        self.next_logits: Tensor | None = None
        self._state: State | None = None
        self._graph: GraphDecoder | None = None  # holds the state while tokens are generated
        self._generated = 0  # tokens since the last prefill
        self._ends: list[set[int]] = []  # ids that end each conversation's answer

    @property
    def state(self) -> State | None:
        """The state after the last position; None before the first prefill."""
        return self._state if self._graph is None else self._graph.state()

    @torch.inference_mode()
    def prefill(
        self,
        samples: Sequence[TokenizedConversation],
        pixel_values: Sequence[Tensor] = (),
        views: Sequence[int] | None = None,
    ) -> None:
        """Append one prompt to each conversation.

        `pixel_values` are the images (3, h, w) of all prompts in order. If prompts share images, they are the distinct
        ones, and `views[i]` is the index of the image in slot i. Raises `UserError` for an empty prompt.
        """
        refuse_empty(samples)
        eos = self.model.llm.tokenizer.eos_id
        self._ends = [{eos} if sample.end is None else {eos, sample.end} for sample in samples]
        batch = collate(samples, pixel_values, side="left").to(next(self.model.llm.parameters()).device)
        image_embeds = None
        if batch.pixel_values is not None:  # encoders cast pixels themselves
            image_embeds = self.model.encode_images(batch.pixel_values)
        if image_embeds is not None and views is not None:
            image_embeds = image_embeds[list(views)]
        self._advance(self.model.embed(batch.input_ids, batch.image_mask, image_embeds), batch.segments)

    def expand(self, n: int) -> Session:
        """A session with n adjacent copies of each conversation, to be continued with `prefill`."""
        assert self.state is not None, "prefill first"
        copies = Session(self.model)
        copies._state = self.state.expand(n)
        return copies

    def generate(self, decoding: GenerationConfig = GREEDY) -> list[str]:
        """Generate an answer to each conversation -> texts, without EOS and surrounding white space."""
        assert self.next_logits is not None, "prefill first"
        answers: list[list[int]] = [[] for _ in self.next_logits]
        for ids in self.tokens(decoding):
            for answer_ids, i in zip(answers, ids, strict=True):
                if i is not None:
                    answer_ids.append(i)
        return [self.model.llm.tokenizer.decode(answer_ids).strip() for answer_ids in answers]

    def _advance(self, x: Tensor, segments: Tensor | None = None) -> None:
        hidden, self._state = self.model.forward_embeds(x, segments, self.state)
        self._graph, self._generated = None, 0 if x.shape[1] > 1 else self._generated
        self._predict(self.model.llm.logits(hidden[:, -1]))

    def _decode_token(self, ids: Tensor) -> None:
        """Process one token of each conversation: ids (B)."""
        self._generated += 1
        if self._graph is None and self._generated > GRAPH_AFTER_TOKENS:
            self._graph = self.model.llm.cuda_graph_decoder(self._state)
        if self._graph is None:
            self._advance(self.model.llm.embed(ids.unsqueeze(1)))
        else:
            self._predict(self._graph(ids))

    def _predict(self, logits: Tensor) -> None:
        self.next_logits = logits
        # ids beyond the tokenizer's are padding of the vocabulary
        self.next_logits[:, len(self.model.llm.tokenizer) :] = -torch.inf

    def tokens(self, decoding: GenerationConfig = GREEDY) -> Iterator[list[int | None]]:
        """Yield the next id of each conversation, None for finished ones, until all have reached EOS or their `end`.

        The state does not include the id that was yielded last.
        """
        assert self.next_logits is not None, "prefill first"
        generator = torch.Generator(self.next_logits.device).manual_seed(decoding.seed)
        live, ids = [True] * len(self.next_logits), None
        ending = self._ends or [{self.model.llm.tokenizer.eos_id}] * len(live)
        for _ in range(decoding.max_new_tokens):
            with torch.inference_mode():
                if ids is not None:
                    self._decode_token(ids)
                ids = sample(self.next_logits, decoding, generator)
            next_ids = ids.tolist()
            yield [i if alive else None for i, alive in zip(next_ids, live, strict=True)]
            live = [alive and i not in ends for i, alive, ends in zip(next_ids, live, ending, strict=True)]
            if not any(live):
                return


def answer(
    model: VLM,
    samples: Sequence[TokenizedConversation],
    pixel_values: Sequence[Tensor] = (),
    views: Sequence[int] | None = None,
    decoding: GenerationConfig = GREEDY,
) -> list[str]:
    """Prefill and generate -> the answer to each prompt, without EOS and surrounding white space.

    `pixel_values` and `views` as in `Session.prefill`.
    """
    session = Session(model)
    session.prefill(samples, pixel_values, views)
    return session.generate(decoding)
