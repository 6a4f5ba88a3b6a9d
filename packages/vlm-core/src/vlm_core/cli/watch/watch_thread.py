"""A thread that feeds a watcher from a source of frames, and its status."""

from __future__ import annotations

import logging
import time as clocks
from collections import deque
from threading import Event, Thread
from typing import Any

from vlm_core.errors import BadSample, UserError
from vlm_core.generation.watch.fork import Fork
from vlm_core.generation.watch.watcher import Watcher
from vlm_core.io.frames.prefetch import FramePrefetcher
from vlm_core.io.frames.source import FrameSource
from vlm_core.io.frames.times import clock
from vlm_core.runtime.fifo_lock import FifoLock
from vlm_core.units import size

RECENT = 100
"""Frames whose mean time is reported."""
log = logging.getLogger(__name__)


class WatchThread:
    """Reads a source into a watcher in a thread of its own; the end of the source is logged if it is to `announce`.

    `turn` is held for each frame, and by others for each token of an answer, so that both go on in turns. A watcher
    that has read frames continues: the source's times count from that of the last one.
    """

    def __init__(
        self, watcher: Watcher, source: FrameSource[Any], fps: float | None, *, announce: bool
    ) -> None:
        self.watcher, self.source, self.turn = watcher, source, FifoLock()
        self.reader, self.ended = FramePrefetcher(source, fps), Event()
        self.announce, self.damaged, self._error = announce, 0, None
        self._start = watcher.time or 0.0
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._thread = Thread(target=self._run, name="watching", daemon=True)
        self._thread.start()

    _error: BaseException | None

    def _run(self) -> None:
        try:
            for time, item in self.reader:
                self._read(time, item)
            if self.announce:
                log.info("%s has ended; questions are answered as before", self.source.name)
        except UserError as error:  # questions are answered as before
            log.warning("%s", error)
        except BaseException as error:
            self._error = error
        self.reader.close()
        self.ended.set()

    def _read(self, time: float, item: Any) -> None:
        try:
            image = self.source.load(item)
        except BadSample as error:
            self.damaged += 1
            if self.damaged == 1:
                log.warning(
                    "at %s: %s; damaged frames are left out and counted in /status", clock(time), error
                )
            return
        with self.turn:
            begin = clocks.perf_counter()
            self.watcher.append(self._start + time, image)
            self._seconds.append(clocks.perf_counter() - begin)

    def wait(self, seconds: float) -> bool:
        """Whether the stream has ended, after this time at the latest."""
        return self.ended.wait(seconds)

    def raise_error(self) -> None:
        """Raise what has ended the thread, if it was no `UserError`."""
        if self._error is not None:
            raise self._error

    def fork(self, time: str | None = None) -> Fork:
        """The present moment, or the one kept at or before a time; raises `UserError` before the first frame."""
        self.raise_error()
        with self.turn:
            if not self.watcher.frames:
                ended = "has ended without one" if self.ended.is_set() else "has given none so far"
                raise UserError(f"no frame has been read: {self.source.name} {ended}")
            return self.watcher.fork() if time is None else self.watcher.at(time)

    def status(self) -> str:
        """What has been read, how fast, and what is kept."""
        self.raise_error()
        with self.turn:
            watcher, times = self.watcher, self.watcher.kept.times
            now = "no frame yet" if watcher.time is None else f"at {clock(watcher.time)}"
            left_out = f"{self.reader.dropped} dropped, {self.damaged} damaged"
            mean = sum(self._seconds) / max(1, len(self._seconds))
            kept = f"kept states: {len(times)} ({size(watcher.kept.nbytes)})"
            kept += f", {clock(times[0])} to {clock(times[-1])}" if times else ""
            end = "ended" if self.ended.is_set() else "going on"
            return (
                f"{now}, {end}: {watcher.frames} frames read ({left_out}), {mean * 1e3:.3g} ms a frame; "
                f"state {size(watcher.nbytes)}; {kept}"
            )

    def close(self) -> None:
        """End reading; the frame being read is completed."""
        self.reader.close()
        self._thread.join(10)
