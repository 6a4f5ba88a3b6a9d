"""Generation that ends at stop strings."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GREEDY, GenerationConfig
from vlm_core.interfaces import Tokenizer

INCOMPLETE = "\ufffd"
"""What an unfinished character decodes to."""
MARGIN = 8
"""Tokens more than a stop string has bytes, for those that decode to nothing or to white space at the start."""


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop strings, without surrounding white space.

    White space at the start is not part of an answer: a stop string in it does not end the answer.
    """
    text = text.lstrip()
    return text[: _first(text, stops)].strip()


def _first(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins."""
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)


class StopMatcher:
    """Tells when the ids of one answer have reached a stop string.

    A stop string that is the spelling of a control token is this token: decoded text has no control tokens.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stops = [stop for stop in stops if stop]
        control = tokenizer.control_tokens
        self.control_ids = {control[stop] for stop in self.stops if stop in control}
        self.window = max((len(stop.encode()) for stop in self.stops), default=0) + MARGIN
        self.ids: list[int] = []
        self.finished = False
        self._found = False  # whether the text has a stop string

    def add(self, token: int | None) -> bool:
        """Whether the answer has ended, by `token` or before; None is a token after the end."""
        self.finished = self.finished or token is None or token in self.control_ids
        if not self.finished and token is not None:
            self.ids.append(token)
            self.finished = self._reached()
        return self.finished

    def _reached(self) -> bool:
        """Whether the first stop string is certain. All ids are decoded only if the latest ones have one."""
        if not self.stops:
            return False
        latest = self.ids[-self.window :]
        if not self._found and _first(self.tokenizer.decode(latest), self.stops) is None:
            return False
        text = self.tokenizer.decode(self.ids).lstrip()
        first = _first(text, self.stops)
        self._found = first is not None
        return first is not None and not text.endswith(INCOMPLETE) and not self._may_begin(text, first)

    def _may_begin(self, text: str, before: int) -> bool:
        """Whether `text` ends within a stop string that would begin before position `before`."""
        return any(
            stop.startswith(text[start:])
            for stop in self.stops
            for start in range(max(0, len(text) - len(stop) + 1), before)
        )

    def text(self) -> str:
        """The answer, as `cut` of its text."""
        return cut(self.tokenizer.decode(self.ids), self.stops)


def generate_until(
    session: Session, stops: Sequence[Sequence[str]], decoding: GenerationConfig = GREEDY
) -> list[str]:
    """Generate an answer to each conversation up to the first of its own stop strings.

    The answers are those of a generation to the end, cut by `cut`. No token is generated after all have ended.
    """
    answers = [StopMatcher(session.model.llm.tokenizer, own) for own in stops]
    for ids in session.tokens(decoding):
        ended = [answer.add(token) for answer, token in zip(answers, ids, strict=True)]
        if all(ended):
            break
    return [answer.text() for answer in answers]
