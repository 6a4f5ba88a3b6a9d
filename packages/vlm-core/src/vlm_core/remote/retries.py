"""Requests that are sent again while a server is overloaded or restarts."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from vlm_core.remote.transport import RequestFailed

DELAYS = (1, 2, 4, 8, 16, 32, 60)
"""Seconds before each further attempt, at most; half of each is up to chance."""
LONGEST_WAIT = 120.0
"""Seconds that a server may ask to wait; more are an error at once."""
_SECONDS_PER_MESSAGE = 10.0
T = TypeVar("T")
log = logging.getLogger(__name__)


class Retries:
    """Sends a request again after each of `delays`, or after as long as the server asks. Threads may share it."""

    def __init__(
        self, delays: tuple[float, ...] = DELAYS, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.delays, self.sleep = delays, sleep
        self._logged = float("-inf")

    def __call__(self, request: Callable[[], T]) -> T:
        """The result of `request`; raises its last `RequestFailed`, at once if it is not `temporary`."""
        for delay in self.delays:
            try:
                return request()
            except RequestFailed as error:
                asked = error.retry_after or 0.0
                if not error.temporary or asked > LONGEST_WAIT:
                    raise
                wait = max(asked, delay * random.uniform(0.5, 1))
                self._log(error, wait)
                self.sleep(wait)
        return request()

    def _log(self, error: RequestFailed, wait: float) -> None:
        """Warn, but not of every request: with a limited rate most of them wait."""
        if (now := time.monotonic()) - self._logged >= _SECONDS_PER_MESSAGE:
            self._logged = now
            log.warning("%s; sent again in %.1f s", error, wait)
