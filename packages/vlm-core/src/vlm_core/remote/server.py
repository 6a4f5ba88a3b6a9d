"""The address of a server and the key for it. A key is read from the environment, and never printed or stored."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from vlm_core.errors import UserError

TIMEOUT_S = 600.0
"""Seconds without a byte after which a request fails: a server may let a request wait in its queue."""
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_PATH = re.compile(r"[A-Za-z0-9._~/%+@-]*")
_KEY = re.compile(r"[\x21-\x7e]{1,4096}")
_HIDDEN = "[key]"


@dataclass(frozen=True)
class Server:
    """A server: `url` is the address that `/chat/completions` is appended to."""

    url: str
    key: str | None = field(default=None, repr=False)
    timeout: float = TIMEOUT_S

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine, which no proxy leads to."""
        host = urlsplit(self.url).hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def without_key(self, text: str) -> str:
        """A server's text, in which the key is hidden: some quote it in their errors."""
        return text.replace(self.key, _HIDDEN) if self.key else text


def server_at(url: str, key_variable: str | None = None, timeout: float = TIMEOUT_S) -> Server:
    """The server at `http://host:port[/path]`, `/v1` if there is no path; `key_variable` names a variable with the key.

    Raises `UserError` for another form of address, one with a password, and a variable that holds no key.
    """
    return Server(_base(url), _key(key_variable), timeout)


def _base(url: str) -> str:
    if "://" not in url:
        raise UserError(f"{url:.200}: begin the server's address with http:// or https://")
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise UserError(f"{_shown(url)}: not an address: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise UserError(
            "an address with a name or a password before @: leave it out, and name the environment variable of the "
            "key with --api-key-env"
        )
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host):
        raise UserError(
            f"{_shown(url)}: expected http://HOST:PORT or https://HOST, with a path if it is not /v1"
        )
    if parts.query or parts.fragment or not _PATH.fullmatch(parts.path):
        raise UserError(f"{_shown(url)}: expected an address without ? and #, such as http://HOST:PORT/v1")
    path = parts.path.rstrip("/")
    if path.endswith(("/completions", "/models", "/responses")):
        raise UserError(
            f"{_shown(url)}: name the address before /chat/completions, such as http://HOST:PORT/v1"
        )
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path or '/v1'}"


def _shown(url: str) -> str:
    """An address in a message, without what follows `?`, which may be secret."""
    return url.split("?")[0][:200]


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", variable):  # perhaps the key itself: not repeated
        raise UserError("--api-key-env: expected the name of an environment variable, not a key")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"--api-key-env {variable}: this environment variable is not set, or empty")
    if not _KEY.fullmatch(key):
        raise UserError(
            f"--api-key-env {variable}: this variable holds no key: a key is one word of ASCII characters"
        )
    return key
