"""Saved models load without network: inside `offline`, this thread opens no connection, whatever a file names."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

REFUSED = (
    "a saved model loads from its own folder and never from the network, which one of its files asks for"
)
_PLACES = ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo"))
_LOCAL = getattr(socket, "AF_UNIX", object())
"""Sockets of this machine, which are no network."""


class _Thread(threading.local):
    depth = 0
    """How often this thread is inside `offline`."""


class _Guard:
    """In place of the functions of `socket` while any thread is inside: threads come and go in any order."""

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
    """No connection and no look-up of a host by this thread; hub libraries are told so, and don't retry."""
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
    """As `function`, which a thread inside `offline` may not call for a host or for a socket of the network."""

    def guarded(first: Any, *args: Any, **kwargs: Any) -> Any:
        if _thread.depth and getattr(first, "family", None) != _LOCAL:
            raise ConnectionRefusedError(REFUSED)
        return function(first, *args, **kwargs)

    return guarded
