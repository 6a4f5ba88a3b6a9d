"""A cache of states by the content that was read: in memory within a byte budget, optionally also in a folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.interfaces import State
from vlm_core.states.disk_cache import DiskCache
from vlm_core.states.owned_lru import OwnedLru
from vlm_core.units import size

MEMORY_BYTES = 512 * 2**20
"""Default budget in memory; the states of a 2.8B take 23 MB each, those of a 130M 3 MB."""


class CachedState(NamedTuple):
    """A state of one sequence, and the logits (1, V) of its last position."""

    state: State
    next_logits: Tensor

    @property
    def nbytes(self) -> int:
        return self.state.nbytes + self.next_logits.nbytes


@dataclass(frozen=True)
class CacheStats:
    """Counts since the cache was made, and what it holds. A lookup is a hit if any of its keys was cached."""

    hits: int = 0
    misses: int = 0
    disk_hits: int = 0
    """Hits that were read from the folder."""
    reused_positions: int = 0
    read_positions: int = 0
    """Positions whose state was cached, and positions that were computed."""
    evicted: int = 0
    entries: int = 0
    nbytes: int = 0
    disk_entries: int = 0
    disk_bytes: int = 0
    disk_evicted: int = 0
    damaged: int = 0
    """Damaged files, which were removed from the folder."""

    def __str__(self) -> str:
        positions = self.reused_positions + self.read_positions
        text = (
            f"hits {self.hits}, misses {self.misses}, positions reused {self.reused_positions} of {positions}; "
            f"in memory: states {self.entries} ({size(self.nbytes)}), evicted {self.evicted}"
        )
        if self.disk_entries or self.disk_hits or self.damaged:
            text += (
                f"; on disk: states {self.disk_entries} ({size(self.disk_bytes)}), hits {self.disk_hits}, "
                f"evicted {self.disk_evicted}, damaged {self.damaged}"
            )
        return text


class StateCache:
    """States by owner and key. Beyond `max_bytes` the owner with the most loses the least recently used.

    Threads may share it. With `disk`, states are also written to a folder, which processes may share. Its errors never
    reach the caller: a state that can't be read or written is computed again.
    """

    def __init__(self, max_bytes: int = MEMORY_BYTES, disk: DiskCache | None = None) -> None:
        if type(max_bytes) is not int or max_bytes < 0:
            raise UserError(f"max_bytes is {max_bytes!r}; expected a number of bytes")
        self.max_bytes, self.disk = max_bytes, disk
        self._states = OwnedLru[str, CachedState]()
        self._stats, self._lock = CacheStats(), threading.Lock()

    @property
    def stats(self) -> CacheStats:
        with self._lock:
            stats = replace(self._stats, entries=len(self._states), nbytes=self._states.nbytes)
        if self.disk is None:
            return stats
        entries, nbytes = self.disk.size()
        return replace(
            stats,
            disk_entries=entries,
            disk_bytes=nbytes,
            disk_evicted=self.disk.evicted,
            damaged=self.disk.damaged,
        )

    def longest(
        self, keys: Sequence[str], load: Callable[[dict[str, Tensor]], CachedState], owner: str = ""
    ) -> tuple[int, CachedState] | None:
        """(index of the last key that is cached, its state), which `load` makes from the tensors of a file."""
        for i in reversed(range(len(keys))):
            if (entry := self._in_memory(keys[i], owner)) is not None:
                return i, entry
            if self.disk is not None and (entry := self.disk.get(keys[i], load, owner)) is not None:
                self._keep(keys[i], entry, owner)
                with self._lock:
                    self._stats = replace(self._stats, disk_hits=self._stats.disk_hits + 1)
                return i, entry
        return None

    def count(self, *, hit: bool, reused: int, read: int) -> None:
        """Count a lookup, and the positions that were reused and computed after it."""
        with self._lock:
            old = self._stats
            self._stats = replace(
                old,
                hits=old.hits + hit,
                misses=old.misses + (not hit),
                reused_positions=old.reused_positions + reused,
                read_positions=old.read_positions + read,
            )

    def put(self, key: str, entry: CachedState, owner: str = "") -> None:
        """Keep a state, which nobody may modify afterwards."""
        self._keep(key, entry, owner)
        if self.disk is not None:
            self.disk.put(key, entry.state, entry.next_logits, owner)

    def clear(self) -> None:
        """Drop all states in memory; those on disk stay."""
        with self._lock:
            self._states.clear()

    def _in_memory(self, key: str, owner: str) -> CachedState | None:
        with self._lock:
            return self._states.get(owner, key)

    def _keep(self, key: str, entry: CachedState, owner: str) -> None:
        with self._lock:
            if entry.nbytes > self.max_bytes:
                self._states.pop(owner, key)
                return
            self._states.put(owner, key, entry, entry.nbytes)
            while self._states.nbytes > self.max_bytes:
                self._states.drop_of_most_bytes()
                self._stats = replace(self._stats, evicted=self._stats.evicted + 1)
