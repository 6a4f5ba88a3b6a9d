"""A bounded number of requests at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from vlm_core.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(items: Iterable[T], work: Callable[[T], R], count: int) -> Iterator[tuple[T, R | UserError]]:
    """(item, `work(item)` or its `UserError`) as each is done, with at most `count` items begun and not yielded.

    Other exceptions are raised here. The threads end with the process: Ctrl-C waits for no request.
    """
    waiting: SimpleQueue[list[T]] = SimpleQueue()
    done: SimpleQueue[tuple[T, R | BaseException]] = SimpleQueue()

    def serve() -> None:
        while item := waiting.get():  # an empty list ends the thread
            try:
                done.put((item[0], work(item[0])))
            except BaseException as error:
                done.put((item[0], error))

    remaining, running = iter(items), 0
    try:
        for item in remaining:
            if running < count:
                running += 1
                Thread(target=serve, daemon=True).start()
                waiting.put([item])
                continue
            finished = _next(done)
            if isinstance(finished[1], UserError):  # the caller may stop: no further request is sent before
                yield finished
                waiting.put([item])
            else:
                waiting.put([item])
                yield finished
        for _ in range(running):
            yield _next(done)
    finally:
        for _ in range(running):
            waiting.put([])


def _next(done: SimpleQueue[tuple[T, R | BaseException]]) -> tuple[T, R | UserError]:
    item, result = done.get()
    if isinstance(result, BaseException) and not isinstance(result, UserError):
        raise result
    return item, result
