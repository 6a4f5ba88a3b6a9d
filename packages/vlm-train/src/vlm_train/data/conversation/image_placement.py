"""Places a row's images in its conversation: at `<image>`, at image parts of messages, or before the first question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vlm_core.errors import BadSample
from vlm_train.config.unknown_keys import check_marks
from vlm_train.data.conversation.chat_turns import Dialogue, ImagePart
from vlm_train.data.conversation.llava_schema import PLACEHOLDER


class ImagePlacement:
    """Assigns the images of one row to the placeholders of its conversation.

    After `turns`, `images` are the images in the order of their placeholders. `member`, if given, returns the number
    of the row's image that a name in a message refers to.
    """

    def __init__(self, images: Sequence[Any], where: str, member: Callable[[str], int] | None = None) -> None:
        self.row_images, self.where, self.member = list(images), where, member
        self.images: list[Any] = []
        self.numbers: list[int] = []
        self.excess = 0

    def turns(self, dialogue: Dialogue, prepend: bool) -> list[dict[str, str]]:
        """LLaVA's turns with `<image>` for each image; with `prepend`, images without a placeholder come first.

        Raises `BadSample` if placeholders and images differ in number.
        """
        turns = []
        for speaker, content in dialogue.turns:
            text = [self._write(part, speaker == "human") for part in content]
            turns.append({"from": speaker, "value": "\n".join(text)})
        if prepend and self.row_images and not self.numbers and not self.images:
            placeholders = [self._take(None) for _ in self.row_images]
            question = turns[0]["value"]
            turns[0] = {**turns[0], "value": "\n".join([*placeholders, *([question] if question else [])])}
        self._check()
        return turns

    def _write(self, part: str | ImagePart, human: bool) -> str:
        if isinstance(part, str):
            if human:
                check_marks(part, self.where)
                count = part.count(PLACEHOLDER)
                for _ in range(min(count, len(self.row_images) + 1)):
                    self._take(None)
                self.excess += max(0, count - len(self.row_images) - 1)  # counted only: there may be millions
            return part
        if part.value is None:
            return self._take(part.number)
        if self.member is not None and isinstance(part.value, str):
            return self._take(self.member(part.value))
        self.images.append(part.value)
        return PLACEHOLDER

    def _take(self, number: int | None) -> str:
        """Take the next of the row's images, or image `number`; `_check` reports images that don't exist."""
        self.numbers.append(len(self.numbers) if number is None else number)
        self.images.extend(self.row_images[self.numbers[-1] : self.numbers[-1] + 1])
        return PLACEHOLDER

    def _check(self) -> None:
        count = len(self.row_images)
        if (placeholders := len(self.numbers) + self.excess) != count:
            text = f"{placeholders} {PLACEHOLDER} in the human turns, but {count} images"
            raise BadSample("placeholders", f"{self.where}: {text}")
        if missing := sorted(set(range(count)) - set(self.numbers)):
            raise BadSample(
                "placeholders", f"{self.where}: image {missing[0]} of the row has no place in the text"
            )
