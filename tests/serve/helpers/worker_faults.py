"""Worker processes that hang, or meet a full disk. Importing this imports no torch: a worker's process does it first.

Run as a program, it starts a worker again while no process can write a file, and once it can.
"""

import asyncio
import logging
import os
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class HangingPlan:
    """A `WorkerPlan`. A prompt with "hang in prepare" or "hang in step" is never answered, and one with "lose the GPU"
    is the last one of its process; with `load` false, the model is never loaded.
    """

    folder: Path
    settings: Any
    device: str = "cpu"
    dtype: str | None = None
    trust_remote_code: bool = False
    threads: int | None = 1
    load: bool = True

    def __reduce__(self):
        values = [getattr(self, name) for name in self.__dataclass_fields__]
        return _unpickled, tuple(values)


def _unpickled(*values):
    """The plan, in the worker's process, whose engine is changed to hang."""
    from vlm_serve.engine.batching import gpu
    from vlm_serve.engine.batching.scheduler import Scheduler
    from vlm_serve.engine.local import LocalEngine
    from vlm_serve.engine.prepare import Preparer
    from vlm_serve.engine.worker_process import WorkerPlan

    *plan, load = values
    if not load:
        LocalEngine.load = _for_ever
    prepare, step = Preparer.__call__, Scheduler.step

    def hanging_prepare(self, request):
        if "hang in prepare" in str(request.prompt):
            _for_ever()
        return prepare(self, request)

    def hanging_step(self, *arguments):
        answers = (*self.waiting, *self.reading, *self.live)
        if any("hang in step" in str(answer.prepared.request.prompt) for answer in answers):
            _for_ever()
        if any("lose the GPU" in str(answer.prepared.request.prompt) for answer in answers):
            gpu.is_lost = lambda _: True
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return step(self, *arguments)

    Preparer.__call__, Scheduler.step = hanging_prepare, hanging_step
    return WorkerPlan(*plan)


def _for_ever(*_, **__):
    threading.Event().wait()


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def full_disk(folder):
    from engine_cases import answered, chat, request

    from vlm_core.cli.output import say
    from vlm_serve.engine.settings import EngineSettings
    from vlm_serve.engine.worker_process import WorkerPlan
    from vlm_serve.engine.workers import Workers

    logging.basicConfig(format="%(message)s")
    workers = Workers(WorkerPlan(Path(folder), EngineSettings(), threads=1))
    (worker,) = workers.workers
    _, hard = limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # of new processes, too
    os.kill(worker.process.pid, signal.SIGKILL)
    wait_for(lambda: worker.restarts >= 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    wait_for(lambda: worker.ready)
    (seen,) = answered(workers, request(chat("red")))
    say(f"{worker.problem} {seen.last.reason}")
    asyncio.run(workers.close(0))


if __name__ == "__main__":
    full_disk(sys.argv[1])
