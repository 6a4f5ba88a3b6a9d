"""A conversation with a model behind a server, which gets all earlier turns with each question."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from vlm_core.remote.client import ChatClient, Decoding, Message, Usage
from vlm_core.remote.content import Part, content_of, image_part, video_part


class RemoteConversation:
    """Questions, images and answers. `usage` and `finish_reason` are those of the last answer."""

    def __init__(self, client: ChatClient, model: str, decoding: Decoding) -> None:
        self.client, self.model, self.decoding = client, model, decoding
        self.reset()

    def reset(self) -> None:
        """Start a new conversation; images added for the next question are dropped."""
        self.messages: list[Message] = []
        self.media: list[Part] = []
        self.usage: Usage | None = None
        self.finish_reason: str | None = None

    def show(self, path: Path) -> None:
        """Add an image to the next question; raises `BadSample` for a file that is not a usable image."""
        self.media.append(image_part(path))

    def show_video(self, path: Path) -> None:
        """Add a video to the next question; the server decides which frames are read."""
        self.media.append(video_part(path))

    def ask(self, question: str) -> Generator[str]:
        """Yield the answer as it comes. If the caller stops early, the part so far is the answer.

        After an error, or if nothing has come yet, the question is not part of the conversation, and its images stay
        for the next one.
        """
        message: Message = {"role": "user", "content": content_of(self.media, question)}
        answer, keep = "", False
        self.usage = self.finish_reason = None
        try:
            for chunk in self.client.stream(self.model, [*self.messages, message], self.decoding):
                text = chunk.text if answer else chunk.text.lstrip()
                answer += text
                self.usage = chunk.usage or self.usage
                self.finish_reason = chunk.finish_reason or self.finish_reason
                yield text
            keep = True
        except (GeneratorExit, KeyboardInterrupt):
            keep = bool(answer)
            raise
        finally:
            if keep:
                self.messages += [message, {"role": "assistant", "content": answer}]
                self.media = []
