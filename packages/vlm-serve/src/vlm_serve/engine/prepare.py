"""Makes of a request what the decode thread needs: tokens, decoded images, a sampler. The model computes nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property, partial

from vlm_core.errors import BadSample, UserError
from vlm_core.generation.prefix_reader import PrefixReader, ReadPlan
from vlm_core.generation.prompts import answer_ends
from vlm_core.io.images import decode_image
from vlm_core.io.video.sources import StoredImage, VideoSource
from vlm_core.model import VLM
from vlm_core.text.messages import IMAGE, Message, Part
from vlm_core.text.render import TokenizedConversation, render
from vlm_core.views.image_views import ImageInput
from vlm_serve.engine.request import (
    ChatMessage,
    ChatPrompt,
    GenerationRequest,
    ImageFile,
    Refused,
    Subject,
    VideoFile,
)
from vlm_serve.engine.sampling.answer_text import AnswerText
from vlm_serve.engine.sampling.grammar import GrammarCompiler, GrammarState
from vlm_serve.engine.sampling.row_sampler import RowSampler

MAX_ALTERNATIVES = 20
CONTEXT = 8
"""Ids of a text that is continued whose text the first tokens are decoded after."""
TOO_LONG = "context_length_exceeded"
"""OpenAI's code for a prompt that is too long."""


@dataclass(frozen=True, eq=False)
class Conversation:
    """What a chat prompt was rendered from, so that it can be continued with its answer."""

    messages: list[Message]
    system: str | None
    images: list[ImageInput]


@dataclass(frozen=True, eq=False)
class PreparedRequest:
    """A request that is ready to be read and answered."""

    request: GenerationRequest
    plan: ReadPlan
    owner: str
    """Owner of the states in the cache."""
    max_tokens: int
    ends: frozenset[int]
    sampler: RowSampler
    text: AnswerText
    grammar: GrammarState | None = None
    conversation: Conversation | None = field(default=None, repr=False)

    @property
    def positions(self) -> int:
        """Positions of the prompt and of the longest answer."""
        return self.plan.positions + self.max_tokens


