"""The steps of continuous batching: admit, read a part of a prompt, decode a token of every live answer.

One thread calls `step`; the others add and cancel requests through `LocalEngine`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.generation.prefix_reader import PrefixReader
from vlm_serve.engine.batching.answer import CRASHED, NOT_FINITE, Answer, Counters
from vlm_serve.engine.batching.decode_groups import Batching, Group
from vlm_serve.engine.batching.fair_queue import FairQueue
from vlm_serve.engine.batching.kept_turns import KeptTurns
from vlm_serve.engine.batching.state_costs import StateCosts
from vlm_serve.engine.prepare import Preparer
from vlm_serve.engine.request import Failed, Finished, Piece, Started, refusal
from vlm_serve.engine.sampling.row_sampler import Choice
from vlm_serve.engine.sampling.token_bytes import TokenNames
from vlm_serve.engine.settings import EngineSettings

log = logging.getLogger(__name__)


class Scheduler:
    """Owns the live states of a model. Every method is called by one thread."""

    def __init__(
        self, reader: PrefixReader, preparer: Preparer, settings: EngineSettings, batching: Batching
    ) -> None:
        self.model, self.reader, self.preparer = reader.model, reader, preparer
        self.settings, self.batching = settings, batching
        self.costs = StateCosts.of(self.model)
        self.names = TokenNames(preparer.tokenizer, preparer.grammars)
        self.waiting: FairQueue[Answer] = FairQueue(self._owners)
        self.reading: list[Answer] = []
        self.groups: list[Group[Answer]] = []
        self.counters, self._turn = Counters(), 0
        self.kept_turns = KeptTurns(preparer, settings)

    @property
    def live(self) -> list[Answer]:
        """Answers that are being generated."""
        return [answer for group in self.groups for answer in group.members]

    def _owners(self) -> list[str]:
        """Who has the slots in use."""
        return [answer.prepared.request.owner for answer in (*self.reading, *self.live)]

    @property
    def slots_in_use(self) -> int:
        return len(self.reading) + sum(len(group.members) for group in self.groups)

    @property
    def state_bytes(self) -> int:
        """Bytes that are reserved for the states of all slots in use."""
        return sum(answer.bytes for answer in (*self.reading, *self.live))

    def add(self, answer: Answer) -> None:
        """Let an answer wait for a slot; one that no slot can hold fails at once."""
        prepared = answer.prepared
        answer.bytes, budget = self.costs.bytes(prepared.positions), self.settings.state_bytes
        self.counters.requests += 1
        if budget is not None and answer.bytes > budget:
            text = f"prompt and answer need {answer.bytes} bytes of state; the server has {budget}"
            self._fail(answer, Failed("refused", f"{text}: lower max_tokens, or shorten the prompt"))
            return
        self.waiting.put(prepared.request.owner, answer)

    def step(self, arriving: Callable[[], Iterable[Answer]] = tuple) -> bool:
        """Do a part of the work -> whether there was any; `arriving` returns who has come since its last call."""
        self._drop_cancelled()
        self._admit()
        worked = self._read_parts(arriving)
        for group in list(self.groups):
            if group.members:
                self._decode(group)
                worked = True
        return worked or self.kept_turns.step()

    def fail_all(self, failure: Failed) -> None:
        """End every request."""
        for answer in [*self.waiting.remove_if(lambda _: True), *self.reading, *self.live]:
            self._fail(answer, failure)
        self.reading, self.groups = [], []

    def _drop_cancelled(self) -> None:
        gone = self.waiting.remove_if(lambda answer: answer.receiver.cancelled)
        gone += [answer for answer in self.reading if answer.receiver.cancelled]
        self.reading = [answer for answer in self.reading if not answer.receiver.cancelled]
        for group in list(self.groups):
            if leaving := [answer for answer in group.members if answer.receiver.cancelled]:
                gone += leaving
                self._leave(group, leaving)
        self.counters.cancelled += len(gone)

    def _admit(self) -> None:
        """Give free slots to those who wait, in turn; nobody overtakes one whose state has no room yet."""
        while self.slots_in_use < self.settings.slots and (first := self.waiting.first()):
            budget = self.settings.state_bytes
            if budget is not None and self.state_bytes + first.bytes > budget:
                return
            answer = self.waiting.take()
            answer.session = self.settings.session(self.model)
            answer.steps = self.reader.steps(answer.session, answer.prepared.plan, answer.prepared.owner)
            self.reading.append(answer)

    def _read_parts(self, arriving: Callable[[], Iterable[Answer]]) -> bool:
        """Read on: a part of one prompt, and others that are short enough to be read with it, also of who comes now."""
        self._turn += 1
        room, worked = self.settings.prefill_chunk, False
        while room > 0 and (answer := self._next_to_read(room, first=not worked)):
            room -= self._read_part(answer)
            worked = True
            for new in arriving():
                self.add(new)
            self._admit()
        return worked

    def _next_to_read(self, room: int, *, first: bool) -> Answer | None:
        """The oldest prompt of those that fit; first of all in turn the oldest, or the shortest if none fits."""
        ready = [answer for answer in self.reading if not self._is_being_read(answer)]
        fitting = [answer for answer in ready if answer.unread <= room]
        if not first or not ready:
            return fitting[0] if fitting else None
        if self._turn % 2 == 0:
            return ready[0]
        return fitting[0] if fitting else min(ready, key=lambda answer: answer.unread)

    def _read_part(self, answer: Answer) -> int:
        """Read a part of a prompt -> its positions, or as many as a whole part for other work."""
        try:
            return self._read(answer)
        except UserError as error:
            self.reading.remove(answer)
            self._fail(answer, refusal(error))
        except Exception:
            log.exception("request %s: reading its prompt failed", answer.prepared.request.id)
            self.reading.remove(answer)
            self._fail(answer, CRASHED)
        return self.settings.prefill_chunk

    def _is_being_read(self, answer: Answer) -> bool:
        """Whether another request is reading what this one begins with, which is then in the cache."""
        if self.reader.cache is None or answer.cached is not None:
            return False
        return any(
            other.cached is not None
            and other.prepared.owner == answer.prepared.owner
            and other.unread_keys & answer.unread_keys
            for other in self.reading
        )

    def _read(self, answer: Answer) -> int:
        assert answer.steps is not None
        read = next(answer.steps)
        if answer.cached is None:
            answer.cached = answer.read = read
            self.counters.cached_positions += read
            if answer.unread:
                read = next(answer.steps)
        positions, answer.read = read - answer.read, read
        self.counters.prefill_positions += positions
        if not answer.unread:
            self._begin(answer)
        return positions or (self.settings.prefill_chunk if answer.unread else 1)

    def _begin(self, answer: Answer) -> None:
        """The first token of an answer whose prompt has been read."""
        session, cached = answer.session, answer.cached
        assert session is not None
        assert cached is not None
        self.reading.remove(answer)
        answer.session = answer.steps = None
        answer.receiver.send(Started(answer.prepared.plan.positions, cached))
        logits, state = session.next_logits, session.state
        assert logits is not None
        assert state is not None
        if self._choose([answer], logits):
            self._join(answer, state)

    def _join(self, answer: Answer, state: Any) -> None:
        group = next((group for group in self.groups if len(group.members) < group.rows), None)
        if group is None:
            group = Group(self.model, self.batching, self.settings.slots)
            self.groups.append(group)
        group.change([], [(answer, state)])

    def _leave(self, group: Group[Answer], leaving: list[Answer]) -> None:
        group.change(leaving, [])
        others = [other for other in self.groups if other is not group]
        roomy = [o for o in others if len(o.members) + len(group.members) <= o.rows]
        if roomy:  # two groups take two steps
            roomy[0].change([], [(answer, group.taken(answer)) for answer in group.members])
            self.groups.remove(group)

    def _decode(self, group: Group[Answer]) -> None:
        """One token of every member; an error ends these answers, and no others."""
        members = list(group.members)
        try:
            with torch.inference_mode():
                logits = group.step([answer.tokens[-1] for answer in members])
                going_on = self._choose(members, logits)
        except Exception:
            log.exception("decoding a group of %d answers failed", len(members))
            self.groups.remove(group)
            for answer in members:
                self._fail(answer, CRASHED)
            return
        self.counters.decode_steps += 1
        if len(going_on) < len(members):
            self._leave(group, [answer for answer in members if answer not in going_on])

    def _choose(self, answers: list[Answer], logits: Tensor) -> list[Answer]:
        """The next token of each answer from logits (answers, V) -> those that go on."""
        known = logits[:, : len(self.preparer.tokenizer)]
        best = known.max(-1)
        finite, largest = best.values.isfinite().tolist(), best.indices.tolist()
        going_on = []
        for i, answer in enumerate(answers):
            try:
                sampler = answer.prepared.sampler
                if sampler.is_argmax:
                    choice = Choice(largest[i] if finite[i] else -1)
                    sampler.count(choice.token)
                else:
                    choice = sampler.choose(known[i])
                if self._take(answer, choice):
                    going_on.append(answer)
            except UserError as error:
                self._fail(answer, refusal(error))
            except Exception:
                log.exception("request %s: choosing a token failed", answer.prepared.request.id)
                self._fail(answer, CRASHED)
        return going_on

    def _take(self, answer: Answer, choice: Choice) -> bool:
        """Send what a token adds to an answer -> whether the answer goes on."""
        prepared, token = answer.prepared, choice.token
        if token < 0:
            self._fail(answer, NOT_FINITE)
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
        answer.receiver.send(piece)

    def _finish(self, answer: Answer, reason: Any) -> None:
        text = answer.prepared.text
        if rest := text.finish():
            self._show(answer, Piece(rest, 0))
        if text.stopped:
            reason = "stop"
        self.counters.finished += 1
        answer.receiver.send(Finished(reason, len(answer.tokens)))
        self.kept_turns.add(answer.prepared, "".join(answer.shown))

    def _fail(self, answer: Answer, failure: Failed) -> None:
        self.counters.failed += 1
        answer.receiver.send(failure)
