"""Conversations and pictures as the model reads them: the same template, tokenizer and transform as everywhere else."""

# transformers' own signatures list what other models need; ours take what they use
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from vlm_core.errors import UserError
from vlm_core.generation.generate import refuse_empty
from vlm_core.hf import parts
from vlm_core.hf.arguments import DECODING, PROCESSING, PROCESSOR, equal, local_folder, only, only_known
from vlm_core.hf.collator import VLMDataCollator
from vlm_core.hf.conversations import Talk, talk_of
from vlm_core.hf.saving import add_small_files, small_files, upload_of, verify_small_files
from vlm_core.hf.tokenizer import ProcessorTokenizer
from vlm_core.interfaces import PADDING
from vlm_core.io.files import read_json
from vlm_core.model import PARTS, VLM
from vlm_core.model_folder.load import empty_model
from vlm_core.text.batch import collate
from vlm_core.text.render import TokenizedConversation, TooLong, render

NESTED = (
    "text_kwargs",
    "images_kwargs",
    "videos_kwargs",
    "audio_kwargs",
    "common_kwargs",
    "processor_kwargs",
)
PADDINGS = {
    True: "longest",
    "longest": "longest",
    False: "no",
    "do_not_pad": "no",
    "max_length": "max_length",
}
CUTS = {True: True, "longest_first": True, "only_first": True, False: False, "do_not_truncate": False}


class Layout(NamedTuple):
    """How rows become tensors."""

    padding: bool | str = True
    padding_side: Literal["left", "right"] = "left"
    pad_to_multiple_of: int | None = None
    truncation: bool | str = False
    max_length: int | None = None
    add_special_tokens: bool | None = None


