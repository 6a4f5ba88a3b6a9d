"""Time limit for the regular expressions of a tokenizer.json: a trial run in a process that can be killed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from vlm_core.errors import UserError
from vlm_core.markup.printable import printable

MAX_PATTERN = 4096
CPU_SECONDS, WALL_SECONDS, MEMORY = 2, 60, 2 * 2**30
LENGTHS = (40, 1000)
"""Lengths of the trial texts: the first reveals exponential time, the second cubic time."""
_ALWAYS = "aA1 \n\r\t.,'-_éßあ中😀\u0301\u00a0\x01"
_STEPS = ("normalizer", "pre_tokenizer", "decoder")
_PART = re.compile(
    r"(?P<escape>\\.)|(?P<open>\((?:\?(?:[:=!>~]|<[=!]|<?\w+[>:]|[imxW-]+:))?)|(?P<close>\))|"
    r"(?P<class>\[\^?\]?(?:\\.|\[[^]]*\]|[^]\\])*\])|(?P<repeat>[*+]|\{\d+,\})|(?P<other>.)",
    re.DOTALL,
)
_CHILD = """
import json, sys
request = json.loads(sys.stdin.buffer.read())
sys.path[:] = request["path"]
try:
    import resource
    seconds, memory = request["seconds"], request["memory"]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except ImportError:
    pass
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_str(request["definition"])
for text in request["texts"]:
    tokenizer.encode(text, add_special_tokens=False)
    if tokenizer.decoder is not None:
        tokenizer.decoder.decode([text])
print("fine")
"""


def try_patterns(definition: Mapping[str, Any]) -> None:
    """Raise `UserError` if normalizer, pre-tokenizer or decoder fail, or take seconds, on plain text.

    Only definitions with expressions or a sentencepiece table are tried; all others take time proportional to the text.
    """
    steps = {name: definition.get(name) for name in _STEPS}
    patterns = sorted(set(_patterns(steps)))
    for pattern in patterns:
        if len(pattern) > MAX_PATTERN:
            raise UserError(f"an expression of {len(pattern)} characters; at most {MAX_PATTERN} are possible")
        if repeats_repeats(pattern):
            raise UserError(
                f"the expression {printable(pattern, 200)!r} has a repetition inside a repetition: it may never end"
            )
    risky = patterns or "precompiled_charsmap" in json.dumps(steps)
    if risky and (fault := _tried(json.dumps(steps), "".join(patterns))):
        raise UserError(
            f"its normalizer, pre-tokenizer or decoder can't be used: {fault}; expressions: "
            f"{printable(' '.join(patterns), 200) or 'none'}"
        )


def repeats_repeats(pattern: str) -> bool:
    """Whether an unbounded repetition contains another one, as in `(a+)+`, which may take exponential time."""
    inside, closed = [False], False
    for part in _PART.finditer(pattern):
        kind, closed_before = part.lastgroup, closed
        closed = False
        if kind == "open":
            inside.append(False)
        elif kind == "close" and len(inside) > 1:
            closed = inside.pop()
            inside[-1] |= closed
        elif kind == "repeat":
            if closed_before:
                return True
            inside[-1] = True
    return False


def _patterns(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        inner = stack.pop()
        if isinstance(inner, dict):
            if isinstance(pattern := inner.get("Regex"), str):
                yield pattern
            stack += list(inner.values())
        elif isinstance(inner, list):
            stack += inner


@lru_cache(maxsize=32)
def _tried(steps: str, pattern: str) -> str | None:
    """The error of a trial run, or None."""
    model = {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}
    definition = {
        **json.loads(steps),
        "version": "1.0",
        "added_tokens": [],
        "post_processor": None,
        "model": model,
    }
    request = {
        "definition": json.dumps(definition),
        "texts": _texts(pattern),
        "path": sys.path,
        "seconds": CPU_SECONDS,
        "memory": MEMORY,
    }
    command = [sys.executable, "-I", "-c", _CHILD]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it takes more than {WALL_SECONDS} seconds for {max(LENGTHS)} characters"
    if done.returncode == 0 and done.stdout.strip() == b"fine":
        return None
    if done.returncode < 0:
        return f"it takes more than {CPU_SECONDS} seconds for {max(LENGTHS)} characters"
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return printable(lines[-1] if lines else "no reason request", 200)


def _texts(pattern: str) -> list[str]:
    """Trial texts that cause backtracking: runs of one character and of two alternating ones, with several endings."""
    literal = re.sub(r"\\.", "", pattern)[:200]
    characters = list(dict.fromkeys(_ALWAYS + literal))[:60]
    runs = [c * length for c in characters for length in LENGTHS]
    runs += [(a + b) * (length // 2) for a, b in ("a1", "a ", "aA", "a.", "1.", " \n") for length in LENGTHS]
    pairs = dict.fromkeys(re.findall(r"(?=(\w\w))", literal))
    runs += [(pair * length)[:length] for pair in [*list(pairs)[:20], literal] for length in LENGTHS if pair]
    every = "\x02" + "".join(characters)  # a search that needs one of them continues to the end
    return [run + end for run in runs for end in ("", "!", "a", "\n", every)]
