"""Spec and sweep files, with hostile values, broken text, odd encodings, bases and `--set`; torch is not needed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

from fuzzing import mutate, values
from vlm_core.io.yaml_loader import parse
from vlm_core.model_folder.initial_weights import refuse_untrained, weight_rows
from vlm_core.spec.spec import Spec, load_spec
from vlm_core.spec.validate import validate
from vlm_train.config.section import train_section
from vlm_train.sweep import grid

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```yaml[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    "&a [*a]",
    "*a",
    "&a",
    "<<: *a",
    "<<: {a: 1}",
    "!!python/object/apply:os.system [id]",
    "!!binary aGk=",
    "!!timestamp 2026-01-01",
    "!!float 1e999",
    "!!int 5",
    "!!str 5",
    "!!set {a}",
    "!!omap [a: 1]",
    "!x y",
    "! 5",
    "%YAML 1.2",
    "%YAML 9.9",
    "%TAG ! x",
    "---",
    "...",
    "? [a, b]",
    "? a",
    ": b",
    "- - - - a",
    "[[[[[[[[",
    "]]]]",
    "{a: {a: {a: 1}}}",
    "|",
    ">",
    "|+9",
    ">-",
    "'",
    '"',
    '"\\U00110000"',
    '"\\ud800"',
    '"\\0"',
    '"\\x1b[2J"',
    "#",
    "@a",
    "`a",
    "1e999",
    "-1e999",
    ".inf",
    ".nan",
    "0x10",
    "0o17",
    "1_000",
    "9" * 5000,
    "-" + "9" * 30,
    "1" * 400 + ".5",
    "2026-11-29",
    "12:30:45",
    "yes",
    "~",
    "null",
    "\t",
    "\x85",
    "\u2028",
    "\ufeff",
    "type: fused",
    "base: s.yaml",
    "base: base.yaml",
    "base: /dev/zero",
    "base: fifo",
    "base: [a]",
    "base: ~",
    "base: ../../../../etc/passwd",
    "type: mamba",
    "n_layer: 1000000000",
    "d_model: 1000000000000",
    "image_size: 1000000000",
    "seed: 1e400",
    "batch_size: 1000000000000000000",
    "axes: {a.b: [1, 2], c.d: [3]}",
    "rows: {a: {}}",
    "seeds: [0, 0]",
    "model_args: {depth: 1000000000}",
    "keep_random: [encoder, encoder]",
    "trainable: []",
]
ENCODINGS: list[Callable[[str], bytes]] = [
    lambda text: text.encode("utf-16", "replace"),
    lambda text: b"\xef\xbb\xbf" * 2 + text.encode("utf-8", "replace"),
    lambda text: text.replace("\n", "\r\n").encode("utf-8", "replace"),
    lambda text: text.replace("\n", "\x85").encode("utf-8", "replace"),
    lambda text: text.encode("latin-1", "replace"),
    lambda text: text.encode("utf-8", "surrogatepass"),
    lambda text: text.encode("utf-7", "replace"),
]


class Examples:
    """Mutations of the published specs and of those in the documentation."""

    apart = False

    def __init__(self, work: Path) -> None:
        self.work = work
        texts = [p.read_text(encoding="utf-8") for p in sorted((ROOT / "specs").rglob("*.yaml"))]
        for page in sorted((ROOT / "docs").glob("*.md")):
            texts += FENCE.findall(page.read_text(encoding="utf-8"))
        self.texts = [based for text in texts if _is_whole(based := self._based(text))]
        self.texts += [_resolved(text, work / "s.yaml") for text in self.texts if not _is_sweep(text)]
        self.data = [yaml.safe_load(text) for text in self.texts]

    def _based(self, text: str) -> str:
        """Bases by their whole path, for the examples lie elsewhere."""
        return re.sub(
            r"^base: (?:\.\./)?(\S+\.yaml)", lambda m: f"base: {self._file(m[1])}", text, flags=re.MULTILINE
        )

    def _file(self, name: str) -> Path:
        found = [p for p in (ROOT / "specs").rglob("*.yaml") if p.name == Path(name).name]
        return found[0] if found else Path(name)

    def example(self, rng: Random, folder: Path) -> Callable[[], str]:
        number = rng.randrange(len(self.texts))
        path = folder / "s.yaml"
        _write(path, self._content(number, rng), rng)
        if rng.random() < 0.1:
            (folder / "base.yaml").write_bytes(self._content(rng.randrange(len(self.texts)), rng))
        assignments = [_assignment(self.data[number], rng) for _ in range(rng.choice((0, 0, 0, 1, 3)))]
        read = _sweep if _is_sweep(self.texts[number]) else _spec
        return lambda: read(path, assignments)

    def _content(self, number: int, rng: Random) -> bytes:
        kind = rng.random()
        if kind < 0.05:
            return mutate.data(self.texts[number].encode(), rng)
        if kind < 0.6:
            content = dumped(mutate.mutated(self.data[number], rng))
        else:
            content = mutate.text(self.texts[number], SNIPPETS, rng)
        if kind > 0.97:
            return rng.choice(ENCODINGS)(content)
        return content.encode("utf-8", "replace")


def _is_whole(text: str) -> bool:
    """A spec or a sweep; the documentation shows parts and the tasks of other libraries, too."""
    try:
        keys = set(yaml.safe_load(text))
    except yaml.constructor.ConstructorError:  # a tag of another library
        return False
    return {"encoder", "connector", "llm"} <= keys or ("base" in keys and "base: /" in text)


def _is_sweep(text: str) -> bool:
    return any(key in text for key in ("axes:", "rows:", "tables:"))


def _resolved(text: str, path: Path) -> str:
    """The spec with every default written out: more places to change."""
    path.write_text(text, encoding="utf-8")
    return load_spec(path)[0].to_yaml()


def _write(path: Path, content: bytes, rng: Random) -> None:
    kind = rng.random()
    if kind < 0.003:
        os.mkfifo(path)
    elif kind < 0.006:
        path.symlink_to(rng.choice(("/dev/zero", "s.yaml", "/proc/self/mem", "/", "none")))
    else:
        path.write_bytes(content)
    if kind > 0.99:
        os.mkfifo(path.with_name("fifo"))


def dumped(data: Any) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    try:
        return yaml.dump(data, Dumper=dumper, allow_unicode=True)
    except (UnicodeError, RecursionError, ValueError):
        return yaml.safe_dump({"name": "x"})


def _assignment(data: Any, rng: Random) -> str:
    """A `--set`: a path that is there, or nearly, and a hostile value."""
    keys = []
    while isinstance(data, dict | list) and data and (not keys or rng.random() < 0.8):
        key = rng.choice(list(data)) if isinstance(data, dict) else rng.randrange(len(data))
        keys.append(values.key(rng) if rng.random() < 0.1 else str(key))
        data = data[key]
    value = rng.choice((rng.choice(SNIPPETS), str(values.number(rng))[:200], values.text(rng)))
    return f"{'.'.join(keys)}{rng.choice(('=', '=', '=', '', '=='))}{value}"


def _spec(path: Path, assignments: list[str]) -> str:
    """What every command does with a spec before it builds anything."""
    spec, document = load_spec(path, assignments)
    if spec.train is not None:
        train_section(spec, document)
    weight_rows(spec)
    refuse_untrained(spec, document)
    assert validate(Spec, parse(spec.to_yaml(), "again")) == spec
    return "read"


def _sweep(path: Path, assignments: list[str]) -> str:
    found = grid.load(path, assignments)
    for row in found.rows[:3]:
        assert [str(setting) for setting in found.settings(row, 0)]
    return "sweep read"
