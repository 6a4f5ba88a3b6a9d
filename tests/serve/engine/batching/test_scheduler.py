"""The steps of the scheduler, without threads: who is read and decoded when, and who gets a slot."""

import pytest
from engine_cases import GREEDY, Outcome, chat, request

from vlm_core.errors import UserError
from vlm_core.generation.prefix_reader import PrefixReader
from vlm_core.states.cache import StateCache
from vlm_serve.engine.batching.answer import CRASHED, NOT_FINITE, Answer
from vlm_serve.engine.batching.decode_groups import ROWS, Batching
from vlm_serve.engine.batching.scheduler import Scheduler
from vlm_serve.engine.prepare import Preparer
from vlm_serve.engine.request import Failed, Piece, SamplingParams, Started
from vlm_serve.engine.settings import EngineSettings

ENDLESS = SamplingParams(max_tokens=1000, temperature=0.0, logit_bias={0: -1e9})


class Steps:
    """A scheduler, and the events of its requests."""

    def __init__(self, served, cache=None, **settings):
        settings = EngineSettings(**{"prefill_chunk": 64, **settings})
        reader = PrefixReader(*served, cache)
        self.preparer = Preparer(reader, settings.max_positions)
        self.scheduler = Scheduler(reader, self.preparer, settings, Batching(ROWS))

    def answer(self, text, sampling=ENDLESS, owner="", before=()):
        prompt = chat(text, before=before)
        return Answer(self.preparer(request(prompt, sampling, owner)), Receiver())

    def add(self, text, sampling=ENDLESS, owner="", before=()):
        answer = self.answer(text, sampling, owner, before)
        self.scheduler.add(answer)
        return answer.receiver

    def run(self, count=None):
        """Steps until nothing is left to do, or `count`."""
        done = 0
        while (count is None or done < count) and self.scheduler.step():
            done += 1
        return done


class Receiver:
    cancelled = False

    def __init__(self):
        self.events = []

    def send(self, event):
        self.events.append(event)

    hold = send

    def flush(self):
        pass

    def count(self, kind=Piece):
        return sum(isinstance(event, kind) for event in self.events)

    @property
    def outcome(self):
        pieces = [event for event in self.events if isinstance(event, Piece)]
        return Outcome(None, pieces, self.events[-1])


@pytest.fixture
def steps(served):
    return lambda cache=None, **settings: Steps(served, cache, **settings)


def test_answers_go_on_while_a_long_prompt_is_read(steps):
    engine = steps()
    live, long = engine.add("red"), None
    engine.run(2)
    long = engine.add("a blue triangle " * 200)
    while not long.count(Started):
        before = live.count()
        engine.run(1)
        assert live.count() == before + 1
    assert engine.scheduler.counters.prefill_positions > 1000


def test_short_prompts_overtake_long_ones_which_go_on(steps):
    engine = steps()
    long = engine.add("a blue triangle " * 200)
    engine.run(2)
    for _ in range(5):
        short, unread = engine.add("red"), engine.scheduler.reading[0].unread
        engine.run(3)
        assert short.count(Started)
        assert long.count(Started) or engine.scheduler.reading[0].unread < unread


def test_who_comes_while_a_prompt_is_read_is_read_before_the_next_token(steps):
    """As far as the positions of one step go, so that answers go on."""
    engine = steps(slots=4, prefill_chunk=100)
    live, first = engine.add("red"), None
    engine.run(2)
    first, coming = engine.add("red"), [engine.answer("a circle " * 3) for _ in range(5)]
    arriving, before = [coming[:1], coming[1:2], coming[2:]], live.count()
    assert engine.scheduler.step(lambda: arriving.pop(0) if arriving else ())
    assert live.count() == before + 1
    assert first.count(Started) == 1
    assert [answer.receiver.count(Started) for answer in coming] == [1, 1, 0, 0, 0]  # no slot is free
    assert len(engine.scheduler.waiting) == 3
    assert engine.scheduler.waiting.first() is coming[2]


