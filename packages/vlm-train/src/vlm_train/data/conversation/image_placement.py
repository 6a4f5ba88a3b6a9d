"""Positions of a conversation's images: `<image>` in text, parts of messages, or all before the first question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vlm_core.errors import BadSample
from vlm_train.config.unknown_keys import check_marks
from vlm_train.data.conversation.chat_turns import Dialogue, ImagePart
from vlm_train.data.conversation.llava_schema import PLACEHOLDER


class Placing:
    """Goes through a conversation and takes the row's images one after the other.

    `images` after that are those of the conversation in order, `turns` LLaVA's turns with `<image>` for each.
    `member`, if given, tells which of the row's images a name in a message means.
    """

    def __init__(self, images: Sequence[Any], where: str, member: Callable[[str], int] | None = None) -> None:
        self.of_row, self.where, self.member = list(images), where, member
        self.images: list[Any] = []
        self.places: list[int] = []
        self.more = 0

    def turns(self, dialogue: Dialogue, in_front: bool) -> list[dict[str, str]]:
        """The turns; with `in_front`, images without a position come before the first one."""
        found = []
        for speaker, content in dialogue.turns:
            text = [self._write(part, speaker == "human") for part in content]
            found.append({"from": speaker, "value": "\n".join(text)})
        if in_front and self.of_row and not self.places and not self.images:
            marks = [self._take(None) for _ in self.of_row]
            asked = found[0]["value"]
            found[0] = {**found[0], "value": "\n".join([*marks, *([asked] if asked else [])])}
        self._check()
        return found

    def _write(self, part: str | ImagePart, human: bool) -> str:
        if isinstance(part, str):
            if human:
                check_marks(part, self.where)
                marks = part.count(PLACEHOLDER)
                for _ in range(min(marks, len(self.of_row) + 1)):
                    self._take(None)
                self.more += max(0, marks - len(self.of_row) - 1)  # too many: they are counted, not taken
            return part
        if part.value is None:
            return self._take(part.number)
        if self.member is not None and isinstance(part.value, str):
            return self._take(self.member(part.value))
        self.images.append(part.value)
        return PLACEHOLDER

    def _take(self, number: int | None) -> str:
        """The next of the row's images, or that number; `_check` finds those that aren't there."""
        self.places.append(len(self.places) if number is None else number)
        self.images.extend(self.of_row[self.places[-1] : self.places[-1] + 1])
        return PLACEHOLDER

    def _check(self) -> None:
        count = len(self.of_row)
        if (marks := len(self.places) + self.more) != count:
            text = f"{marks} {PLACEHOLDER} in the human turns, but {count} images"
            raise BadSample("placeholders", f"{self.where}: {text}")
        if missing := sorted(set(range(count)) - set(self.places)):
            raise BadSample(
                "placeholders", f"{self.where}: image {missing[0]} of the row has no place in the text"
            )
