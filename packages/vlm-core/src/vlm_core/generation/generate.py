"""Generation: prefill the prompt once, then decode one token per step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from vlm_core.generation.prompts import (
    answer_ends,
    check_chunks,
    embedded_parts,
    refuse_empty,
    refuse_past_end,
)
from vlm_core.generation.sampling import GREEDY, GenerationConfig, TokenSampler, refuse_damaged, sample
from vlm_core.generation.watch.kept_states import KEEP, Keep
from vlm_core.generation.watch.watcher import Frame, Watcher
from vlm_core.interfaces import GraphDecoder, State
from vlm_core.model import VLM
from vlm_core.text.batch import collate
from vlm_core.text.render import TokenizedConversation
from vlm_core.views.image_views import ImageInput, joined_order

if TYPE_CHECKING:
    from vlm_core.text.template import AnyTemplate

GRAPH_AFTER_TOKENS = 4
"""Tokens generated before a CUDA graph is captured: for a short answer the capture costs more than it saves."""


class Session:
    """A batch of conversations and the model's state after them.

    Inputs of more than `prefill_chunk` positions, all conversations together, are processed in pieces with the state
    carried from one to the next: memory does not grow with their length. By default the language model decides.
    Likewise at most `image_chunk` images, or views of them, are encoded together; None: all.
    """

    def __init__(
        self, model: VLM, *, prefill_chunk: int | None = None, image_chunk: int | None = None
    ) -> None:
        check_chunks(prefill_chunk, image_chunk)
        self.model, self.image_chunk = model, image_chunk
        self.prefill_chunk = model.llm.prefill_chunk if prefill_chunk is None else prefill_chunk
        self._next_logits: Tensor | None = None
        self._state: State | None = None
        self._graph: GraphDecoder | None = None  # holds state and logits while tokens are generated
        self._ahead = False  # whether the graph has processed an id that was not yielded
        self._generated = 0  # tokens since the last prefill
        self._ends: list[set[int]] = []  # ids that end each answer, none of one that the state is past

    @property
    def state(self) -> State | None:
        """The state after the last position; None before the first prefill."""
        return self._state if self._graph is None else self._graph.state(ahead=self._ahead)

    @property
    def next_logits(self) -> Tensor | None:
        """Logits (B, V) of the next id, or of the one yielded last; None before the first prefill."""
        return self._next_logits if self._graph is None else self._graph.logits(ahead=self._ahead)

    def _leave_graph(self) -> None:
        """Take state and logits out of the graph, which another session may use from now on."""
        if self._graph is not None:
            graph = self._graph
            self._state, self._next_logits, self._graph = self.state, self.next_logits, None
            graph.close()

    def prefill(
        self,
        samples: Sequence[TokenizedConversation],
        images: Sequence[ImageInput] = (),
        slots: Sequence[int] | None = None,
    ) -> None:
        """Append one prompt to each conversation.

        `images` are those of all prompts in order: views, or pixels (3, h, w). If prompts share images, they are the
        distinct ones, and `slots[i]` is the index of the image in slot i. Raises `UserError` for an empty prompt.
        """
        for _ in self.prefill_parts(samples, images, slots):
            pass

    @torch.inference_mode()
    def prefill_parts(
        self,
        samples: Sequence[TokenizedConversation],
        images: Sequence[ImageInput] = (),
        slots: Sequence[int] | None = None,
    ) -> Iterator[int]:
        """As `prefill`, which it does when it is exhausted: for callers with other work between the pieces.

        Yields 0 after each `image_chunk` of images, then the number of positions after each piece.
        """
        refuse_empty(samples)
        refuse_past_end(self._ends)
        batch = collate(samples, images, side="left").sent_to(next(self.model.llm.parameters()).device)
        image_embeds = None
        if batch.pixel_values is not None:  # encoders cast pixels themselves
            encoded = []
            for pixel_values in batch.pixel_values.split(self.image_chunk or len(batch.pixel_values)):
                encoded.append(self.model.encode_images(pixel_values))
                yield 0
            embeds = torch.cat(encoded)
            order = batch.image_order if slots is None else joined_order(images, embeds.shape[1], slots)
            image_embeds = self.model.arrange(embeds, order)
        self._leave_graph()
        state, logits, read = self._state, None, 0
        for x, segments in embedded_parts(self.model, batch, image_embeds, self.prefill_chunk):
            logits, state = self.model.prefill(x, segments, state)
            read += x.shape[1]
            if read < batch.input_ids.shape[1]:
                yield read
        assert logits is not None
        # all of the prompt or, after an error, nothing
        eos = self.model.llm.tokenizer.eos_id
        self._ends = [answer_ends(eos, sample.end) for sample in samples]
        self._generated, self._state = 0, state
        self._predict(logits)
        yield read

    def _empty(self) -> Session:
        return Session(self.model, prefill_chunk=self.prefill_chunk, image_chunk=self.image_chunk)

    def expand(self, n: int) -> Session:
        """A session with n adjacent copies of each conversation, to be continued with `prefill`."""
        refuse_past_end(self._ends)
        state = self.state
        assert state is not None, "prefill first"
        copies = self._empty()
        copies._state = state.expand(n)
        return copies

    @classmethod
    def join(cls, sessions: Sequence[Session]) -> Session:
        """One session of the conversations of all, to be continued with `prefill`; for models with `joins_states`."""
        refuse_past_end([ends for session in sessions for ends in session._ends])
        joined = sessions[0]._empty()
        states = [state for session in sessions if (state := session.state) is not None]
        assert len(states) == len(sessions), "prefill first"
        joined._state = states[0] if len(states) == 1 else joined.model.llm.join_states(states)
        return joined

    def fork(self) -> Session:
        """An independent session at the same position, to be continued with `tokens`, `generate` or `prefill`.

        A state is a value, so that a fork of a state-space model costs no copy.
        """
        fork = self._empty()
        logits = self.next_logits
        fork._state, fork._next_logits = self.state, None if logits is None else logits.clone()
        fork._ends, fork._generated = [set(ends) for ends in self._ends], self._generated
        return fork

    @torch.inference_mode()
    def append_embeds(self, x: Tensor) -> None:
        """Append embeddings (B, T, M) to the conversations; `prefill` must follow before the next id is predicted."""
        refuse_past_end(self._ends)
        self._leave_graph()
        state = self._state
        size = x.shape[1] if self.prefill_chunk is None else max(1, self.prefill_chunk // len(x))
        for part in x.split(size, dim=1):
            state = self.model.next_state(part, state)
        self._state, self._next_logits = state, None

    def watch(
        self,
        frames: Iterable[Frame],
        template: AnyTemplate,
        *,
        keep: Keep | None = KEEP,
        max_frames: int | None = None,
        as_video: bool = False,
        record: bool = False,
    ) -> Watcher:
        """A watcher of these frames, (seconds, image) each, that reads them into this session: see `Watcher`."""
        return Watcher(
            self, frames, template, keep=keep, max_frames=max_frames, as_video=as_video, record=record
        )

    def resume(self, other: Session) -> None:
        """Continue at the position of another session of the same model."""
        self._leave_graph()
        fork = other.fork()
        self._state, self._next_logits = fork._state, fork._next_logits
        self._ends, self._generated = fork._ends, fork._generated

    def restore(
        self, state: State, known_logits: Tensor | None = None, ends: Sequence[Iterable[int]] = ()
    ) -> None:
        """Continue from a state, and its `known_logits` unless `prefill` follows; `ends` as in `ends`."""
        self._leave_graph()
        self._generated, self._state, self._next_logits, self._ends = 0, state, None, list(map(set, ends))
        if known_logits is not None:
            missing = self.model.llm.vocab_size - known_logits.shape[1]
            self._next_logits = torch.nn.functional.pad(known_logits, (0, missing), value=-torch.inf)

    @property
    def ends(self) -> list[set[int]]:
        """The ids that end each conversation's answer."""
        return self._ends

    def known_logits(self) -> Tensor:
        """A copy of the next logits of the tokenizer's ids; all others are -inf."""
        logits = self.next_logits
        assert logits is not None, "prefill first"
        return logits[:, : len(self.model.llm.tokenizer)].clone()

    def generate(self, decoding: GenerationConfig = GREEDY) -> list[str]:
        """Generate an answer to each conversation -> texts, without EOS and surrounding white space."""
        assert self._next_logits is not None, "prefill first"
        count, steps = len(self._next_logits), list(self.tokens(decoding))
        answers = [[i for ids in steps if (i := ids[n]) is not None] for n in range(count)]
        return [self.model.llm.tokenizer.decode(answer_ids).strip() for answer_ids in answers]

    def _predict(self, logits: Tensor) -> None:
        self._next_logits = logits
        # ids beyond the tokenizer's are padding of the vocabulary
        self._next_logits[:, len(self.model.llm.tokenizer) :] = -torch.inf

    @torch.inference_mode()
    def _decode_token(self, ids: Tensor) -> None:
        """Process one token of each conversation, ids (B), without a graph."""
        x = self.model.llm.embed(ids.unsqueeze(1))
        hidden, state = self.model.forward_embeds(x, None, self._state)
        logits = self.model.llm.logits(hidden[:, -1])
        self._state = state
        self._predict(logits)

    @torch.inference_mode()
    def _graph_decoder(
        self, ids: Tensor, decoding: GenerationConfig, generator: Generator
    ) -> GraphDecoder | None:
        """A graph that continues with ids (B), once a few tokens have been generated; None if the model has none."""
        self._generated += 1
        if self._generated <= GRAPH_AFTER_TOKENS or self._state is None:
            return None
        sampler = TokenSampler(decoding.temperature, decoding.top_p, len(self.model.llm.tokenizer))
        graph = self.model.llm.cuda_graph_decoder(self._state, sampler)
        if graph is not None:
            graph.start(self._state, ids, generator)
        return graph

    def _ids(self, decoding: GenerationConfig) -> Iterator[list[int]]:
        """The ids of each conversation, `max_new_tokens` times at most."""
        assert self._next_logits is not None
        generator, ids = Generator(self._next_logits.device).manual_seed(decoding.seed), None
        for left in range(decoding.max_new_tokens, 0, -1):
            if ids is not None:
                graph = self._graph_decoder(ids, decoding, generator)
                if graph is not None:
                    yield from self._graph_ids(graph, left)
                    return
                self._decode_token(ids)
            with torch.inference_mode():
                ids = sample(self._next_logits, decoding, generator)
            yield ids.tolist()

    def _graph_ids(self, graph: GraphDecoder, count: int) -> Iterator[list[int]]:
        """As `_ids`: the next token is computed while the reader works on the one before."""
        read = graph.step()
        self._graph, self._ahead = graph, False
        for left in range(count - 1, -1, -1):
            following = graph.step() if left else read
            self._ahead = left > 0
            ids = read()
            refuse_damaged(ids)
            yield ids
            read = following

    def tokens(self, decoding: GenerationConfig = GREEDY) -> Iterator[list[int | None]]:
        """Yield the next id of each conversation, None for finished ones, until all have reached EOS or their `end`.

        The state does not include the id that was yielded last. It is past the end of a conversation that finished
        before others, so that such a session can't be continued.
        """
        self._leave_graph()  # of an answer that was not read to its end
        assert self._next_logits is not None, "prefill first"
        refuse_past_end(self._ends)
        ends = self._ends or [{self.model.llm.tokenizer.eos_id} for _ in self._next_logits]
        try:
            for next_ids in self._ids(decoding):
                self._ends = ends
                yield [i if ending else None for i, ending in zip(next_ids, ends, strict=True)]
                ends = [set() if i in ending else ending for i, ending in zip(next_ids, ends, strict=True)]
                if not any(ends):
                    return
        finally:
            self._leave_graph()