class VLMProcessor(ProcessorMixin):
    """Made by `from_pretrained(folder)`. Text is literal: it enters the chat template as ids."""

    def __init__(self, model: VLM, template: Any, files: dict[str, bytes]) -> None:
        self.model, self.template, self.files = model, template, files
        self.chat_template = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """The processor of a model folder or hub repository; `UserError` for arguments that would change it."""
        only_known(kwargs, PROCESSOR)
        folder = local_folder(pretrained_model_name_or_path, kwargs)
        verify_small_files(folder)
        file = folder / "processor_config.json"
        config = read_json(file)
        trust = bool(kwargs.get("trust_remote_code"))
        model = empty_model(lambda: parts.build(folder, trust_remote_code=trust), folder, PARTS)
        template = {"image": "{image}", "system_text": None, **config["template"]}
        return cls(model, SimpleNamespace(**template), small_files(folder))

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the small files; beside a model saved there they must be the same, else it is a `UserError`."""
        upload = upload_of(push_to_hub, kwargs)
        add_small_files(Path(save_directory), self.files)
        upload(Path(save_directory), self.files)

    @property
    def tokenizer(self) -> Any:
        """Ids of the end of text, `encode` and `decode`."""
        return ProcessorTokenizer(self.model.llm.tokenizer)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "image_mask", "pixel_values"]

    def data_collator(
        self,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        loss_on: Literal["answers", "all"] = "answers",
    ) -> VLMDataCollator:
        """What Trainer and SFTTrainer take as `data_collator`."""
        return VLMDataCollator(self, max_length, pad_to_multiple_of, loss_on)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: None = None,
        audio: None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Questions, each about the images given with it: one image each, a list of images each, or none."""
        only("the processor", {"videos": videos, "audio": audio}, {}, ("images", "text"))
        layout = _layout(kwargs)
        texts = [text] if isinstance(text, str) else list(text or [])
        if not texts or not all(isinstance(question, str) for question in texts):
            raise UserError(f"text {text!r:.80}: expected a question, or a list with one for each row")
        given = [[]] * len(texts) if images is None else _rows(images, len(texts))
        if len(given) != len(texts):
            raise UserError(f"{len(texts)} texts but images for {len(given)}; give each text its own list")
        talks = [
            talk_of([{"role": "user", "content": [*({"type": "image", "image": i} for i in row), _text(question)]}])
            for question, row in zip(texts, given, strict=True)
        ]  # fmt: skip
        batch = self._batch(talks, layout)
        del batch["loss_mask"]
        return batch

    def apply_chat_template(
        self, conversation: Any, chat_template: Any = None, tools: Any = None, documents: Any = None,
        add_generation_prompt: bool = False, continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False, tokenize: bool = False, return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Conversations in transformers' form -> what `generate` takes; `UserError` for what can't be written.

        `return_assistant_tokens_mask` adds `assistant_masks`: 1 on what training learns.
        """
        only("apply_chat_template", {"tools": tools, "documents": documents}, {}, ("conversation",))
        if not (tokenize and return_dict):
            raise UserError(
                "this template writes ids, as text typed by a user must stay text: tokenize=True, return_dict=True"
            )
        if chat_template is not None or continue_final_message:
            raise UserError("this model has its own template, and an answer can't be begun for it")
        layout = _layout(kwargs)
        one = isinstance(conversation, list | tuple) and all(isinstance(t, dict) for t in conversation[:1])
        talks = [talk_of(turns) for turns in ([conversation] if one else conversation or [None])]
        for asks in {talk.messages[-1].role == "user" for talk in talks} - {bool(add_generation_prompt)}:
            place = "a user's turn" if asks else "an answer"
            raise UserError(
                f"a conversation ends with {place}: set add_generation_prompt={asks}, as the template writes it"
            )
        batch = self._batch(talks, layout)
        targets = batch.pop("loss_mask")
        if return_assistant_tokens_mask:
            batch["assistant_masks"] = targets.long()
        return batch

    def render(
        self, talk: Talk, loss_on: Literal["answers", "all"] = "answers"
    ) -> tuple[TokenizedConversation, list[Tensor]]:
        """A conversation as tokens with their flags, and its images as pixels."""
        shown = [self.model.encoder.transform(image) for image in talk.images]
        counts = [self.model.image_tokens(image) for image in shown]
        own, system = self.model.llm.tokenizer, talk.system
        return render(self.template, talk.messages, own, counts, system=system, loss_on=loss_on), shown

    def tensors(
        self,
        samples: Sequence[TokenizedConversation],
        pixels: Sequence[Tensor],
        side: Literal["left", "right"] = "left",
        multiple: int | None = None,
        width: int = 0,
    ) -> BatchFeature:
        """Samples padded on one side to the longest, or to `width`, and to a multiple; `loss_mask` among them."""
        batch = collate(samples, pixels, side=side)
        length = max(width, batch.input_ids.shape[1])
        more = -(-length // (multiple or 1)) * (multiple or 1) - batch.input_ids.shape[1]

        def padded(tensor: Tensor, fill: int = 0) -> Tensor:
            return F.pad(tensor, (more, 0) if side == "left" else (0, more), value=fill)

        mask = batch.input_ids.new_ones(batch.input_ids.shape)
        if batch.segments is not None:
            mask = (batch.segments != PADDING).long()
        found = {
            "input_ids": padded(batch.input_ids),
            "attention_mask": padded(mask),
            "loss_mask": padded(batch.loss_mask),
        }
        if batch.pixel_values is not None:
            found |= {"image_mask": padded(batch.image_mask), "pixel_values": batch.pixel_values}
        return BatchFeature(found)

    def _batch(self, talks: Sequence[Talk], layout: Layout) -> BatchFeature:
        self._check_special_tokens(layout)
        written = [self.render(talk) for talk in talks]
        samples, pixels = [sample for sample, _ in written], [p for _, shown in written for p in shown]
        refuse_empty(samples)
        if CUTS[layout.truncation]:
            samples = [_cut(sample, layout.max_length) for sample in samples]
        lengths = {len(sample) for sample in samples}
        padding = PADDINGS[layout.padding]
        if padding == "no" and len(lengths) > 1:
            raise UserError(
                f"padding={layout.padding!r}: rows of {min(lengths)} to {max(lengths)} positions don't form one "
                "tensor; set padding=True"
            )
        width = (layout.max_length or 0) if padding == "max_length" else 0
        multiple = None if padding == "no" else layout.pad_to_multiple_of
        return self.tensors(samples, pixels, layout.padding_side, multiple, width)

    def _check_special_tokens(self, layout: Layout) -> None:
        """The template writes BOS by itself, where the tokenizer has one."""
        if layout.add_special_tokens is False and self.model.llm.tokenizer.bos_id is not None:
            raise UserError("add_special_tokens=False: this model's template begins with the token BOS")

    def decode(self, token_ids: Any, **kwargs: Any) -> Any:
        """Text of one row of ids, control ids left out; of several rows, a list."""
        only("decode", kwargs, DECODING, DECODING)
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if isinstance(ids, list | tuple) and ids and isinstance(ids[0], list | tuple):
            return self.batch_decode(ids)
        ids = [ids] if isinstance(ids, int) else [int(i) for i in ids]
        if any(i < 0 for i in ids):
            raise UserError(f"id {min(ids)} is no token; replace -100 before decoding labels")
        return self.model.llm.tokenizer.decode(ids)

    def batch_decode(self, sequences: Any, **kwargs: Any) -> list[str]:
        """As `decode`, row by row."""
        return [self.decode(row, **kwargs) for row in sequences]

    def post_process_image_text_to_text(self, generated_outputs: Any, **kwargs: Any) -> list[str]:
        """As `batch_decode`."""
        return self.batch_decode(generated_outputs, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        return {"processor_class": type(self).__name__, "template": vars(self.template)}


def _cut(sample: TokenizedConversation, length: int | None) -> TokenizedConversation:
    assert length is not None
    try:
        return sample.truncated(length)
    except TooLong as error:
        raise UserError(str(error)) from None


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _rows(images: Any, texts: int) -> list[list[Any]]:
    """One image, an image for each text, all images for one text, or a list for each text."""
    if not isinstance(images, list | tuple):
        return [[images]]
    if any(isinstance(row, list | tuple) for row in images):
        return [
            list(row) if isinstance(row, list | tuple) else [] if row is None else [row] for row in images
        ]
    return [list(images)] if texts == 1 else [[] if image is None else [image] for image in images]


def _flat(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments with those that transformers groups by modality, or for the template, among them."""
    found = {name: value for name, value in kwargs.items() if name not in NESTED}
    for group in [name for name in NESTED if kwargs.get(name)]:
        inner = kwargs[group]
        for name, value in (_flat(inner) if group == "processor_kwargs" else inner).items():
            if found.get(name) is not None and value is not None and not equal(found[name], value):
                raise UserError(f"{name} is given twice: {found[name]!r}, and {value!r} in {group}")
            found[name] = value
    return found


def _layout(kwargs: dict[str, Any]) -> Layout:
    """What the arguments say of padding and truncation; `UserError` for what this processor can't do."""
    given = {name: value for name, value in _flat(kwargs).items() if value is not None}
    layout = Layout(**{name: given.pop(name) for name in Layout._fields if name in given})
    if (kind := given.pop("return_tensors", "pt")) != "pt":
        raise UserError(f"return_tensors {kind!r}: expected 'pt'")
    only("the processor", given, PROCESSING, ("images", "text", *Layout._fields))
    for name, allowed in (("padding", PADDINGS), ("truncation", CUTS), ("padding_side", ("left", "right"))):
        if getattr(layout, name) not in allowed:
            raise UserError(
                f"{name} {getattr(layout, name)!r}: expected one of {', '.join(map(repr, allowed))}"
            )
    for name in ("max_length", "pad_to_multiple_of"):
        number = getattr(layout, name)
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise UserError(f"{name} {number!r}: expected a number of positions, 1 or more")
    used = CUTS[layout.truncation] or PADDINGS[layout.padding] == "max_length"
    if used != (layout.max_length is not None):
        raise UserError("max_length goes with truncation=True or padding='max_length'")
    return layout
