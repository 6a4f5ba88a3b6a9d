"""Places a row's images and videos in its turns: at `<image>` and `<video>`, at parts of messages, or before them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vlm_core.errors import BadSample
from vlm_train.config.unknown_keys import check_marks
from vlm_train.data.conversation.chat_turns import Dialogue, ImagePart
from vlm_train.data.conversation.llava_schema import PLACEHOLDER, VIDEO
from vlm_train.data.conversation.video_values import RowVideo

_MARK = re.compile(f"{PLACEHOLDER}|{VIDEO}")


class ImagePlacement:
    """Assigns the images and videos of one row to the placeholders of its conversation.

    After `turns`, `images` are both in the order of their placeholders. `<image>` is the next image or, in a row that
    has videos alone, the next video; `<video>` is the next video, and plain text in a row without one. `member`, if
    given, returns the number of the row's image or video that a name in a message refers to.
    """

    def __init__(self, images: Sequence[Any], where: str, member: Callable[[str], int] | None = None) -> None:
        self.row_images, self.where, self.member = list(images), where, member
        self.of_kind: dict[bool, list[int]] = {False: [], True: []}
        for number, image in enumerate(images):
            self.of_kind[isinstance(image, RowVideo)].append(number)
        self.images: list[Any] = []
        self.numbers: list[int] = []
        self.taken = {False: 0, True: 0}
        self.excess = 0

    def turns(self, dialogue: Dialogue, prepend: bool) -> list[dict[str, str]]:
        """LLaVA's turns with `<image>` for each image and video; with `prepend`, those without a place come first.

        Raises `BadSample` if placeholders and images differ in number.
        """
        turns = []
        for speaker, content in dialogue.turns:
            text = [self._write(part, speaker == "human") for part in content]
            turns.append({"from": speaker, "value": "\n".join(text)})
        if prepend and self.row_images and not self.numbers and not self.images:
            placeholders = [self._place(number) for number in range(len(self.row_images))]
            question = turns[0]["value"]
            turns[0] = {**turns[0], "value": "\n".join([*placeholders, *([question] if question else [])])}
        self._check()
        return turns

    def _write(self, part: str | ImagePart, human: bool) -> str:
        if isinstance(part, str):
            return self._text(part) if human else part
        if part.value is None:
            return self._take(part.video, part.number)
        name = part.value.value if isinstance(part.value, RowVideo) else part.value
        if self.member is not None and isinstance(name, str):
            return self._take_member(self.member(name), name, part)
        self.images.append(part.value)
        return PLACEHOLDER

    def _text(self, text: str) -> str:
        """A human's text with `<image>` in place of `<video>`, whose images and videos are taken."""
        has_videos = bool(self.of_kind[True])
        check_marks(text.replace(VIDEO, "") if has_videos else text, self.where)
        count = text.count(PLACEHOLDER) + has_videos * text.count(VIDEO)
        if count > len(self.row_images) + 1:  # counted only: there may be millions
            self.excess += count
            return text
        for mark in _MARK.findall(text):
            if mark == PLACEHOLDER or has_videos:
                self._take(mark == VIDEO, None)
        return text.replace(VIDEO, PLACEHOLDER) if has_videos else text

    def _take(self, video: bool, number: int | None) -> str:
        """Take the row's next image or video, or the one `number`; `_check` reports those that don't exist."""
        video = video or not self.of_kind[False]
        number = self.taken[video] if number is None else number
        self.taken[video] += 1
        places = self.of_kind[video]
        return self._place(places[number] if number < len(places) else len(self.row_images) + number)

    def _place(self, number: int) -> str:
        self.numbers.append(number)
        self.images.extend(self.row_images[number : number + 1])
        return PLACEHOLDER

    def _take_member(self, number: int, name: str, part: ImagePart) -> str:
        """Take the image or video that a part names, with the part's sampling."""
        self._place(number)
        image = self.row_images[number]
        if isinstance(image, RowVideo) != part.video:
            kind, other = ("image", "video") if part.video else ("video", "image")
            raise BadSample(
                "schema", f"{self.where}: {name!r:.80} is no {other}; name it in a part of type {kind!r}"
            )
        if isinstance(part.value, RowVideo) and part.value.sampling is not None:
            self.images[-1] = replace(image, sampling=part.value.sampling)
        return PLACEHOLDER

    def _check(self) -> None:
        count = len(self.row_images)
        videos = len(self.of_kind[True])
        if (placeholders := len(self.numbers) + self.excess) != count or max(
            self.numbers, default=-1
        ) >= count:
            marks = f"{PLACEHOLDER} or {VIDEO}" if videos else PLACEHOLDER
            has = f"{count - videos} images and {videos} videos" if videos else f"{count} images"
            text = f"{placeholders} {marks} in the human turns, but {has}; expected one for each"
            raise BadSample("placeholders", f"{self.where}: {text}")
        if missing := sorted(set(range(count)) - set(self.numbers)):
            medium = "video" if isinstance(self.row_images[missing[0]], RowVideo) else "image"
            number = self.of_kind[medium == "video"].index(missing[0])
            raise BadSample(
                "placeholders", f"{self.where}: {medium} {number} of the row has no place in the text"
            )
