"""Saved models load without network access: inside `offline`, the current thread can open no connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

REFUSED = "a saved model loads only from its own folder, but one of its files refers to the network"
_PLACES = ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo"))
_LOCAL = getattr(socket, "AF_UNIX", object())
"""Local sockets, which stay allowed."""


class _Thread(threading.local):
    depth = 0
    """Nesting depth of `offline` in this thread."""


class _Guard:
    """Replaces functions of `socket` while any thread is inside; threads enter and leave in any order."""

    def __init__(self) -> None:
        self._lock, self._inside, self._patches = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                _install(self._patches)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._patches.close()


_thread, _guard = _Thread(), _Guard()


@contextmanager
def offline() -> Iterator[None]:
    """Block connections and host look-ups of this thread; huggingface_hub is set to offline and doesn't retry."""
    with _guard:
        _thread.depth += 1
        try:
            yield
        finally:
            _thread.depth -= 1


def _install(patches: ExitStack) -> None:
    for owner, name in _PLACES:
        patches.enter_context(patch.object(owner, name, _guarded(getattr(owner, name))))
    if find_spec("huggingface_hub") is not None:
        from huggingface_hub import constants

        patches.enter_context(patch.object(constants, "HF_HUB_OFFLINE", True))


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which raises in a thread inside `offline` unless it is called for a local socket."""

    def guarded(first: Any, *args: Any, **kwargs: Any) -> Any:
        if _thread.depth and getattr(first, "family", None) != _LOCAL:
            raise ConnectionRefusedError(REFUSED)
        return function(first, *args, **kwargs)

    return guarded
