"""The memory that a GPU has for states, and one that answers no more; no GPU is needed."""

import asyncio

import pytest
from engine_cases import answered, chat, request

from vlm_core.errors import UserError
from vlm_serve.engine.batching import gpu
from vlm_serve.engine.batching.answer import CRASHED
from vlm_serve.engine.batching.state_costs import StateCosts
from vlm_serve.engine.request import Failed, Finished
from vlm_serve.engine.settings import EngineSettings

MIB = 2**20
CONSTANT, GROWING = StateCosts(20 * MIB), StateCosts(0, 2**10)


def budget(costs, free, **settings):
    return gpu.state_budget(
        EngineSettings(**{"slots": 16, "cache_bytes": 100 * MIB, **settings}), costs, free
    )


def test_a_budget_is_that_of_the_settings():
    assert budget(CONSTANT, None) is None
    assert budget(CONSTANT, 10**10) is None, "that of all slots"
    assert budget(CONSTANT, None, state_bytes=50 * MIB) == 50 * MIB
    assert budget(CONSTANT, 10**9, state_bytes=50 * MIB) == 50 * MIB


@pytest.mark.parametrize("costs", [CONSTANT, GROWING], ids=["constant", "growing"])
def test_a_gpu_with_little_room_has_fewer_live_answers(costs, caplog):
    """Who has no room waits; states of 16,384 positions would take 16 MiB each."""
    assert budget(costs, 300 * MIB) == 170 * MIB
    assert budget(costs, 200 * MIB) == 80 * MIB
    assert "has room for" in caplog.text


@pytest.mark.parametrize(
    ("free", "settings", "words"),
    [
        (130 * MIB, {}, "one answer's takes"),
        (10**9, {"state_bytes": 10**9}, "live ones 1.00 GB"),
        (10**9, {"cache_bytes": 10**9}, "cached ones take 1.00 GB"),
        (None, {"state_bytes": MIB}, "must be larger"),
    ],
)
def test_what_does_not_fit_is_refused(free, settings, words):
    with pytest.raises(UserError, match=words):
        budget(CONSTANT, free, **settings)


def test_a_gpu_that_answers_no_more_fails_every_request(engine_of, monkeypatch):
    """At once, also those that come later; a single failure of a sound GPU does not."""
    engine = engine_of()
    asked = [request(chat("red"), name=str(n)) for n in range(3)]
    steps = engine.scheduler.reader.steps

    def fault():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(engine.scheduler.reader, "steps", lambda *_: iter(fault, None))
    (failed,) = answered(engine, asked[0])
    assert failed.last == CRASHED
    assert not engine.lost
    monkeypatch.setattr(engine.scheduler.reader, "steps", steps)
    (sound,) = answered(engine, asked[0])
    assert isinstance(sound.last, Finished)

    monkeypatch.setattr(gpu, "is_lost", lambda _: True)
    monkeypatch.setattr(engine.scheduler.reader, "steps", lambda *_: iter(fault, None))
    assert [one.last for one in answered(engine, *asked)] == [CRASHED] * 3
    assert engine.lost
    monkeypatch.setattr(engine.scheduler.reader, "steps", steps)
    (later,) = answered(engine, asked[0])
    assert isinstance(later.last, Failed)
    asyncio.run(engine.close(0))
