"""Changes to valid inputs: of the values in plain data, of text, and of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

from fuzzing import values


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of every value inside `data`."""
    items = (
        list(data.items())
        if isinstance(data, dict)
        else list(enumerate(data))
        if isinstance(data, list)
        else []
    )
    for key, value in items:
        yield data, key
        yield from places(value)


def mutated(data: Any, rng: Random) -> Any:
    """A copy of `data` with one to four changes."""
    data = deepcopy(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        found = list(places(data))
        if not found:
            return values.value(rng)
        _change(*rng.choice(found), rng, found)
    return data if rng.random() > 0.01 else values.value(rng)


def _change(box: Any, key: Any, rng: Random, others: list[tuple[Any, Any]]) -> None:
    old, kind = box[key], rng.random()
    if kind < 0.45:
        box[key] = _alike(old, rng) if rng.random() < 0.75 else values.value(rng)
    elif kind < 0.55:
        del box[key]
    elif kind < 0.65 and isinstance(box, dict):
        box[values.key(rng)] = box.pop(key)
    elif kind < 0.8:
        new = values.value(rng)
        box.insert(key, new) if isinstance(box, list) else box.update({values.key(rng): new})
    elif kind < 0.9:
        there, place = rng.choice(others)
        if (isinstance(there, dict) and place not in there) or (
            isinstance(there, list) and place >= len(there)
        ):
            return
        box[key] = deepcopy(there[place])
    else:
        box[key] = rng.choice(([old], {"a": old}, [old, old], str(old)[:1000], [old] * 50))


def _alike(old: Any, rng: Random) -> Any:
    """A value of the same type."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int | float):
        return rng.choice(
            (values.number(rng), old * 10 ** rng.randrange(20), -old, old + 1, 0, f"{old!s:.99}")
        )
    if isinstance(old, str):
        cut = rng.randrange(len(old) + 1)
        return rng.choice(
            (values.text(rng), old[:cut] + values.text(rng) + old[cut:], old * 40, old.upper(), old[:cut])
        )
    return values.value(rng)


def text(content: str, snippets: list[str], rng: Random) -> str:
    """A text with lines left out, doubled, moved or broken, and snippets in between."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        lines = content.split("\n")
        i, kind = rng.randrange(len(lines)), rng.random()
        if kind < 0.3:
            lines.insert(i, rng.choice(("", "  ", "    ")) + rng.choice(snippets))
        elif kind < 0.45:
            cut = rng.randrange(len(lines[i]) + 1)
            lines[i] = lines[i][:cut] + rng.choice((rng.choice(snippets), values.text(rng))) + lines[i][cut:]
        elif kind < 0.55:
            del lines[i]
        elif kind < 0.65:
            lines.insert(rng.randrange(len(lines)), lines[i])
        elif kind < 0.75:
            lines[i] = rng.choice((" ", "\t", "- ", "? ", "  ")) + lines[i]
        elif kind < 0.85:
            name, colon, _ = lines[i].partition(":")
            lines[i] = f"{name}{colon} {rng.choice(snippets)}"
        elif kind < 0.9:
            lines = lines[: i + 1]
        else:
            lines[i : i + 1] = lines[i : i + 5] * rng.choice((2, 10, 100))
        content = "\n".join(lines)
    return content


def data(content: bytes, rng: Random) -> bytes:
    """Bytes flipped, cut out, doubled, or replaced."""
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not content:
            return bytes(rng.randrange(256) for _ in range(20))
        i, kind = rng.randrange(len(content)), rng.random()
        size = rng.choice((1, 2, 4, 8, 64, 512))
        if kind < 0.35:
            content = content[:i] + bytes([content[i] ^ (1 << rng.randrange(8))]) + content[i + 1 :]
        elif kind < 0.5:
            content = content[:i] + rng.choice((b"\0", b"\xff", b"\x80", b"9")) * size + content[i + size :]
        elif kind < 0.6:
            content = content[:i]
        elif kind < 0.7:
            content = content[:i] + content[i + size :]
        elif kind < 0.8:
            content = content[:i] + content[i : i + size] * 3 + content[i + size :]
        elif kind < 0.9:
            content = content[:i] + rng.randbytes(size) + content[i:]
        else:
            number = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))
            content = content[:i] + number.to_bytes(8, rng.choice(("little", "big"))) + content[i + 8 :]
    return content
