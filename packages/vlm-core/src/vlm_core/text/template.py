"""Chat templates: how a conversation is rendered, and which of its tokens are targets.

A template is a few patterns. `{text}` is the text of the turn, `{eos}` the tokenizer's EOS and
`{token:<|im_end|>}` any of its control tokens. `assistant_prompt` is written before each answer and is never a target;
`assistant` is a target up to the control token that ends the answer. A `user` pattern without `{text}` keeps only the
images (stage 1: captions). The template `tokenizer` is the tokenizer's own chat template.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from vlm_core.errors import UserError, choices
from vlm_core.io.yaml_loader import Path_
from vlm_core.plugins.config import StrictModel
from vlm_core.text.pattern import ending, has_text_field, parse, spelled_tokens, unknown_token

if TYPE_CHECKING:
    from vlm_core.interfaces import Tokenizer

_LLAVA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_ALLOWED = {
    "system": {"text", "eos", "token"},
    "user": {"text", "eos", "token"},
    "assistant_prompt": {"eos", "token"},
    "assistant": {"text", "eos", "token"},
    "image": {"image", "eos", "token"},
}
_NEVER_STOPS = "a model that learns from it would never stop"
_NEEDED = {"assistant": ("text", "leaves out the answer"), "image": ("image", "leaves out the image")}
_IMAGE = Field(default="{image}", description="pattern of each image")
_IMAGES = Field(default="inline", pattern="^(inline|first)$", description="where images go")


def _checked(pattern: str, info: ValidationInfo) -> str:
    """The pattern; raises `ValueError` for a field that it may not have or lacks."""
    name = str(info.field_name)
    kinds = [piece.kind for piece in parse(pattern) if piece.kind != "literal"]
    for kind in kinds:
        if kind not in _ALLOWED[name]:
            raise ValueError(f"unknown field {{{kind}}}{choices(kind, _ALLOWED[name])}")
    needed, why = _NEEDED.get(name, ("", ""))
    if needed and needed not in kinds:
        raise ValueError(f"the pattern {pattern!r} {why}: it needs {{{needed}}}")
    for once in ("text", "image"):
        if kinds.count(once) > 1:
            raise ValueError(f"{{{once}}} appears more than once in {pattern!r}")
    return pattern


class Template(StrictModel):
    """Patterns of the roles and of an image, and where images go: `inline` as written, or all `first` (Eq. 7)."""

    system: str = Field(default="", description="pattern of the system prompt, written once, at the start")
    system_text: str | None = Field(
        default=None,
        description="what {text} is in `system`, unless a conversation has a system prompt of its own",
    )
    user: str = Field(description="pattern of a user's turn; without {text} it keeps only the turn's images")
    assistant_prompt: str = Field(
        default="", description="pattern written after each user's turn, before the answer"
    )
    assistant: str = Field(
        description="pattern of an answer; the model learns it up to the control token that ends it"
    )
    image: str = _IMAGE
    images: str = _IMAGES

    _patterns = field_validator("system", "user", "assistant_prompt", "assistant", "image")(_checked)

    @field_validator("system_text")
    @classmethod
    def _used(cls, text: str | None, info: ValidationInfo) -> str | None:
        system = info.data.get("system")
        if text is not None and system is not None and not has_text_field(system):
            raise ValueError("it is never used: `system` has no {text}")
        return text

    @staticmethod
    def named(name: str) -> AnyTemplate:
        """One of the built-in templates; raises `ValueError` naming the possible ones."""
        if name not in TEMPLATES and name != "tokenizer":
            raise ValueError(f"unknown template {name!r}{choices(name, [*TEMPLATES, 'tokenizer'])}")
        return TokenizerTemplate() if name == "tokenizer" else TEMPLATES[name]

    def faults(self, tokenizer: Tokenizer) -> list[tuple[str, str]]:
        """(key, what is wrong) for each control token that the tokenizer lacks or a pattern spells as text."""
        faults = [(key, text) for key in _ALLOWED for text in _pattern_faults(getattr(self, key), tokenizer)]
        spelled = [name for name in tokenizer.control_tokens if name in (self.system_text or "")]
        if ending(self.assistant) is None:
            faults.append(
                ("assistant", f"no control token follows {{text}}: {_NEVER_STOPS}; end it with {{eos}}")
            )
        return faults + ([("system_text", _spelled(spelled))] if spelled else [])


class TokenizerTemplate(StrictModel):
    """The chat template that comes with the tokenizer."""

    chat_template: Literal["tokenizer"] = Field(
        default="tokenizer", description="the chat template that comes with the tokenizer"
    )
    image: str = _IMAGE
    images: str = _IMAGES

    _patterns = field_validator("image")(_checked)

    def faults(self, tokenizer: Tokenizer) -> list[tuple[str, str]]:
        """As `Template.faults`; renders a conversation to test the template and the end of its answers."""
        from vlm_core.text.chat_template import render
        from vlm_core.text.messages import Message

        faults = [("image", text) for text in _pattern_faults(self.image, tokenizer)]
        if faults:
            return faults
        try:
            end = render(self, [Message("user", ("a",))], tokenizer).end
            render(self, [Message("user", ("a",)), Message("assistant", ("b",))], tokenizer)
        except UserError as error:
            return [("", str(error))]
        if end is None:
            return [
                (
                    "",
                    "the tokenizer's chat template ends an answer with no control token: "
                    f"{_NEVER_STOPS}; write a template of your own",
                )
            ]
        return []


AnyTemplate = Template | TokenizerTemplate


def _pattern_faults(pattern: str, tokenizer: Tokenizer) -> list[str]:
    named = [piece.value for piece in parse(pattern) if piece.kind == "token"]
    unknown = [unknown_token(name, tokenizer) for name in named if name not in tokenizer.control_tokens]
    spelled = spelled_tokens(pattern, tokenizer)
    return unknown + ([_spelled(spelled)] if spelled else [])


def _spelled(names: list[str]) -> str:
    ways = ", ".join(f"{{token:{name}}}" for name in names)
    return (
        f"{', '.join(map(repr, names))}: control tokens of the tokenizer, but spelled like this they are plain text; "
        f"write {ways}"
    )


class TemplateError(UserError):
    """Faults of templates with their tokenizer: (path in the spec, message)."""

    def __init__(self, faults: list[tuple[Path_, str]]) -> None:
        super().__init__(*(f"{'.'.join(map(str, path))}: {text}" for path, text in faults))
        self.faults = faults


def check_template(template: AnyTemplate, tokenizer: Tokenizer, at: Path_ = ("template",)) -> None:
    """Raise `TemplateError` if the template names unknown control tokens or spells control tokens as text."""
    if faults := template.faults(tokenizer):
        raise TemplateError([((*at, key) if key else at, text) for key, text in faults])


_CHATML = {
    "system": "{token:<|im_start|>}system\n{text}{token:<|im_end|>}\n",
    "system_text": "You are a helpful assistant.",
    "user": "{token:<|im_start|>}user\n{text}{token:<|im_end|>}\n",
    "assistant_prompt": "{token:<|im_start|>}assistant\n",
    "assistant": "{text}{token:<|im_end|>}\n",
}
_LLAMA_3 = "{{token:<|start_header_id|>}}{}{{token:<|end_header_id|>}}\n\n"
TEMPLATES = {
    "plain": Template(user="", assistant="{text}{eos}"),
    "llava-v1": Template(
        system=_LLAVA_SYSTEM, user=" USER: {text}", assistant_prompt=" ASSISTANT:", assistant=" {text}{eos}"
    ),
    "vicuna": Template(
        system="{text} ",
        system_text=_LLAVA_SYSTEM.replace("human", "user"),
        user="USER: {text} ",
        assistant_prompt="ASSISTANT:",
        assistant=" {text}{eos}",
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
    "chatml": Template(**_CHATML),
    "qwen2-vl": Template(**_CHATML, image="{token:<|vision_start|>}{image}{token:<|vision_end|>}"),
    "llama-3": Template(
        system=_LLAMA_3.format("system") + "{text}{token:<|eot_id|>}",
        user=_LLAMA_3.format("user") + "{text}{token:<|eot_id|>}",
        assistant_prompt=_LLAMA_3.format("assistant"),
        assistant="{text}{token:<|eot_id|>}",
    ),
}


def _resolve(value: Any) -> Any:
    """A template from a name, patterns, or the tokenizer's template with its own `image`; faults keep their keys."""
    if isinstance(value, str):
        return Template.named(value)
    if isinstance(value, Template | TokenizerTemplate):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"expected the name of a template, or a mapping of patterns, got {value!r:.60}")
    model = TokenizerTemplate if "chat_template" in value else Template
    try:
        return model.model_validate(value)
    except ValidationError as error:
        nested = [(model, problem) for problem in error.errors(include_url=False)]
        raise PydanticCustomError("nested", "invalid template", {"nested": nested}) from None


TemplateField = Annotated[
    AnyTemplate, BeforeValidator(_resolve, json_schema_input_type=str | Template | TokenizerTemplate)
]
