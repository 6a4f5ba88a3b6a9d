"""The steps of continuous batching: admit, read a part of a prompt, decode a token of every live answer.

One thread calls `step`; the others add and cancel requests through `LocalEngine`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from heapq import nsmallest
from typing import Any

import torch

from vlm_core.errors import UserError
from vlm_core.generation.prefix_reader import PrefixReader
from vlm_serve.engine.batching.answer import CRASHED, Answer
from vlm_serve.engine.batching.decode_groups import Batching, Group, Step, steps_are_graphs
from vlm_serve.engine.batching.fair_queue import FairQueue
from vlm_serve.engine.batching.gpu import capture_parts
from vlm_serve.engine.batching.kept_turns import KeptTurns
from vlm_serve.engine.batching.outputs import Outputs
from vlm_serve.engine.batching.prompt_order import PromptOrder
from vlm_serve.engine.batching.state_costs import StateCosts
from vlm_serve.engine.prepare import Preparer
from vlm_serve.engine.request import Failed, Started, refusal
from vlm_serve.engine.settings import EngineSettings

log = logging.getLogger(__name__)


class Scheduler:
    """Owns the live states of a model. Every method is called by one thread."""

    def __init__(
        self, reader: PrefixReader, preparer: Preparer, settings: EngineSettings, batching: Batching
    ) -> None:
        self.model, self.reader, self.preparer = reader.model, reader, preparer
        self.settings, self.batching = settings, batching
        self.costs, self.state_budget = StateCosts.of(self.model), settings.state_bytes
        self.waiting: FairQueue[Answer] = FairQueue(self._owners)
        self.reading: list[Answer] = []
        self.groups: list[Group[Answer]] = []
        self._spare: list[Group[Answer]] = []
        self._first: list[tuple[Step[Answer], Any]] = []
        """First steps of answers whose prompts were read, with the states before them."""
        self.kept_turns = KeptTurns(preparer, settings)
        self._prompts = PromptOrder(caches=reader.cache is not None)
        self._on_gpu = steps_are_graphs(self.model)
        self.outputs = Outputs(preparer, self.kept_turns)
        self.counters = self.outputs.counters

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
        answer.bytes, budget = self.costs.bytes(prepared.positions), self.state_budget
        self.counters.requests += 1
        if budget is not None and answer.bytes > budget:
            text = f"prompt and answer need {answer.bytes} bytes of state; the server has {budget}"
            self.outputs.fail(answer, Failed("refused", f"{text}: lower max_tokens, or shorten the prompt"))
            return
        self.waiting.put(prepared.request.owner, answer)

    def step(self, arriving: Callable[[], Iterable[Answer]] = tuple) -> bool:
        """Do a part of the work -> whether there was any; `arriving` returns who has come since its last call."""
        self._drop_cancelled()
        self._merge_groups()
        self._admit()
        worked = self._read_parts(arriving)
        for group in list(self.groups):
            if group.members:
                self._guarded(group, self._decode)
                worked = True
        self._begin_answers()
        return worked or self.kept_turns.step()

    def fail_all(self, failure: Failed) -> None:
        """End every request."""
        for answer in [*self.waiting.remove_if(lambda _: True), *self.reading, *self.live]:
            self.outputs.fail(answer, failure)
        self.reading, self.groups, self._first = [], [], []

    def _drop_cancelled(self) -> None:
        gone = self.waiting.remove_if(lambda answer: answer.receiver.cancelled)
        gone += [answer for answer in self.reading if answer.receiver.cancelled]
        self.reading = [answer for answer in self.reading if not answer.receiver.cancelled]
        for group in list(self.groups):
            if leaving := [answer for answer in group.members if answer.receiver.cancelled]:
                gone += leaving
                group.change(leaving, [])
        self.counters.cancelled += len(gone)

    def _admit(self) -> None:
        """Give free slots to those who wait, in turn; nobody overtakes one whose state has no room yet."""
        while self.slots_in_use < self.settings.slots and (first := self.waiting.first()):
            budget = self.state_budget
            if budget is not None and self.state_bytes + first.bytes > budget:
                return
            answer = self.waiting.take()
            answer.session = self.settings.session(self.model)
            answer.steps = self.reader.steps(answer.session, answer.prepared.plan, answer.prepared.owner)
            self.reading.append(answer)

    def _read_parts(self, arriving: Callable[[], Iterable[Answer]]) -> bool:
        """Read on: a part of one prompt, and others that are short enough to be read with it, also of who comes now."""
        self._prompts.begin_round()
        room, worked = self.settings.prefill_chunk, False
        while room > 0 and (answer := self._prompts.next(self.reading, room, first=not worked)):
            room -= self._read_part(answer)
            worked = True
            for new in arriving():
                self.add(new)
            self._admit()
        return worked

    def _read_part(self, answer: Answer) -> int:
        """Read a part of a prompt -> its positions, or as many as a whole part for other work."""
        positions = self.settings.prefill_chunk
        with self._failing(answer):
            positions = self._read(answer)
        return positions

    @contextmanager
    def _failing(self, answer: Answer) -> Iterator[None]:
        """An error ends this answer, whose prompt is read, and no other."""
        try:
            yield
            return
        except UserError as error:
            failure = refusal(error)
        except Exception:
            log.exception("request %s: reading its prompt failed", answer.prepared.request.id)
            failure = CRASHED
        if answer in self.reading:  # it may have failed while it was put among those that are decoded
            self.reading.remove(answer)
        self.outputs.fail(answer, failure)

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
            self._read_whole(answer)
        return positions or (self.settings.prefill_chunk if answer.unread else 1)

    def _read_whole(self, answer: Answer) -> None:
        """An answer has read its prompt. A GPU still computes, and gets its next work before its result is read."""
        session = answer.session
        assert session is not None
        logits, state = session.next_logits, session.state
        assert logits is not None
        answer.session = answer.steps = None
        self._first.append((self.outputs.first_step(answer, logits), state))
        if not self._on_gpu:
            self._begin_answers()

    def _begin_answers(self) -> None:
        """The first tokens of the answers whose prompts have been read."""
        first, self._first = self._first, []
        for step, state in first:
            (answer,) = step.members
            if answer in self.reading:  # not cancelled
                with self._failing(answer):
                    self._begin(answer, step, state)

    def _begin(self, answer: Answer, step: Step[Answer], state: Any) -> None:
        self.reading.remove(answer)
        assert answer.cached is not None
        answer.receiver.send(Started(answer.prepared.plan.positions, answer.cached))
        if self.outputs.choose(step):
            self._join(answer, state)

    def _join(self, answer: Answer, state: Any) -> None:
        group = next((group for group in self.groups if len(group.members) < group.rows), None)
        if group is None:
            group = self._spare.pop() if self._spare else self._new_group()
            self.groups.append(group)
        group.change([], [(answer, state)])

    def _new_group(self) -> Group[Answer]:
        return Group(self.model, self.batching, self.settings.slots)

    def prepare(self) -> None:
        """Capture on a GPU, before the first request, the graphs of a group and those of parts of prompts."""
        if self._on_gpu and self.model.llm.decode_slots(1) is not None:
            self._spare.append(self._new_group())
            capture_parts(self.model, self.settings.prefill_chunk)

    @property
    def decode_graphs(self) -> int:
        """CUDA graphs of the groups."""
        return sum(group.graphs for group in (*self.groups, *self._spare))

    def _merge_groups(self) -> None:
        """Put the members of two groups into one where they fit: two groups take two steps."""
        while len(self.groups) > 1:
            group, other = nsmallest(2, self.groups, key=lambda group: len(group.members))
            if len(group.members) + len(other.members) > other.rows:
                return
            self._merge(group, other)

    def _merge(self, group: Group[Answer], other: Group[Answer]) -> None:
        """Move all members of a group to another."""
        if all(self._guarded(each, self._receive_running) for each in (group, other)):
            moved = [(answer, group.taken(answer)) for answer in group.members]
            other.change([], moved)
            group.change([answer for answer, _ in moved], [])
            self.groups.remove(group)
            self._spare.append(group)

    def _guarded(self, group: Group[Answer], work: Callable[[Group[Answer]], None]) -> bool:
        """Work on a group -> whether it succeeded; an error ends its answers, and no others."""
        try:
            with torch.inference_mode():
                work(group)
        except Exception:
            log.exception("decoding a group of %d answers failed", len(group.members))
            self.groups.remove(group)
            for answer in group.members:
                self.outputs.fail(answer, CRASHED)
            return False
        return True

    def _decode(self, group: Group[Answer]) -> None:
        """A step of a group, and the tokens of this step or, where steps run ahead, of the one before."""
        ahead = group.runs_ahead and all(answer.prepared.sampler.needs_no_host for answer in group.members)
        if not ahead:
            self._receive_running(group)
        before, group.running = group.running, None
        if not group.members:
            return
        unread = set() if before is None else set(before.members)
        ids = [None if answer in unread else answer.tokens[-1] for answer in group.members]
        samplers = [(answer.prepared.sampler, answer in unread) for answer in group.members]
        draws = [sampler.draw(ahead=is_unread) for sampler, is_unread in samplers] if group.runs_ahead else []
        step = group.launch(ids, draws)
        self.counters.decode_steps += 1
        if not ahead:
            self._receive(group, step)
            return
        group.running = step
        if before is not None:
            self._receive(group, before)

    def _receive_running(self, group: Group[Answer]) -> None:
        """The tokens of a step that was launched ahead."""
        step, group.running = group.running, None
        if step is not None:
            self._receive(group, step)

    def _receive(self, group: Group[Answer], step: Step[Answer]) -> None:
        """The tokens of a step; who has ended leaves, and who has left since has no token."""
        members = set(group.members)
        going_on = set(self.outputs.choose(step, members))
        leaving = [answer for answer in step.members if answer in members and answer not in going_on]
        group.change(leaving, [])