class Preparer:
    """Prepares requests for one model; threads may share it."""

    def __init__(self, reader: PrefixReader, max_positions: int, *, shared_cache: bool = False) -> None:
        self.model: VLM = reader.model
        self.reader, self.max_positions, self.shared_cache = reader, max_positions, shared_cache
        self.tokenizer = self.model.llm.tokenizer
        self.grammars = GrammarCompiler(self.tokenizer)

    def __call__(self, request: GenerationRequest) -> PreparedRequest:
        """Raises `UserError` for a request that can't be answered."""
        conversation = None
        if isinstance(request.prompt, ChatPrompt):
            conversation = self._conversation(request.prompt)
            prompt, system, images = self.rendered(conversation), conversation.system, conversation.images
        else:
            prompt, system, images = self._continued(request.prompt.content), None, []
        max_tokens = self._max_tokens(request, len(prompt))
        plan = self.reader.plan(prompt, images, system=system)
        ends = frozenset(answer_ends(self.tokenizer.eos_id, prompt.end))
        params = request.sampling
        self._check_ids(params.logit_bias, "logit_bias")
        if params.logprobs is not None and not 0 <= params.logprobs <= MAX_ALTERNATIVES:
            raise UserError(f"logprobs is {params.logprobs}; expected 0 to {MAX_ALTERNATIVES} alternatives")
        grammar = None if params.grammar is None else self.grammars.compile(params.grammar, ends)
        read = [i for i, image in zip(prompt.input_ids, prompt.image_mask, strict=True) if not image]
        sampler = RowSampler(params, len(self.tokenizer), read, grammar)
        is_chat = conversation is not None
        before = () if is_chat else prompt.input_ids[-CONTEXT:]
        text = AnswerText(self.tokenizer, params.stop, trim=is_chat, before=before)
        owner = "" if self.shared_cache else request.owner
        return PreparedRequest(request, plan, owner, max_tokens, ends, sampler, text, grammar, conversation)

    def rendered(self, conversation: Conversation, answer: str | None = None) -> TokenizedConversation:
        """The prompt of a conversation or, with an answer, the conversation up to the end of that answer."""
        messages, images = conversation.messages, conversation.images
        if answer is not None:
            messages = [*messages, Message("assistant", (answer,))]
        counts = [self.model.image_tokens(image) for image in images]
        tokens = render(self.reader.template, messages, self.tokenizer, counts, system=conversation.system)
        if answer is None:
            return tokens
        return tokens.part(0, len(tokens) - tokens.loss_mask[::-1].index(True))

    def _conversation(self, prompt: ChatPrompt) -> Conversation:
        messages, system = prompt.messages, None
        self._check_length(sum(len(part) for m in messages for part in m.parts if isinstance(part, str)))
        if messages and messages[0].role == "system":
            system, messages = _system_text(messages[0]), messages[1:]
        if any(message.role == "system" for message in messages):
            raise UserError("a system message can only be the first message")
        if not messages or messages[-1].role != "user":
            raise UserError("the last message must be the user's")
        images = [self._image(part) for m in messages for part in m.parts if not isinstance(part, str)]
        return Conversation([_message(message) for message in messages], system, images)

    def _image(self, file: ImageFile | VideoFile) -> ImageInput:
        try:
            if isinstance(file, ImageFile):
                return self.model.image_processor(decode_image(file.data, file.name))
            source = StoredImage(file.name, partial(_data, file))
            return self.model.video_processor(VideoSource(source))
        except BadSample as error:
            text = str(error)
            text = text if file.name in text else f"{file.name}: {text}"
            raise Refused(text, None, "invalid_image") from None

    def _continued(self, content: str | tuple[int, ...]) -> TokenizedConversation:
        """Text that is continued, after BOS if the tokenizer has one; ids as they are."""
        prompt, bos = TokenizedConversation(), self.tokenizer.bos_id
        if isinstance(content, str):
            self._check_length(len(content))
            prompt.append_text([] if bos is None else [bos], False)
            prompt.append_text(self.tokenizer.encode(content), False)
        else:
            self._check_ids(content, "prompt")
            prompt.append_text(list(content), False)
        return prompt

    def _check_ids(self, ids: Collection[int], name: Subject) -> None:
        size = len(self.tokenizer)
        wrong = [i for i in ids if not 0 <= i < size]
        if wrong:
            raise Refused(f"there is no token {wrong[0]}; the tokenizer has 0 to {size - 1}", name)

    @cached_property
    def _longest_token(self) -> int:
        """Characters of the longest token, counted where it follows itself: a first one may lose its white space."""
        decode = self.tokenizer.decode
        return max(len(decode([i, i])) - len(decode([i])) for i in range(len(self.tokenizer)))

    def _check_length(self, characters: int) -> None:
        """Raise `Refused` for text that has too many positions however it is tokenized, which would take long."""
        if characters > self.max_positions and characters > (
            most := self.max_positions * self._longest_token
        ):
            text = (
                f"the prompt has {characters} characters; {self.max_positions} positions have at most {most}"
            )
            raise Refused(text, "prompt", TOO_LONG)

    def _max_tokens(self, request: GenerationRequest, positions: int) -> int:
        """Tokens that the answer may have; raises `UserError` if there is no room for them."""
        asked = request.sampling.max_tokens
        room = self.max_positions - positions
        if room < 1 or (asked is not None and asked > room):
            wanted = f" and an answer of {asked}" if asked is not None and room >= 1 else ""
            text = f"the prompt has {positions} positions{wanted}; the server allows {self.max_positions} together"
            raise Refused(text, "prompt", TOO_LONG)
        if asked is not None and asked < 1:
            raise UserError(f"max_tokens is {asked}; expected at least 1")
        return room if asked is None else asked


def _data(file: VideoFile) -> bytes:
    return file.data


def _system_text(message: ChatMessage) -> str:
    if not all(isinstance(part, str) for part in message.parts):
        raise UserError("a system message can't have images")
    return "\n".join(part for part in message.parts if isinstance(part, str))


def _message(message: ChatMessage) -> Message:
    """A message with its parts on lines of their own, as in the data that models learn from."""
    if message.role == "assistant" and not all(isinstance(part, str) for part in message.parts):
        raise UserError("an assistant's message can't have images")
    parts: list[Part] = []
    for part in message.parts:
        parts += ["\n"] if parts else []
        parts.append(part if isinstance(part, str) else IMAGE)
    assert message.role != "system", "taken out before"
    return Message(message.role, tuple(parts))
