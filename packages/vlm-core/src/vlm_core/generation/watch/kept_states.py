"""The states of a stream that are kept for questions about earlier times."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlm_core.errors import UserError, shown
from vlm_core.generation.watch.fork import Fork
from vlm_core.io.frames.source import TIE
from vlm_core.io.frames.times import clock
from vlm_core.states.manifest import MOST_KEPT
from vlm_core.units import size

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keep:
    """Keep the state after the first frame at or after each multiple of `every` seconds.

    The `last` ones are all kept, and up to `older` before them, whose distance grows with their age: whenever there is
    one too many, that goes which leaves the smallest gap for its age. The same happens beyond `max_bytes`; if the last
    ones alone are more than that, the oldest go.
    """

    every: float = 60.0
    last: int = 30
    older: int = 30
    max_bytes: int = 2**30

    def __post_init__(self) -> None:
        if not (isinstance(self.every, int | float) and math.isfinite(self.every) and self.every > 0):
            raise UserError(f"keep: every is {shown(self.every)}; expected seconds above 0")
        for name, least in (("last", 1), ("older", 0), ("max_bytes", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UserError(
                    f"keep: {name} is {shown(value)}; expected a whole number of at least {least}"
                )
        if (kept := self.last + self.older) > MOST_KEPT:
            raise UserError(f"keep: last and older are {kept} states; at most {MOST_KEPT} are kept")


KEEP = Keep()


def _period(keep: Keep, time: float) -> int:
    """The number of the period that a frame is in; 0.3 s is in the fourth of 0.1 s, though `0.3 // 0.1` is 2."""
    return int(time / keep.every + TIE)


def _least_missed(times: Sequence[float], now: float) -> int:
    """The index, neither the first nor the last, whose absence leaves the smallest gap for its age."""
    return min(
        range(1, len(times) - 1),
        key=lambda i: (times[i + 1] - times[i - 1]) / max(now - times[i], 1e-9),
    )


class KeptStates:
    """The kept states of a stream, in order of time."""

    def __init__(self, keep: Keep | None) -> None:
        self.keep = keep
        self._forks: list[Fork] = []
        self._period = -1  # number of the last period of `every` seconds with a kept state
        self._warned = False

    @property
    def forks(self) -> Sequence[Fork]:
        """The kept ones, in order of time."""
        return tuple(self._forks)

    @property
    def times(self) -> list[float]:
        """Seconds of each."""
        return [fork.time for fork in self._forks if fork.time is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(fork.nbytes for fork in self._forks)

    def is_due(self, time: float) -> bool:
        """Whether the frame at `time` is the first of its period."""
        return self.keep is not None and _period(self.keep, time) > self._period

    def add(self, fork: Fork) -> None:
        """Keep this state; others may be dropped for it."""
        assert self.keep is not None
        assert fork.time is not None
        self._period = _period(self.keep, fork.time)
        self._forks.append(fork)
        while len(self._forks) > self.keep.last + self.keep.older or self.nbytes > self.keep.max_bytes:
            del self._forks[self._index_to_drop(fork.time)]
            if not self._forks:
                self._warn(fork)
                return

    def restore(self, forks: Iterable[Fork], now: float) -> None:
        """Keep those of a stream that has been read up to `now`, as far as the limits allow; a period is kept once."""
        assert self.keep is not None
        for fork in forks:
            self.add(fork)
        self._period = _period(self.keep, now)

    def _index_to_drop(self, now: float) -> int:
        assert self.keep is not None
        older = len(self._forks) - self.keep.last
        return _least_missed(self.times[: older + 1], now) if older > 1 else 0

    def _warn(self, fork: Fork) -> None:
        if not self._warned:
            assert self.keep is not None
            budget = size(self.keep.max_bytes)
            log.warning(
                "a state takes %s, more than the %s for kept ones: none is kept", size(fork.nbytes), budget
            )
        self._warned = True

    def at(self, time: float) -> Fork:
        """The newest one at or before `time`; raises `UserError` if there is none."""
        forks = [fork for fork in self._forks if fork.time is not None and fork.time <= time]
        if forks:
            return forks[-1]
        oldest = (
            f"the oldest kept state is that at {clock(self.times[0])}" if self._forks else "no state is kept"
        )
        raise UserError(f"{clock(time)}: {oldest}")
