"""Worker processes that make no progress are killed, their requests fail, and others are started."""

import asyncio
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from engine_cases import answered, chat, outcome, request
from worker_faults import HangingPlan, wait_for

from vlm_core.errors import UserError
from vlm_serve.engine.batching.answer import CRASHED
from vlm_serve.engine.request import Finished, SamplingParams
from vlm_serve.engine.settings import EngineSettings
from vlm_serve.engine.worker import HUNG
from vlm_serve.engine.workers import Workers

SHORT = 3.0
LONG = SamplingParams(max_tokens=10_000, temperature=1.0, logit_bias={0: -100.0})


@pytest.fixture(scope="module")
def workers(tiny_folder):
    workers = Workers(HangingPlan(tiny_folder, EngineSettings()))
    yield workers
    asyncio.run(workers.close(0))


def hung(workers, asked, while_asked=lambda worker: None):
    """The outcome of a request to a process that is killed as one that hangs, and those of two others with it."""
    (worker,) = workers.workers

    async def ask():
        tasks = [
            asyncio.create_task(outcome(workers, each))
            for each in (request(chat("red"), LONG), asked, request(chat("is there a circle?"), LONG))
        ]
        while len(worker.tickets) < 3:
            await asyncio.sleep(0.01)
        while_asked(worker)
        worker.timeout = SHORT
        return await asyncio.gather(*tasks)

    outcomes = asyncio.run(ask())
    worker.timeout = 300.0  # it is loaded again
    return outcomes


def goes_on(workers, caplog, hangs):
    """The worker was killed, and another process answers."""
    assert "worker 0 on cpu made no progress for 3 s: it is killed" in caplog.text
    wait_for(lambda: workers.workers[0].ready)
    (seen,) = answered(workers, request(chat("red")))
    assert isinstance(seen.last, Finished)
    stats = workers.stats()
    assert stats["worker_hangs_total"] == stats["worker_restarts_total"] == hangs
    assert stats["workers_ready"] == 1
    assert stats["worker_stalled_seconds"] < SHORT


@pytest.mark.slow
def test_a_process_that_is_stopped_or_has_a_thread_that_never_returns(workers, caplog):
    process = workers.workers[0].process
    outcomes = hung(workers, request(chat("blue"), LONG), lambda worker: os.kill(process.pid, signal.SIGSTOP))
    assert [one.last for one in outcomes] == [HUNG] * 3
    goes_on(workers, caplog, 1)
    assert process.exitcode == -signal.SIGKILL
    for hangs, place in enumerate(("step", "prepare"), 2):
        caplog.clear()
        outcomes = hung(workers, request(chat(f"hang in {place}")))
        assert [one.last for one in outcomes] == [HUNG] * 3
        goes_on(workers, caplog, hangs)


@pytest.mark.slow
def test_a_process_whose_gpu_answers_no_more_ends(workers, caplog):
    (worker,) = workers.workers
    process = worker.process
    outcomes = answered(workers, request(chat("red"), LONG), request(chat("lose the GPU"), LONG))
    assert [one.last for one in outcomes] == [CRASHED] * 2
    wait_for(lambda: worker.process is not process and worker.ready)
    assert process.exitcode == 1
    assert "worker 0 on cpu ended (exit code 1)" in caplog.text
    (seen,) = answered(workers, request(chat("red")))
    assert isinstance(seen.last, Finished)
    worker.restarts -= 1  # of this test alone


@pytest.mark.slow
def test_a_process_that_can_t_be_killed_is_left(workers, caplog, monkeypatch):
    """As one that waits in a driver: its requests fail, and another is started beside it."""
    (worker,) = workers.workers
    process, hangs = worker.process, worker.hangs
    monkeypatch.setattr(process, "kill", lambda: None)
    monkeypatch.setattr("vlm_serve.engine.worker.KILL_WAIT", 0.5)
    try:
        outcomes = hung(
            workers, request(chat("blue"), LONG), lambda worker: os.kill(process.pid, signal.SIGSTOP)
        )
        assert [one.last for one in outcomes] == [HUNG] * 3
        wait_for(lambda: worker.process is not process)
        assert process.is_alive()
        assert f"worker 0 on cpu: process {process.pid} can't be killed, and is left" in caplog.text
        goes_on(workers, caplog, hangs + 1)
    finally:
        os.kill(process.pid, signal.SIGKILL)


def test_a_busy_process_is_not_killed(workers):
    """More than the limit passes, but each step ends."""
    (worker,) = workers.workers
    process, hangs, worker.timeout = worker.process, worker.hangs, SHORT

    async def ask():
        end = time.monotonic() + 2.5 * SHORT
        while time.monotonic() < end:
            seen = await outcome(workers, request(chat("red"), LONG), cancel_after=500)
            assert seen.last is None
        await asyncio.sleep(1.5 * SHORT)  # idle

    asyncio.run(ask())
    worker.timeout = 300.0
    assert worker.process is process
    assert worker.hangs == hangs


def test_no_timeout(workers):
    (worker,) = workers.workers
    hangs, worker.timeout = worker.hangs, 0.0
    os.kill(worker.process.pid, signal.SIGSTOP)
    wait_for(lambda: worker.stalled > 2 * SHORT)
    os.kill(worker.process.pid, signal.SIGCONT)
    (seen,) = answered(workers, request(chat("red")))
    assert isinstance(seen.last, Finished)
    assert worker.hangs == hangs


def test_a_model_whose_loading_never_ends(tiny_folder, caplog):
    with pytest.raises(UserError, match="not loaded within 2 s; a longer worker timeout allows more"):
        Workers(HangingPlan(tiny_folder, EngineSettings(), load=False), timeout=0.5)
    assert "worker 0 on cpu has not loaded the model within 2 s: it is killed" in caplog.text


@pytest.mark.parametrize(
    ("stalled", "requests", "chosen"),
    [((0.5, 0.4), (1, 3), 0), ((6.0, 0.5), (0, 3), 1), ((6.0, 7.0), (2, 1), 1)],
)
def test_a_worker_that_is_late_gets_requests_last(stalled, requests, chosen):
    workers = object.__new__(Workers)
    workers._closing = False
    workers.workers = [
        SimpleNamespace(ready=True, stalled=seconds, tickets=range(count), thread=threading.current_thread())
        for seconds, count in zip(stalled, requests, strict=True)
    ]
    assert asyncio.run(workers._least_loaded()) is workers.workers[chosen]
