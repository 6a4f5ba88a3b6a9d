"""Requests that are sent again while a server is overloaded or restarts."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from vlm_core.remote.transport import RequestFailed

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retries:
    """Waits `delays` seconds, each half of it by chance, before a request is sent again; or as long as the server asks.

    A server's wish above `longest` seconds is an error at once.
    """

    delays: tuple[float, ...] = (1, 2, 4, 8, 16, 32)
    longest: float = 120.0
    sleep: Callable[[float], None] = time.sleep

    def __call__(self, request: Callable[[], T]) -> T:
        """The result of `request`; raises its last `RequestFailed`, at once if it is not `temporary`."""
        for delay in (*self.delays, None):
            try:
                return request()
            except RequestFailed as error:
                if not error.temporary:
                    raise
                wait = error.retry_after
                if delay is None or (wait is not None and wait > self.longest):
                    count = (
                        f"{len(self.delays) + 1} attempts"
                        if delay is None
                        else f"it asks to wait {wait:.0f} s"
                    )
                    raise RequestFailed(f"{error} ({count})", status=error.status, temporary=True) from None
                wait = max(wait or 0, delay * random.uniform(0.5, 1))
                log.warning("%s; sent again in %.1f s", error, wait)
                self.sleep(wait)
        raise AssertionError("unreachable")
