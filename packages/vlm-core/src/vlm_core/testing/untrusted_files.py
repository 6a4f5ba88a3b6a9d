"""What a component may not do with files of a stranger: reach the network, or run code that lies among them."""

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
    """Fail if anything inside asks for a host or a connection, even if it goes on without."""
    asked: list[str] = []

    def refuse(*args: Any, **_: Any) -> Any:
        asked.append(str(args[-1] if isinstance(args[0], socket.socket) else args[0]))
        raise ConnectionRefusedError("no network in this test")

    with patch.object(socket.socket, "connect", refuse), patch.object(socket, "getaddrinfo", refuse):
        yield
    assert not asked, f"asks the network for {asked[0]}: what is saved must be all it takes"


def check_saved(folder: Path, build: Callable[[], object]) -> None:
    """`build` from the assets in `folder` asks no network, and runs no code that their JSON files name."""
    with no_network():
        build()
    ran = folder / "ran"
    (folder / "stranger.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    classes = dict.fromkeys(AUTO, "stranger.Stranger")
    for file in folder.rglob("*.json"):
        content = json.loads(read_text(file))
        if isinstance(content, dict):
            file.write_text(json.dumps({**content, "auto_map": classes}), encoding="utf-8")
    with no_network(), suppress(ValueError):  # refused is good, too
        build()
    assert not ran.exists(), "runs code of a stranger's folder"


AUTO = (
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "AutoImageProcessor",
    "AutoProcessor",
)
"""The classes by which transformers finds code beside a model."""
