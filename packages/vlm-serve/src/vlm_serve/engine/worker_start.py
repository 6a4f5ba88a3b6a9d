"""The first function of a worker's process. No torch: importing it is already a step that may fail."""

from __future__ import annotations

import logging
import sys
from multiprocessing.connection import Connection

log = logging.getLogger(__name__)


def start_worker(connection: Connection, parent: int) -> None:
    """Load the engine of the `WorkerPlan` that comes first, and serve until told to close.

    What fails at this moment, such as a full disk, ends the process with one line: another one tries again later.
    """
    try:
        from vlm_serve.engine.worker_process import load_worker, serve

        engine = load_worker(connection, connection.recv(), parent)
    except OSError as error:
        log.error("the model can't be loaded: %s", error)
        sys.exit(1)
    if engine is not None:
        serve(connection, engine)
