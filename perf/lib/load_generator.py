"""Clients of a server that ask again and again, and how each of their requests ended."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Literal

import httpx2
from PIL import Image

Kind = Literal["whole", "stream", "slow", "broken", "wrong"]
End = Literal["answered", "failed clearly", "broken off by the client", "silent"]
KINDS: tuple[Kind, ...] = ("whole", "stream", "slow", "broken", "wrong")
WEIGHTS = (5, 5, 2, 2, 1)
WORDS = (
    "what",
    "color",
    "is",
    "the",
    "shape",
    "on",
    "left",
    "of",
    "a",
    "dog",
    "and",
    "bench",
    "near",
    "water",
)
PATIENCE = 120.0
"""Seconds after which a request without an end counts as silent."""


@dataclass
class Tally:
    """Ends of requests by kind of client; `silent` says what was seen instead of an answer or an error."""

    ends: Counter[tuple[Kind, End]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    silent: list[str] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)

    def count(self, end: End) -> int:
        return sum(number for (_, each), number in self.ends.items() if each == end)

    def add(self, kind: Kind, end: End, detail: str = "") -> None:
        self.ends[kind, end] += 1
        if end == "failed clearly":
            self.errors[detail] += 1
        elif end == "silent":
            self.silent.append(f"{kind}: {detail}")


def image_url(draw: random.Random, side: int = 32) -> str:
    """A PNG of one colour as a data URL; few colours, so that some are found in the state cache."""
    file = BytesIO()
    Image.new("RGB", (side, side), (draw.randrange(8) * 32, 80, 160)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def body(kind: Kind, model: str, draw: random.Random) -> dict[str, Any]:
    """A request of a kind of client; that of `wrong` is refused."""
    content: list[dict[str, Any]] = [
        {"type": "text", "text": " ".join(draw.choices(WORDS, k=draw.randint(2, 40)))}
    ]
    if draw.random() < 0.5:
        content.insert(0, {"type": "image_url", "image_url": {"url": image_url(draw)}})
    wrong = [{"model": "other"}, {"temperature": -1}, {"messages": []}, {"unknown": 1}, {"max_tokens": 10**9}]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": draw.randint(1, 48),
        "temperature": draw.choice([0, 0.8]),
        "stream": kind in ("stream", "slow", "broken"),
        **(draw.choice(wrong) if kind == "wrong" else {}),
    }


async def client_loop(address: str, model: str, seed: int, end: float, tally: Tally) -> None:
    """Ask until the time `end` (`time.monotonic`), one request after the other."""
    draw = random.Random(seed)
    async with httpx2.AsyncClient(base_url=address, timeout=PATIENCE, trust_env=False) as client:
        while time.monotonic() < end:
            kind = draw.choices(KINDS, WEIGHTS)[0]
            try:
                await asyncio.wait_for(_ask(client, kind, body(kind, model, draw), tally), PATIENCE)
            except (httpx2.HTTPError, TimeoutError, OSError, ValueError) as error:
                tally.add(kind, "silent", f"{type(error).__name__}: {error}")
            await asyncio.sleep(draw.random() * 0.2)


async def _ask(client: httpx2.AsyncClient, kind: Kind, content: dict[str, Any], tally: Tally) -> None:
    begin = time.monotonic()
    async with client.stream("POST", "/v1/chat/completions", json=content) as response:
        if response.status_code != 200 or not content["stream"]:
            return _record(kind, response.status_code, await response.aread(), tally)
        first = True
        async for data in _events(response):
            if first and data != "[DONE]":
                tally.first_token.append(time.monotonic() - begin)
                first = False
            if data == "[DONE]":
                return tally.add(kind, "answered")
            if "error" in (event := json.loads(data)):
                return tally.add(kind, "failed clearly", event["error"]["message"])
            if kind == "broken":
                return tally.add(kind, "broken off by the client")
            if kind == "slow":
                await asyncio.sleep(0.1)
    tally.add(kind, "silent", "a stream without [DONE] and without an error")


async def _events(response: httpx2.Response) -> AsyncIterator[str]:
    """The data of a stream's events; lines end at line feeds alone: answers hold Unicode's other line ends."""
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield line.removeprefix(b"data: ").decode()


def _record(kind: Kind, status: int, data: bytes, tally: Tally) -> None:
    try:
        answer = json.loads(data)
        if status == 200:
            assert answer["choices"][0]["finish_reason"] in ("stop", "length")
            tally.add(kind, "answered")
        else:
            tally.add(kind, "failed clearly", f"{status}: {answer['error']['message']}"[:100])
    except (ValueError, LookupError, TypeError, AssertionError):
        tally.add(kind, "silent", f"status {status} with {data[:80]!r}")
