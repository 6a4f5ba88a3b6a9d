"""A queue that serves owners in turn, so that one with many requests doesn't delay the others."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out within an owner. The next item is one of an owner who has the fewest in use, in turn.

    `in_use` gives the owner of each item that was taken and is not done yet. Threads may ask for the queue's length,
    and no more.
    """

    def __init__(self, in_use: Callable[[], Iterable[str]] = tuple) -> None:
        self._in_use, self._of_owner = in_use, OrderedDict[str, deque[T]]()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        for items in self._of_owner.values():
            yield from items

    def put(self, owner: str, item: T) -> None:
        self._of_owner.setdefault(owner, deque()).append(item)
        self._length += 1

    def first(self) -> T | None:
        """The item that `take` would return; None if the queue is empty."""
        return self._of_owner[self._next_owner()][0] if self._of_owner else None

    def take(self) -> T:
        """The next item; its owner goes to the end of the turn."""
        owner = self._next_owner()
        self._of_owner.move_to_end(owner)
        return self._take_of(owner)

    def drop_of_most(self) -> T:
        """Take out the oldest item of the owner with the most items."""
        return self._take_of(max(self._of_owner, key=lambda owner: len(self._of_owner[owner])))

    def _take_of(self, owner: str) -> T:
        items = self._of_owner[owner]
        item = items.popleft()
        self._length -= 1
        if not items:
            del self._of_owner[owner]
        return item

    def _next_owner(self) -> str:
        in_use = Counter(self._in_use())
        return min(self._of_owner, key=in_use.__getitem__)

    def remove_if(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out the unwanted items -> those."""
        removed: list[T] = []
        for owner, items in list(self._of_owner.items()):
            kept = deque[T]()
            for item in items:
                (removed if unwanted(item) else kept).append(item)
            if kept:
                self._of_owner[owner] = kept
            else:
                del self._of_owner[owner]
        self._length -= len(removed)
        return removed
