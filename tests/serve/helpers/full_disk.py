"""A worker that is started again while no process can write a file, and once it can; run as a program."""

import asyncio
import logging
import os
import resource
import signal
import sys
import time
from pathlib import Path


def wait_for(condition):
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def main(folder):
    """Imports are here: a worker's process imports this file, as it does the command `vlm-serve`."""
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
    main(sys.argv[1])