def test_who_comes_while_a_prompt_is_read_waits_if_all_would_be_too_much_for_one_step(steps):
    engine = steps(prefill_chunk=100)
    short, long = engine.add("red"), engine.answer("a blue triangle " * 40)
    assert long.unread > 100
    assert engine.scheduler.step(lambda: [long] if not engine.scheduler.reading else ())
    assert short.count(Started) == 1
    assert (long.read, engine.scheduler.reading) == (0, [long])


def test_a_slot_is_free_at_once_when_its_request_is_cancelled(steps):
    engine = steps(slots=2)
    first, second, third = engine.add("red"), engine.add("is there a circle?"), engine.add("red?")
    engine.run(6)
    assert first.count() > 0 < second.count()
    assert third.count(Started) == 0
    first.cancelled = True
    seen = first.count()
    engine.run(2)
    assert third.count(Started) == 1
    assert first.count() == seen
    second.cancelled = third.cancelled = True
    engine.run(1)
    assert engine.scheduler.slots_in_use == 0
    assert [group.members for group in engine.scheduler.groups] == [[]]
    assert engine.scheduler.counters.cancelled == 3


def test_slots_go_to_owners_in_turn(steps):
    engine = steps(slots=1, prefill_chunk=1)  # a step ends before the next prompt
    once = SamplingParams(max_tokens=1, temperature=0.0)
    many = [engine.add("red", once, owner="a") for _ in range(5)]
    one = engine.add("red", once, owner="b")
    while not one.events:
        engine.run(1)
    assert sum(bool(receiver.events) for receiver in many) == 1


def test_a_free_slot_goes_to_the_owner_with_the_fewest(steps):
    """One owner has all slots and more requests; each slot that gets free is another's until all have as many."""
    engine = steps(slots=6)
    many = [engine.add("red", owner="a") for _ in range(20)]
    engine.run(7)
    assert sum(bool(receiver.events) for receiver in many) == 6
    others = {owner: [engine.add("red", owner=owner) for _ in range(4)] for owner in "bc"}
    shares = []
    for receiver in many[:4]:
        receiver.cancelled = True
        engine.run(2)
        shares.append("".join(sorted(answer.prepared.request.owner for answer in engine.scheduler.live)))
    assert shares == ["aaaaab", "aaaabc", "aaabbc", "aabbcc"]
    others["b"][0].cancelled = True
    engine.run(2)
    assert [sum(bool(receiver.events) for receiver in others[owner]) for owner in "bc"] == [3, 2]
    for receiver in (*others["b"], *others["c"]):
        receiver.cancelled = True
    engine.run(10)
    assert [answer.prepared.request.owner for answer in engine.scheduler.live] == ["a"] * 6


def test_states_have_a_budget(steps, served):
    engine = steps(slots=10)
    size = engine.scheduler.costs.bytes(1)
    engine = steps(slots=10, state_bytes=3 * size)
    for _ in range(5):
        engine.add("red")
    engine.run(10)
    assert engine.scheduler.slots_in_use == 3
    assert engine.scheduler.state_bytes == 3 * size
    small = steps(state_bytes=size - 1)
    refused = small.add("red").events
    assert [event.kind for event in refused] == ["refused"]


