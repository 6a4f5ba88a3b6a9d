"""A test of the suites: building from untrusted files uses no network and runs no code in them."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from vlm_core.io.files import read_text


@contextmanager
def no_network() -> Iterator[None]:
    """Inside, look-ups of hosts and connections fail; raises `AssertionError` at the end if there were any."""
    requests: list[str] = []

    def refuse(*args: Any, **_: Any) -> Any:
        requests.append(str(args[-1] if isinstance(args[0], socket.socket) else args[0]))
        raise ConnectionRefusedError("no network in this test")

    with patch.object(socket.socket, "connect", refuse), patch.object(socket, "getaddrinfo", refuse):
        yield
    assert not requests, f"connects to {requests[0]}: saved files must be sufficient"


def check_saved(folder: Path, build: Callable[[], object]) -> None:
    """Test that `build` from the assets in `folder` uses no network and runs no code that their JSON files name."""
    with no_network():
        build()
    ran = folder / "ran"
    (folder / "stranger.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    classes = dict.fromkeys(AUTO, "stranger.Stranger")
    for file in folder.rglob("*.json"):
        content = json.loads(read_text(file))
        if isinstance(content, dict):
            file.write_text(json.dumps({**content, "auto_map": classes}), encoding="utf-8")
    with no_network(), suppress(ValueError):  # refusing the files is correct
        build()
    assert not ran.exists(), "runs code of an untrusted folder"


AUTO = (
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "AutoImageProcessor",
    "AutoProcessor",
)
"""Keys of `auto_map`, under which transformers looks for code in a model's folder."""
