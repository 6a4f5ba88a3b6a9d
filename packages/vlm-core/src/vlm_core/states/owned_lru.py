"""What several owners keep within one limit, so that one who keeps much doesn't push out what the others keep."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class OwnedLru(Generic[K, V]):
    """Values by owner and key, each with its bytes. It has no limit: its user drops until its own limits hold.

    What is dropped is of the owner who keeps most, the least recently used first. So an owner who keeps no more than an
    equal share of a limit loses nothing to others; with one owner, it is the least recently used of all.
    """

    def __init__(self) -> None:
        self._of_owner: dict[str, OrderedDict[K, tuple[V, int]]] = {}
        self._bytes_of: dict[str, int] = {}
        self.nbytes = self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, owner: str, key: K, value: V, nbytes: int) -> None:
        """Keep a value, which replaces one of this key."""
        self.pop(owner, key)
        self._of_owner.setdefault(owner, OrderedDict())[key] = value, nbytes
        self._bytes_of[owner] = self._bytes_of.get(owner, 0) + nbytes
        self.nbytes += nbytes
        self._length += 1

    def get(self, owner: str, key: K) -> V | None:
        """The value, which is now the owner's most recently used; None if there is none."""
        items = self._of_owner.get(owner, OrderedDict[K, tuple[V, int]]())
        if key not in items:
            return None
        items.move_to_end(key)
        return items[key][0]

    def pop(self, owner: str, key: K) -> V | None:
        """Take out a value; None if there is none."""
        items = self._of_owner.get(owner, OrderedDict[K, tuple[V, int]]())
        if key not in items:
            return None
        value, nbytes = items.pop(key)
        self._bytes_of[owner] -= nbytes
        self.nbytes -= nbytes
        self._length -= 1
        if not items:
            del self._of_owner[owner], self._bytes_of[owner]
        return value

    def drop_of_most_bytes(self) -> tuple[str, K]:
        """Drop the least recently used of the owner with the most bytes -> owner and key."""
        return self._drop_first(max(self._bytes_of, key=self._bytes_of.__getitem__))

    def drop_of_most_values(self) -> tuple[str, K]:
        """Drop the least recently used of the owner with the most values -> owner and key."""
        return self._drop_first(max(self._of_owner, key=lambda owner: len(self._of_owner[owner])))

    def clear(self) -> None:
        self._of_owner.clear()
        self._bytes_of.clear()
        self.nbytes = self._length = 0

    def _drop_first(self, owner: str) -> tuple[str, K]:
        key = next(iter(self._of_owner[owner]))
        self.pop(owner, key)
        return owner, key
