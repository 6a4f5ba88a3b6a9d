"""Model folders as vlm-assemble writes them, damaged; most with a manifest that agrees with the damage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

from fuzzing import mutate, specs, values
from fuzzing.training import spec_of
from vlm_core.model_folder.assemble import build, load, save

MANIFEST = "manifest.json"
PLACES = ("/dev/zero", "/etc/passwd", "/", "nowhere", ".", "/proc/self/mem")


class Examples:
    """One to three changes of a folder's files."""

    apart = True

    def __init__(self, work: Path) -> None:
        self.original = work / "original"
        spec = spec_of(work)
        save(build(spec), spec, self.original)
        self.files = sorted(
            p.relative_to(self.original).as_posix() for p in self.original.rglob("*") if p.is_file()
        )

    def example(self, rng: Random, folder: Path) -> Callable[[], str]:
        path = folder / "model"
        shutil.copytree(self.original, path)
        for _ in range(rng.choice((1, 1, 2, 3))):
            _damage(path / rng.choice(self.files), rng, [path / name for name in self.files])
        if rng.random() < 0.8:
            _agree(path, rng)
        return lambda: _load(path)


def _load(path: Path) -> str:
    model, _ = load(path)
    model.llm.tokenizer.encode("is it red?")
    return "loaded"


def _damage(file: Path, rng: Random, others: list[Path]) -> None:
    kind = rng.random()
    if not _is_plain(file):
        return
    if kind < 0.06:
        file.unlink()
    elif kind < 0.12:
        file.unlink()
        _odd(file, rng)
    elif kind < 0.18:
        other = rng.choice(others)
        if _is_plain(other):
            file.write_bytes(other.read_bytes() if other.stat().st_size < 10**7 else b"")
    elif kind < 0.75 and file.suffix in (".json", ".yaml"):
        file.write_text(_other_values(file, rng), encoding="utf-8", errors="replace")
    elif kind < 0.85 and file.suffix == ".safetensors":
        file.write_bytes(_other_header(file.read_bytes(), rng))
    else:
        file.write_bytes(mutate.data(file.read_bytes(), rng))


def _is_plain(file: Path) -> bool:
    """Whether this is still a file of the folder: through a link, an earlier damage, nothing is written."""
    return os.path.isfile(file) and not file.is_symlink()


def _odd(file: Path, rng: Random) -> None:
    """Something that is no regular file."""
    kind = rng.random()
    if kind < 0.3:
        os.mkfifo(file)
    elif kind < 0.5:
        file.mkdir()
    else:
        file.symlink_to(rng.choice(PLACES))


def _other_values(file: Path, rng: Random) -> str:
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        if file.suffix == ".yaml":
            return specs.dumped(mutate.mutated(yaml.safe_load(text), rng))
        return json.dumps(mutate.mutated(json.loads(text), rng))
    except (ValueError, RecursionError, yaml.YAMLError):
        return mutate.text(text, specs.SNIPPETS, rng)


def _other_header(content: bytes, rng: Random) -> bytes:
    """A safetensors file with other names, shapes, types or offsets."""
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.dumps(mutate.mutated(json.loads(content[8 : 8 + size]), rng)).encode()
    except (ValueError, RecursionError):
        return content[: rng.randrange(len(content) + 1)]
    length = len(header) if rng.random() < 0.8 else rng.choice((0, 2**31, 2**63, 2**64 - 1, len(content)))
    return length.to_bytes(8, "little") + header + content[8 + size :]


def _agree(folder: Path, rng: Random) -> None:
    """A manifest with the hashes of the files as they are now, so that what lies behind it is reached."""
    path = folder / MANIFEST
    if not os.path.isfile(path):
        return
    try:
        manifest: Any = json.loads(path.read_text(encoding="utf-8"))
        for name, fact in manifest["files"].items():
            if os.path.isfile(folder / name):
                content = (folder / name).read_bytes()
                fact |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if rng.random() < 0.05:
            manifest["files"][values.text(rng)] = {"bytes": 0, "sha256": ""}
        path.write_text(json.dumps(manifest))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
