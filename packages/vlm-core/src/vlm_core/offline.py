"""Saved models load without network: inside `offline`, this thread opens no connection, whatever a file names."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

REFUSED = (
    "a saved model loads from its own folder and never from the network, which one of its files asks for"
)


def _guarded(function: Callable[..., Any], thread: int) -> Callable[..., Any]:
    """As `function`, for other threads; local sockets are no network."""

    def guarded(first: Any, *args: Any, **kwargs: Any) -> Any:
        local = getattr(socket, "AF_UNIX", None)
        if threading.get_ident() == thread and getattr(first, "family", None) != local:
            raise ConnectionRefusedError(REFUSED)
        return function(first, *args, **kwargs)

    return guarded


@contextmanager
def offline() -> Iterator[None]:
    """No connection and no look-up of a host by this thread; hub libraries are told so, and don't retry."""
    thread = threading.get_ident()
    with (
        _hub_offline(),
        patch.object(socket.socket, "connect", _guarded(socket.socket.connect, thread)),
        patch.object(socket, "getaddrinfo", _guarded(socket.getaddrinfo, thread)),
    ):
        yield


@contextmanager
def _hub_offline() -> Iterator[None]:
    if find_spec("huggingface_hub") is None:
        yield
        return
    from huggingface_hub import constants

    with patch.object(constants, "HF_HUB_OFFLINE", True):
        yield
