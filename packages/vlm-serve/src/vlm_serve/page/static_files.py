"""The page's files, read once from the package, with the digest that their addresses carry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""Content types by the end of a file's name; a file of another kind is not served."""


@dataclass(frozen=True)
class StaticFile:
    """The bytes of a file and what its response says of them."""

    content: bytes
    content_type: str

    @property
    def etag(self) -> str:
        return f'"{sha256(self.content).hexdigest()[:32]}"'


@dataclass(frozen=True)
class StaticFiles:
    """`index` stands at the root; `others`, by path, under an address that holds `digest`, the digest of them all."""

    index: StaticFile
    others: dict[str, StaticFile]
    digest: str


@cache
def static_files() -> StaticFiles:
    """All files of the folder `static`; `{digest}` in index.html stands for the digest of the others."""
    others = dict(sorted(_walk(files("vlm_serve.page") / "static")))
    index = others.pop("index.html")
    digest = sha256()
    for path, file in others.items():
        digest.update(f"{path}\0{len(file.content)}\0".encode() + file.content)
    name = digest.hexdigest()[:16]
    content = index.content.replace(b"{digest}", name.encode())
    return StaticFiles(StaticFile(content, index.content_type), others, name)


def _walk(folder: Traversable, prefix: str = "") -> list[tuple[str, StaticFile]]:
    entries: list[tuple[str, StaticFile]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            entries += _walk(entry, f"{prefix}{entry.name}/")
        elif content_type := TYPES.get(entry.name.rpartition(".")[2]):
            entries.append((prefix + entry.name, StaticFile(entry.read_bytes(), content_type)))
    return entries
