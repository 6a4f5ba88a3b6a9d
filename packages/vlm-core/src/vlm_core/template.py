"""Chat templates: how a conversation becomes text, and which of that text the model must learn to say.

A template is four patterns. `{text}` is what the role said and `{eos}` the tokenizer's real end of text.
`assistant_prompt` is written before each answer and is never a target; `assistant` is one up to its `{eos}`.
A `user` pattern without `{text}` keeps only the images (stage 1: captions). A brace is written `{{` or `}}`.
"""

from __future__ import annotations

import string
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from vlm_core.config import StrictModel
from vlm_core.errors import choices

_LLAVA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


class Template(StrictModel):
    """Patterns of the roles, and where images go: `inline` as written, or all `first` (Eq. 7)."""

    system: str = Field(default="", description="written once, at the start of a conversation")
    user: str = Field(description="pattern of a user's turn; without {text} it keeps only the turn's images")
    assistant_prompt: str = Field(
        default="", description="pattern written after each user's turn, before the answer"
    )
    assistant: str = Field(description="pattern of an answer; the model learns it up to its first {eos}")
    images: str = Field(
        default="inline",
        pattern="^(inline|first)$",
        description="inline: an image goes where its <image> stands; first: all images go before all text",
    )

    @field_validator("system", "user", "assistant_prompt", "assistant")
    @classmethod
    def _known_fields(cls, pattern: str, info: ValidationInfo) -> str:
        allowed = {"text", "eos"} if info.field_name in ("user", "assistant") else {"eos"}
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
        except ValueError as error:
            raise ValueError(f"not a pattern: {error}") from None
        for name in fields:
            if name not in allowed:
                raise ValueError(f"unknown field {{{name}}}{choices(name, allowed)}")
        if info.field_name == "assistant" and "text" not in fields:
            raise ValueError(f"the pattern {pattern!r} never says the answer: it needs {{text}}")
        return pattern

    @staticmethod
    def named(name: str) -> Template:
        """One of the built-in templates; raises `ValueError` naming the possible ones."""
        if name not in TEMPLATES:
            raise ValueError(f"unknown template {name!r}{choices(name, TEMPLATES)}")
        return TEMPLATES[name]


TEMPLATES = {
    "plain": Template(user="", assistant="{text}{eos}"),
    "llava-v1": Template(
        system=_LLAVA_SYSTEM, user=" USER: {text}", assistant_prompt=" ASSISTANT:", assistant=" {text}{eos}"
    ),
    "short": Template(
        user="Question: {text}", assistant_prompt=" Answer:", assistant=" {text}{eos}", images="first"
    ),
    "cobra": Template(user="In: {text}\n", assistant_prompt="Out:", assistant=" {text}{eos}", images="first"),
    "zephyr": Template(
        user="<|user|>\n{text}{eos}\n",
        assistant_prompt="<|assistant|>\n",
        assistant="{text}{eos}\n",
        images="first",
    ),
}


def _resolve(value: Any) -> Any:
    return Template.named(value) if isinstance(value, str) else value


TemplateField = Annotated[Template, BeforeValidator(_resolve)]
