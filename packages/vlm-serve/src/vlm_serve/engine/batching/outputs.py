"""What the logits of a step add to answers: a token each, its text, and perhaps the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.generation.sampling import most_likely
from vlm_serve.engine.batching.answer import CRASHED, NOT_FINITE, Answer, Counters
from vlm_serve.engine.batching.decode_groups import Step
from vlm_serve.engine.batching.kept_turns import KeptTurns
from vlm_serve.engine.prepare import Preparer
from vlm_serve.engine.request import Event, Failed, Finished, Piece, refusal
from vlm_serve.engine.sampling.row_sampler import Choice
from vlm_serve.engine.sampling.token_bytes import TokenNames

log = logging.getLogger(__name__)


def to_host(*tensors: Tensor) -> tuple[list[Tensor], Callable[[], None]]:
    """Begin to copy tensors of one device to the CPU, those of the CPU as they are -> (copies, what waits for them)."""
    if not tensors[0].is_cuda:
        return list(tensors), lambda: None
    copies = [torch.empty(t.shape, dtype=t.dtype, device="cpu", pin_memory=True) for t in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    return copies, torch.cuda.current_stream().record_event().synchronize


class Outputs:
    """Chooses tokens and sends what comes of them."""

    def __init__(self, preparer: Preparer, kept_turns: KeptTurns) -> None:
        self.tokenizer, self.kept_turns, self.counters = preparer.tokenizer, kept_turns, Counters()
        self.names = TokenNames(preparer.tokenizer, preparer.grammars)
        self._held: list[tuple[Answer, Event]] | None = None

    @torch.inference_mode()
    def first_step(self, answer: Answer, logits: Tensor) -> Step[Answer]:
        """The choice of an answer's first token from logits (1, V); on a GPU it is begun."""
        known = logits[:, : len(self.tokenizer)]
        wanted = [] if answer.prepared.sampler.is_argmax else [known]
        (best, *rest), wait = to_host(most_likely(known), *wanted)

        def read() -> list[int]:
            wait()
            return best.tolist()

        return Step([answer], rest[0] if rest else known, read)

    def choose(self, step: Step[Answer], among: Container[Answer] | None = None) -> list[Answer]:
        """The next token of each member that is `among` those who wait for one -> those that go on."""
        waiting = [(i, a) for i, a in enumerate(step.members) if among is None or a in among]
        chosen: list[int | None] = [*step.read()]
        for i, answer in waiting:
            sampler = answer.prepared.sampler
            if not (sampler.is_argmax or (sampler.is_draw and step.draws)):
                chosen[i] = None
        logits: Sequence[Tensor | None] = [None] * len(chosen)
        if None in chosen:
            (copy,), wait = to_host(step.logits[:, : len(self.tokenizer)])
            wait()
            logits = copy.unbind()
        with self._together():
            return [a for i, a in waiting if self._goes_on(a, chosen[i], logits[i])]

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Send the events of a step at its end, all at once: who receives them is woken for each time."""
        self._held = held = []
        try:
            yield
        finally:
            self._held = None
            for answer, event in held:
                answer.receiver.hold(event)
            for answer, _ in held:
                answer.receiver.flush()

    def _send(self, answer: Answer, event: Event) -> None:
        if self._held is None:
            answer.receiver.send(event)
        else:
            self._held.append((answer, event))

    def _goes_on(self, answer: Answer, chosen: int | None, logits: Tensor | None) -> bool:
        """Take the chosen token, or choose one from logits (V,) -> whether the answer goes on."""
        try:
            sampler = answer.prepared.sampler
            if chosen is None:
                assert logits is not None
                return self._take(answer, sampler.choose(logits))
            sampler.count(chosen)
            return self._take(answer, Choice(chosen))
        except UserError as error:
            self.fail(answer, refusal(error))
        except Exception:
            log.exception("request %s: choosing a token failed", answer.prepared.request.id)
            self.fail(answer, CRASHED)
        return False

    def _take(self, answer: Answer, choice: Choice) -> bool:
        """Send what a token adds to an answer -> whether the answer goes on."""
        prepared, token = answer.prepared, choice.token
        if token < 0:
            self.fail(answer, NOT_FINITE)
            return False
        if token in prepared.ends:
            self._finish(answer, "stop")
            return False
        answer.tokens.append(token)
        self.counters.generated_tokens += 1
        if prepared.grammar is not None:
            prepared.grammar.add(token)
        logprobs = () if choice.logprob is None else (self.names.logprob(choice),)
        self._show(answer, Piece(prepared.text.add(token), 1, logprobs))
        if prepared.text.stopped or (prepared.grammar is not None and prepared.grammar.ended):
            self._finish(answer, "stop")
            return False
        if len(answer.tokens) >= prepared.max_tokens:
            self._finish(answer, "length")
            return False
        return True

    def _show(self, answer: Answer, piece: Piece) -> None:
        answer.shown.append(piece.text)
        self._send(answer, piece)

    def _finish(self, answer: Answer, reason: Any) -> None:
        text = answer.prepared.text
        if rest := text.finish():
            self._show(answer, Piece(rest, 0))
        if text.stopped:
            reason = "stop"
        self.counters.finished += 1
        self._send(answer, Finished(reason, len(answer.tokens)))
        self.kept_turns.add(answer.prepared, "".join(answer.shown))

    def fail(self, answer: Answer, failure: Failed) -> None:
        self.counters.failed += 1
        self._send(answer, failure)
