"""The text of an answer, released piece by piece as it becomes certain."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_core.generation.stop_strings import INCOMPLETE
from vlm_core.interfaces import Tokenizer


class AnswerText:
    """The pieces together are `vlm_core.generation.stop_strings.cut` of the decoded ids, whatever the pieces are.

    Held back are an incomplete character, what may be the beginning of a stop string, and with `trim` white space at
    the end. Without `trim`, as for text that is continued, white space is kept, and stop strings may be in it. A stop
    string that is the spelling of a control token is this token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        *,
        trim: bool = True,
        before: Sequence[int] = (),
    ) -> None:
        """`before` are the last ids before the text, without which some tokenizers drop its first white space."""
        self.tokenizer, self.trim, self.stops = tokenizer, trim, [stop for stop in stops if stop]
        control = tokenizer.control_tokens
        self._control_ids = {control[stop] for stop in self.stops if stop in control}
        self._ids: list[int] = [] if tokenizer.decode(before).endswith(INCOMPLETE) else [*before]
        self._begin, self._read = 0, len(self._ids)  # ids whose text is context, and ids whose text was read
        self._held, self._started = "", not trim
        self.stopped = False
        """Whether a stop string has ended the answer."""

    def add(self, token: int) -> str:
        """The text that is certain now."""
        assert not self.stopped, "the answer has ended"
        if token in self._control_ids:
            self.stopped = True
            return self._released(len(self._held), last=True)
        self._ids.append(token)
        self._held += self._decoded(last=False)
        return self._next()

    def finish(self) -> str:
        """The rest of the text, once no token follows."""
        if self.stopped:
            return ""
        self._held += self._decoded(last=True)
        end = _first(self._without_beginning(), self.stops)
        self.stopped = end is not None
        return self._released(len(self._held) if end is None else end, last=True)

    def _decoded(self, *, last: bool) -> str:
        """Text of the ids since the last call, if its last character is complete."""
        context = self.tokenizer.decode(self._ids[self._begin : self._read])
        text = self.tokenizer.decode(self._ids[self._begin :])
        if not last and (text.endswith(INCOMPLETE) or len(text) <= len(context)):
            return ""
        self._begin, self._read = self._read, len(self._ids)
        return text[len(context) :]

    def _without_beginning(self) -> str:
        """The text held back, whose white space is dropped if it would begin the answer."""
        if not self._started:
            self._held = self._held.lstrip()
            self._started = bool(self._held)
        return self._held

    def _next(self) -> str:
        text = self._without_beginning()
        first = _first(text, self.stops)
        begun = _may_begin(text, self.stops)
        if first is not None and first <= begun:
            self.stopped = True
            return self._released(first, last=True)
        return self._released(begun, last=False)

    def _released(self, end: int, *, last: bool) -> str:
        """The text up to `end`; white space at its end is held back, or dropped if it is the last."""
        text = self._held[:end]
        if self.trim:
            text = text.rstrip()
        self._held = "" if last else self._held[len(text) :]
        return text


def _first(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins."""
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)


def _may_begin(text: str, stops: Sequence[str]) -> int:
    """Where a stop string may begin that `text` has only the beginning of; the length of `text` if nowhere."""
    longest = max(map(len, stops), default=0)
    for start in range(max(0, len(text) - longest + 1), len(text)):
        if any(len(stop) > len(text) - start and stop.startswith(text[start:]) for stop in stops):
            return start
    return len(text)
