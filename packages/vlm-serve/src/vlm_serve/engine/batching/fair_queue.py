"""A queue that serves owners in turn, so that one with many requests doesn't delay the others."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out within an owner; owners take turns. Threads may ask for its length, and no more."""

    def __init__(self) -> None:
        self._of_owner: OrderedDict[str, deque[T]] = OrderedDict()
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
        return next(iter(self), None)

    def take(self) -> T:
        """The next item; its owner goes to the end of the turn."""
        owner, items = next(iter(self._of_owner.items()))
        item = items.popleft()
        self._length -= 1
        self._of_owner.move_to_end(owner)
        if not items:
            del self._of_owner[owner]
        return item

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
