"""Values that people and attackers write where others are expected."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS: list[Any] = [
    0, -1, 1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**9, 10**12, 10**18,
    10**30, 10**400, -(10**9), 0.0, -0.0, 0.5, -0.5, 1e-300, 1e300, 1e308, 5e-324, float("inf"), float("-inf"),
    float("nan"), True, False,
]  # fmt: skip
TEXTS = [
    "",
    " ",
    "\n",
    "\t",
    "0",
    "-1",
    "1e999",
    ".inf",
    ".nan",
    "null",
    "~",
    "~nobody-here/x",
    "~root",
    "true",
    "yes",
    "\0",
    "a\0b",
    "\ud800",
    "a\udcffb",
    "\U0010ffff",
    "\x1b[2J\x1b]0;x\x07",
    "\x7f",
    "\x85",
    "\u2028",
    "\ufeff",
    "\u202e",
    "é",
    "²",
    "١٢",
    "𝟘",
    "ｎａｍｅ",
    "../../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "/dev/null",
    "/dev/stdin",
    "/proc/self/environ",
    "/proc/self/fd/0",
    ".",
    "..",
    "/",
    "//",
    "a/../b",
    "a" * 256,
    "x/" * 3000,
    "a" * 5000,
    "é" * 200,
    "$HOME",
    "${HOME}",
    "%(x)s",
    "%s%s%n",
    "{0}",
    "{text}",
    "{eos}",
    "{image}",
    "{text}{text}",
    "{token:}",
    "{token:<|im_end|>}",
    "{text!r:>999999999}",
    "{text:{eos}}",
    "{",
    "}",
    "{{",
    "}}",
    "{a.b[0]}",
    "<image>",
    "<image>" * 20,
    "<|endoftext|>",
    "*",
    "**",
    "?",
    "[",
    "[!",
    "[a-",
    "*" * 40 + "b",
    "/**/*",
    "**/*.parquet",
    "{0..999999999}",
    "{000..002}",
    "{a,b}" * 40,
    "{1..0}",
    "(a+)+$",
    "(?P<",
    "\\",
    "\\x",
    "http://127.0.0.1:9/x",
    "file:///etc/passwd",
    "hf://x/y",
    "hf-hub:a/b",
    "local-dir:/",
    "local-dir:",
    "pipe:id",
    "python:os/x",
    "python:",
    "!!python/object:os.system",
    "__class__",
    "__proto__",
    "timm",
    "mamba",
    "linear",
    "llava",
    "type",
    "encoder",
    "base",
    "data:image/png;base64,",
    "data:image/png;base64,AAAA",
    "ID",
    "None",
    "NaN",
]
KEYS = [
    "type",
    "base",
    "name",
    "train",
    "encoder",
    "connector",
    "llm",
    "template",
    "path",
    "images",
    "weights",
    "model",
    "extra",
    "__class__",
    "__init__",
    "model_config",
    "model_fields",
    "",
    "0",
    "1",
    "-1",
    "²",
    "<<",
    "*",
    "a.b",
    "a b",
    "é",
    "x" * 300,
    "\x1b[2J",
    "null",
    "true",
    "columns",
    "rows",
    "axes",
    "seeds",
    "stages",
    "lr",
    "data",
    "from",
    "value",
    "content",
    "role",
    "image",
    "conversations",
    "messages",
    "id",
    "system",
]


def number(rng: Random) -> Any:
    """A number, whole or not, of any size."""
    if rng.random() < 0.5:
        return rng.choice(NUMBERS)
    size = rng.choice((1, 3, 8, 16, 31, 32, 62, 63, 64, 100, 2000))
    return (
        rng.choice((1, -1)) * rng.getrandbits(size)
        if rng.random() < 0.7
        else rng.uniform(-1, 1) * 10.0 ** min(size, 300)
    )


def text(rng: Random) -> str:
    """A text, hostile or random."""
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(TEXTS)
    if kind < 0.8:
        return rng.choice(TEXTS) + rng.choice(TEXTS)
    if kind < 0.83:
        return rng.choice(TEXTS) * rng.choice((50, 2000))
    return "".join(
        chr(rng.choice((rng.randrange(32), rng.randrange(127), rng.randrange(0x3000)))) for _ in range(8)
    )


def key(rng: Random) -> str:
    return rng.choice(KEYS) if rng.random() < 0.9 else text(rng)[:400]


def value(rng: Random, depth: int = 0) -> Any:
    """Any plain value; containers hold others to a small depth, or are long or deep on purpose."""
    kind = rng.random()
    if kind < 0.3:
        return number(rng)
    if kind < 0.65 or depth > 3:
        return text(rng)
    if kind < 0.7:
        return None
    if kind < 0.82:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind < 0.94:
        return {key(rng): value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return large(rng)


def large(rng: Random) -> Any:
    """Something long or deep."""
    makers: list[Callable[[], Any]] = [
        lambda: _nested(rng.choice((30, 100, 400)), rng),
        lambda: [rng.choice((0, "a", None))] * rng.choice((100, 3000, 20_000)),
        lambda: {f"k{i}": i for i in range(rng.choice((50, 3000)))},
        lambda: "x" * rng.choice((1000, 70_000, 400_000)),
        lambda: int("9" * rng.choice((50, 4000))),
    ]
    return rng.choice(makers)()


def _nested(depth: int, rng: Random) -> Any:
    inner: Any = 1
    for _ in range(depth):
        inner = [inner] if rng.random() < 0.5 else {"a": inner}
    return inner
