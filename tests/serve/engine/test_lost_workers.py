"""Workers that are never ready again: said so at once or after some failed starts, unless another one lives."""

import asyncio
import itertools
import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from engine_cases import chat, outcome, request
from worker_faults import wait_for

from vlm_core.errors import UserError
from vlm_serve.engine import worker as worker_module
from vlm_serve.engine.request import ModelFacts
from vlm_serve.engine.settings import EngineSettings
from vlm_serve.engine.worker import Worker
from vlm_serve.engine.worker_process import WorkerPlan
from vlm_serve.engine.workers import NONE_LEFT, RESTARTING, Workers

PLAN = WorkerPlan(Path("model"), EngineSettings())


class ScriptEnded(BaseException):
    """No error of a process."""


class ScriptedWorker(Worker):
    """Each of `steps` stands for a process; after the last one the thread ends."""

    def __init__(self, *steps, name="worker 0 on cpu"):
        self.steps, self.killed = list(steps), threading.Event()
        super().__init__(PLAN, name)

    def _run(self):
        with suppress(ScriptEnded):
            super()._run()

    def _serve(self):
        if not self.steps:
            raise ScriptEnded
        self.process = SimpleNamespace(exitcode=-9, kill=lambda: None, is_alive=lambda: False)
        return self.steps.pop(0)(self)


def loads(digest):
    """A process that loads a folder of this content, and serves until it is killed unless that is another one."""

    def step(worker):
        worker._loaded(ModelFacts("tiny", digest, 100, images=True, videos=False, system=False))
        if worker.is_outdated:
            return False
        worker.killed.wait()
        worker.killed.clear()
        worker._end(worker._outbox)
        return True

    return step


def refuses(worker):
    worker.problem = UserError("model: no such folder")
    return False


def is_killed(worker):
    return False


def lacks_files(worker):
    raise OSError(24, "Too many open files")


def workers_of(*workers):
    served = object.__new__(Workers)
    served.plan, served.workers, served._closing, served._tickets = PLAN, list(workers), False, set()
    served._numbers, served._outbox = itertools.count(), None
    for worker in workers:
        worker.decided.wait()
    return served


def kill(worker):
    """Its process ends; waits until its script has ended, or it is ready again."""
    worker.ready = False
    worker.killed.set()
    wait_for(lambda: worker.ready or not worker.thread.is_alive(), 20)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(worker_module, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(worker_module, "FAILING_SECONDS", 0.0)


def test_a_folder_with_other_content_ends_all(monkeypatch):
    worker = ScriptedWorker(loads("a"), loads("b"))
    workers = workers_of(worker)
    assert workers.failure() is None
    kill(worker)
    failure = str(workers.failure())
    assert "model: its content has changed since the server was started" in failure
    assert "start vlm-serve again" in failure
    assert asyncio.run(outcome(workers, request(chat("a")))).last == NONE_LEFT
    workers._closing = True
    assert workers.failure() is None, "it ends already"


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (refuses, "model: no such folder"),
        (is_killed, "exit code -9"),
        (lacks_files, "no process can be started: .*Too many open files"),
    ],
)
def test_starts_that_fail_again_and_again_are_given_up(fault, why):
    workers = workers_of(worker := ScriptedWorker(loads("a"), fault, fault))
    kill(worker)
    assert workers.failure() is None, "not yet"
    workers = workers_of(worker := ScriptedWorker(loads("a"), fault, fault, fault))
    kill(worker)
    with pytest.raises(
        UserError, match=rf"no worker could be started again: 3 starts .*; the last one: {why}"
    ):
        raise workers.failure()


def test_starts_may_fail_for_a_while(monkeypatch):
    monkeypatch.setattr(worker_module, "FAILING_SECONDS", 300.0)
    workers = workers_of(worker := ScriptedWorker(loads("a"), *[refuses] * 8))
    kill(worker)
    assert worker.failed_starts == 8
    assert workers.failure() is None
    monkeypatch.setattr("vlm_serve.engine.workers.READY_WAIT", 0.0)
    assert asyncio.run(outcome(workers, request(chat("a")))).last == RESTARTING


def test_a_process_that_is_ready_ends_the_count():
    workers = workers_of(
        worker := ScriptedWorker(loads("a"), refuses, lacks_files, loads("a"), refuses, refuses)
    )
    kill(worker)
    assert worker.ready
    assert worker.restarts == 3
    kill(worker)
    assert (worker.failed_starts, workers.failure()) == (2, None)


def test_one_that_lives_goes_on_alone():
    lost, alive = (
        ScriptedWorker(loads("a"), loads("b")),
        ScriptedWorker(loads("a"), refuses, refuses, refuses),
    )
    workers = workers_of(lost, alive)
    kill(lost)
    assert lost.is_unrecoverable
    assert workers.failure() is None
    stats = workers.stats()
    assert (stats["workers"], stats["workers_ready"]) == (2, 1)
    kill(alive)
    assert "3 starts in a row failed" in str(workers.failure())


def test_the_first_process_that_can_t_be_started_is_told(monkeypatch):
    monkeypatch.setattr("vlm_serve.engine.workers._check_folder", lambda plan: None)
    monkeypatch.setattr("vlm_serve.engine.workers.Worker", lambda *_: ScriptedWorker(lacks_files))
    with pytest.raises(UserError, match=r"a process that loads the model ended \(.*Too many open files\)"):
        Workers(PLAN)


def test_a_message_that_can_t_be_sent_ends_the_process(caplog):
    """Later requests would never reach it, while it reports that it is well."""
    killed = []
    connection = SimpleNamespace(send=lambda message: message.missing)
    outbox = SimpleQueue[Any]()
    outbox.put("message")
    worker_module._send_all(outbox, connection, SimpleNamespace(kill=lambda: killed.append(1)))
    assert killed == [1]
    assert "can't be sent to a worker" in caplog.text
