"""Rows as JSON or JSON lines, in LLaVA's schema, as messages and as columns, through the reader that training uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from fuzzing import mutate, values
from fuzzing.training import DATA_URL, PNG, outcome_of, reader
from vlm_train.data.llava import LlavaConfig

QUESTION = "<image>\nWhich colour is it?"
ROWS: list[dict[str, Any]] = [
    {
        "id": "1",
        "image": "a.png",
        "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "red"}],
    },
    {
        "id": "2",
        "image": ["a.png", "b.png"],
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "<image><image> same?"},
            {"from": "gpt", "value": "no"},
            {"from": "human", "value": "sure?"},
            {"from": "gpt", "value": "yes"},
        ],
    },
    {
        "id": 3,
        "conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}],
        "source": "x",
    },
    {
        "messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "red"}],
        "images": ["a.png"],
    },
    {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "eh?"}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
        ]
    },
    {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": DATA_URL}},
                    {"type": "text", "text": "colour?"},
                ],
            },
            {"role": "assistant", "content": "red"},
        ]
    },
    {"question": "Which colour?", "answer": "red", "image": "a.png", "id": "x"},
    {"image": "a.png", "text": "a red square"},
    {
        "images": [{"path": "a.png", "bytes": None}],
        "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "red"}],
    },
]
SNIPPETS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5000,
    '"\\ud800"',
    '"\\u0000"',
    "[" * 2000,
    '{"a": ' * 500,
    "null",
    '{"id": 1, "id": 2}',
    "//",
    "/* */",
    "'a'",
    "\\",
    "\x00",
    "\ufeff",
    "[",
    "]",
    "{",
    "}",
    ",",
    ",,",
    '"',
    "tru",
    "[]",
]


class Examples:
    """Files of one to four rows, of which one or two are changed."""

    apart = False

    def __init__(self, work: Path) -> None:
        self.reader = reader(work)

    def example(self, rng: Random, folder: Path) -> Callable[[], str]:
        for name in ("a.png", "b.png"):
            (folder / name).write_bytes(mutate.data(PNG, rng) if rng.random() < 0.05 else PNG)
        path = folder / rng.choice(("x.json", "x.jsonl"))
        path.write_bytes(_content(rng, path.suffix == ".jsonl"))
        ignore = [rng.choice(values.KEYS) or "a"] if rng.random() < 0.2 else []
        config = LlavaConfig(path=str(path), images=str(folder) if rng.random() < 0.5 else "", ignore=ignore)
        return lambda: outcome_of(config, self.reader)


def _content(rng: Random, lines: bool) -> bytes:
    rows = [rng.choice(ROWS) for _ in range(rng.randrange(1, 5))]
    kind = rng.random()
    if kind < 0.75:
        for _ in range(rng.choice((1, 1, 2))):
            place = rng.randrange(len(rows))
            rows[place] = mutate.mutated(rows[place], rng)
    text = _written(rows, lines, rng)
    if kind < 0.75:
        return text.encode("utf-8", rng.choice(("surrogatepass", "replace")))
    if kind < 0.9:
        return mutate.text(text, SNIPPETS, rng).encode("utf-8", "replace")
    if kind < 0.97:
        return mutate.data(text.encode("utf-8", "replace"), rng)
    return rng.choice(
        (text.encode("utf-16", "replace"), b"", b"\xef\xbb\xbf" + text.encode(), b"\x1f\x8b" + text.encode())
    )


def _written(rows: list[Any], lines: bool, rng: Random) -> str:
    """JSON; a value of thousands of digits or levels can't be written and makes it end early."""
    options: dict[str, Any] = {"ensure_ascii": rng.random() < 0.5}
    try:
        written = [json.dumps(row, **options) for row in rows]
    except (ValueError, RecursionError):
        return json.dumps(ROWS[0])
    if lines:
        return "\n".join(written)
    return f"[{', '.join(written)}]" if rng.random() < 0.95 else json.dumps({"data": rows})