def test_an_error_while_reading_ends_one_request(steps, monkeypatch):
    engine = steps()
    good = engine.add("is there a circle?", GREEDY)
    engine.run(1)
    for error, failure in ((RuntimeError("bug"), CRASHED), (UserError("odd"), Failed("refused", "odd"))):

        def fail(*_, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(engine.scheduler.reader, "steps", lambda *_, fail=fail: iter(fail, None))
            bad = engine.add("red", GREEDY)
            engine.run(2)
        assert bad.events == [failure]
    engine.run()
    assert not isinstance(good.outcome.last, Failed)
    assert engine.scheduler.slots_in_use == 0


def test_an_error_while_choosing_ends_one_request(steps, monkeypatch):
    engine = steps()
    good, bad = engine.add("is there a circle?", GREEDY), engine.add("red")
    engine.run(4)
    (answer,) = [one for one in engine.scheduler.live if one.receiver is bad]
    monkeypatch.setattr(answer.prepared.text, "add", lambda _: 1 / 0)
    engine.run()
    assert bad.events[-1] == CRASHED
    assert not isinstance(good.outcome.last, Failed)


def test_an_error_while_decoding_ends_its_group_alone(steps, monkeypatch):
    engine = steps(slots=ROWS + 1)
    receivers = [engine.add("red") for _ in range(ROWS + 1)]
    while len(engine.scheduler.live) <= ROWS:
        engine.run(1)
    first, second = engine.scheduler.groups
    monkeypatch.setattr(first, "launch", lambda _: 1 / 0)
    engine.run(1)
    assert sum(receiver.events[-1] == CRASHED for receiver in receivers) == ROWS
    assert engine.scheduler.groups == [second]


def test_damaged_weights_are_told_of(steps, served, monkeypatch):
    engine = steps()
    receiver = engine.add("red")
    monkeypatch.setattr(
        type(served[0].llm), "logits", lambda self, hidden: hidden.new_full((1, 300), float("nan"))
    )
    engine.run()
    assert receiver.events[-1] == NOT_FINITE


def test_small_groups_are_merged(steps):
    engine = steps(slots=2 * ROWS)
    receivers = [engine.add("red") for _ in range(ROWS + 3)]
    while len(engine.scheduler.live) < ROWS + 3:
        engine.run(1)
    assert [len(group.members) for group in engine.scheduler.groups] == [ROWS, 3]
    for receiver in receivers[:3]:
        receiver.cancelled = True
    engine.run(1)
    assert [len(group.members) for group in engine.scheduler.groups] == [ROWS]


class TestCache:
    """States that were read before."""

    def read(self, engine, text, owner="", before=()):
        """Positions that were cached, and those of the prompt."""
        receiver = engine.add(text, GREEDY, owner, before)
        engine.run()
        (started,) = [event for event in receiver.events if isinstance(event, Started)]
        return started.cached_tokens, started.prompt_tokens, receiver.outcome.text

    def test_a_prompt_is_not_read_twice(self, steps):
        engine = steps(StateCache())
        cached, positions, text = self.read(engine, "is there a circle?")
        assert cached == 0
        assert self.read(engine, "is there a circle?") == (positions, positions, text)
        read = engine.scheduler.counters.prefill_positions
        assert read == positions

    def test_a_prompt_is_read_once_for_all_who_ask_at_once(self, steps):
        engine = steps(StateCache())
        same = [engine.add("a blue triangle " * 60, GREEDY) for _ in range(4)]
        other = engine.add("a blue triangle " * 60, GREEDY, owner="b")
        engine.run()
        (positions,) = {
            event.prompt_tokens for one in same for event in one.events if isinstance(event, Started)
        }
        assert engine.scheduler.counters.prefill_positions == 2 * positions
        assert len({receiver.outcome.text for receiver in (*same, other)}) == 1

    def test_owners_have_states_of_their_own(self, steps):
        engine = steps(StateCache())
        assert self.read(engine, "red", owner="a")[0] == 0
        assert self.read(engine, "red", owner="b")[0] == 0
        assert self.read(engine, "red", owner="")[0] == 0
        assert self.read(engine, "red", owner="a")[0] > 0

    def test_the_next_turn_reads_the_new_question_alone(self, steps):
        """The state after an answer is kept while the engine is idle; answers equal those without a cache."""
        engine, plain = steps(StateCache()), steps()
        question, turns = "what color is the shape?", []
        for _ in range(3):
            _, _, answer = self.read(engine, question, before=turns)
            turns.append((question, answer))
            cached, positions, text = self.read(engine, "red", before=turns)
            assert self.read(plain, "red", before=turns) == (0, positions, text)
            assert positions - cached <= len(engine.preparer.tokenizer.encode("Question: red Answer:")) + 2
