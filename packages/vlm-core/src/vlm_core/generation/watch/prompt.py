"""A prompt about n images in parts, so that images can be read before their number and the question are known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from vlm_core.errors import UserError
from vlm_core.interfaces import Tokenizer
from vlm_core.text.render import IMAGE, Message, Part, TokenizedConversation, has_question, render

if TYPE_CHECKING:
    from vlm_core.text.template import AnyTemplate


def question_about(images: int, question: str) -> Message:
    """A user's turn of images or videos, a line each, and a question."""
    parts: list[Part] = [part for _ in range(images) for part in (IMAGE, "\n")]
    return Message("user", (*parts, question))


class _Parts(NamedTuple):
    """Ids before the first image and between two, and the prompt after the last image."""

    before: list[int]
    between: list[list[int]]
    after: TokenizedConversation


def _split(prompt: TokenizedConversation) -> _Parts:
    """The parts of a prompt whose images have one position each; those of a video follow one another."""
    places = [i for i, image in enumerate(prompt.image_mask) if image]
    between = [prompt.input_ids[a + 1 : b] for a, b in pairwise(places)]
    return _Parts(prompt.input_ids[: places[0]], between, prompt.part(places[-1] + 1))


class WatchPrompt:
    """The ids of `before` precede the first image, those of `between` every other one.

    With `as_video`, the images are the frames of one video, as in training on videos: `between` is empty. With
    `after(question)` they are the prompt that `render` gives for the same images and question at once. Raises
    `UserError` for a template that writes the question before the images.
    """

    def __init__(self, template: AnyTemplate, tokenizer: Tokenizer, *, as_video: bool = False) -> None:
        self._template, self._tokenizer, self.as_video = template, tokenizer, as_video
        self.before, between, _ = self._parts("", 3)
        self.between = between[0]
        self._require_constant(between[1:], "")
        if has_question(template):
            self.after("a")

    def _parts(self, question: str, images: int) -> _Parts:
        return _split(self.whole(question, [1] * images))

    def whole(self, question: str, image_tokens: Sequence[int]) -> TokenizedConversation:
        """The prompt about images of so many positions, all at once."""
        if self.as_video and image_tokens:
            image_tokens = [sum(image_tokens)]
        message = question_about(len(image_tokens), question)
        return render(self._template, [message], self._tokenizer, image_tokens)

    def after(self, question: str) -> TokenizedConversation:
        """What follows the last image."""
        before, between, after = self._parts(question, 2)
        if before != self.before:
            raise UserError(
                "the template writes the question before the images, so they can't be read before it is asked"
            )
        self._require_constant(between, question)
        return after

    def _require_constant(self, between: list[list[int]], question: str) -> None:
        if any(ids != self.between for ids in between):
            raise UserError(
                f"the template writes other text between images for the question {question!r:.60}"
            )
