"""A uvicorn server whose end loses no answer that was begun."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from vlm_core.cli.output import say
from vlm_serve.engine.request import Engine


class GracefulServer(uvicorn.Server):
    """Stops at the first SIGTERM or SIGINT: no new connection, answers that were begun have `grace` seconds.

    The engine ends them, so that their clients get a clear error at the end of that time. A second signal ends the
    process at once; its workers end with it. `ready` is called once the server listens.
    """

    def __init__(
        self, config: uvicorn.Config, engine: Engine, grace: float, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._engine, self._grace, self._ready = engine, grace, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        closing = asyncio.create_task(self._engine.close(self._grace))
        await super().shutdown(sockets)
        await closing

    def stop(self) -> None:
        """As the first signal."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os.write(2, b"vlm-serve: ended at once by a second signal\n")
            os._exit(128 + sig)
        self.should_exit = True
        name, count = signal.Signals(sig).name, len(self.server_state.tasks)
        running = f"{count} {'request has' if count == 1 else 'requests have'} {self._grace:g} s"
        say(f"{name}: stopping; {running}; another signal ends at once", file=sys.stderr)
