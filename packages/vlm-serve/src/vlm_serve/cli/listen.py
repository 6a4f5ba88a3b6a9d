"""The socket that a server listens on, bound before a model is loaded: a port in use is told at once."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from typing import Any

from vlm_core.errors import UserError
from vlm_core.markup.printable import printable


def is_loopback(host: str) -> bool:
    """Whether all addresses of a host are of this machine alone; raises `UserError` for an unknown host."""
    addresses = {str(entry[4][0]).partition("%")[0] for entry in _resolved(host, 0)}
    return all(ip_address(address).is_loopback for address in addresses)


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket bound to an address, which does not listen yet: clients are refused until the model is loaded."""
    family, kind, protocol, _, address = _resolved(host, port)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise address_error(error, host, port) from None
    return sock


def address_error(error: OSError, host: str, port: int) -> UserError:
    """Why a server can't listen at an address, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return UserError(f"port {port} of {host} is in use; choose another with --port, or stop what uses it")
    if error.errno == errno.EACCES:
        return UserError(f"port {port} of {host} needs rights that this user has not; choose one above 1023")
    if error.errno == errno.EADDRNOTAVAIL:
        return UserError(f"--host {host}: no address of this machine")
    return UserError(f"cannot listen at {host}, port {port}: {error.strerror or error}")


def address_of(sock: socket.socket) -> str:
    """`http://127.0.0.1:8000`."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _resolved(host: str, port: int) -> list[tuple[Any, ...]]:
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
    except (OSError, UnicodeError, ValueError):
        raise UserError(f"--host {printable(host, 100)}: no address is known for it") from None
