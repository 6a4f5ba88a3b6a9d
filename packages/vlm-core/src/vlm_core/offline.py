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


_LOCAL = getattr(socket, "AF_UNIX", object())
"""Sockets of this machine, which are no network."""


def _guarded(function: Callable[..., Any], thread: int) -> Callable[..., Any]:
    """As `function`, which only other threads may call for a host or for a socket of the network."""

    def guarded(first: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread and getattr(first, "family", None) != _LOCAL:
            raise ConnectionRefusedError(REFUSED)
        return function(first, *args, **kwargs)

    return guarded


@contextmanager
def offline() -> Iterator[None]:
    """No connection and no look-up of a host by this thread; hub libraries are told so, and don't retry."""
    thread = threading.get_ident()
    places = ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo"))
    with _hub_offline(), ExitStack() as stack:
        for owner, name in places:
            stack.enter_context(patch.object(owner, name, _guarded(getattr(owner, name), thread)))
        yield


@contextmanager
def _hub_offline() -> Iterator[None]:
    if find_spec("huggingface_hub") is None:
        yield
        return
    from huggingface_hub import constants

    with patch.object(constants, "HF_HUB_OFFLINE", True):
        yield
