"""Conversations and pictures as the model reads them: the same template, tokenizer and transform as everywhere else."""

# transformers' own signatures list what other models need; ours take what they use
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image, ImageOps
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import load_image as fetch_image

from vlm_core.batch import collate
from vlm_core.chat import IMAGE, Message, Part, write
from vlm_core.errors import UserError
from vlm_core.folder import MANIFEST
from vlm_core.generate import refuse_empty
from vlm_core.hf import parts
from vlm_core.hf.location import local_folder
from vlm_core.images import load_image
from vlm_core.interfaces import PADDING
from vlm_core.model import VLM
from vlm_core.weights import WEIGHTS, empty_parameters

_REMOTE = ("http://", "https://", "data:")
Parts = tuple[list[Part], list[Image.Image]]


class VLMProcessor(ProcessorMixin):
    """Made by `from_pretrained(folder)`. Text is literal: it enters the chat template as ids."""

    def __init__(self, model: VLM, template: Any, folder: Path) -> None:
        self.model, self.template, self.folder = model, template, folder
        self.chat_template = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        folder = local_folder(pretrained_model_name_or_path, kwargs)
        config = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
        with empty_parameters():
            model = parts.build(folder)
        return cls(
            model, SimpleNamespace(**{"image": "{image}", "system_text": None, **config["template"]}), folder
        )

    def save_pretrained(self, save_directory: Any, **_: Any) -> None:
        """Copy the small files; those of a model saved there before stay."""
        left = shutil.ignore_patterns(WEIGHTS, MANIFEST)
        if not (Path(save_directory) / MANIFEST).exists():
            shutil.copytree(self.folder, save_directory, ignore=left, dirs_exist_ok=True)

    @property
    def tokenizer(self) -> Any:
        return self.model.llm.tokenizer

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "is_image", "pixel_values"]

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        **_: Any,
    ) -> BatchFeature:
        """Questions, each about the images given with it: one image each, a list of images each, or none."""
        texts = [text] if isinstance(text, str) else list(text or [])
        given = [[]] * len(texts) if images is None else _rows(images, len(texts))
        if len(given) != len(texts):
            raise UserError(f"{len(texts)} texts but images for {len(given)}; give each text its own list")
        return self._batch(
            [
                [
                    {
                        "role": "user",
                        "content": [*({"type": "image", "image": i} for i in row), _text(question)],
                    }
                ]
                for question, row in zip(texts, given, strict=True)
            ],
            return_tensors,
        )

    def apply_chat_template(
        self, conversation: Any, chat_template: Any = None, add_generation_prompt: bool = False,
        continue_final_message: bool = False, tokenize: bool = False, return_dict: bool = True,
        return_tensors: str = "pt", **_: Any,
    ) -> Any:  # fmt: skip
        """Conversations in transformers' form -> what `generate` takes; `UserError` for what can't be written."""
        if not (tokenize and return_dict):
            raise UserError(
                "this template writes ids, as text typed by a user must stay text: tokenize=True, return_dict=True"
            )
        if chat_template is not None or continue_final_message:
            raise UserError("this model has its own template, and an answer can't be begun for it")
        talks = [conversation] if isinstance(conversation[0], dict) else list(conversation)
        if not add_generation_prompt and any(talk[-1]["role"] == "user" for talk in talks):
            raise UserError(
                "after the user's turn stands the beginning of the answer: say add_generation_prompt=True"
            )
        return self._batch(talks, return_tensors)

    def _batch(self, talks: Sequence[Sequence[dict[str, Any]]], return_tensors: str) -> BatchFeature:
        if return_tensors != "pt":
            raise UserError(f"return_tensors {return_tensors!r}: expected 'pt'")
        samples, pixels = [], []
        for talk in talks:
            messages, images = _messages(talk)
            shown = [self.model.encoder.transform(image) for image in images]
            counts = [self.model.image_tokens(image) for image in shown]
            samples.append(write(self.template, messages, self.tokenizer, counts))
            pixels += shown
        refuse_empty(samples)
        batch = collate(samples, pixels, side="left")
        mask = batch.ids.new_ones(batch.ids.shape)
        if batch.segments is not None:
            mask = (batch.segments != PADDING).long()
        found: dict[str, Any] = {"input_ids": batch.ids, "attention_mask": mask}
        if batch.pixels is not None:
            found |= {"is_image": batch.is_image, "pixel_values": batch.pixels}
        return BatchFeature(found)

    def decode(self, token_ids: Any, **_: Any) -> str:
        """Text of one row of ids, control ids left out."""
        return self.tokenizer.decode([int(i) for i in token_ids])

    def batch_decode(self, sequences: Any, **_: Any) -> list[str]:
        return [self.decode(row) for row in sequences]

    def post_process_image_text_to_text(self, generated_outputs: Any, **_: Any) -> list[str]:
        return self.batch_decode(generated_outputs)

    def to_dict(self) -> dict[str, Any]:
        return {"processor_class": type(self).__name__, "template": vars(self.template)}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _rows(images: Any, texts: int) -> list[list[Any]]:
    """One image, an image for each text, all images for one text, or a list for each text."""
    if not isinstance(images, list | tuple):
        return [[images]]
    if any(isinstance(row, list | tuple) for row in images):
        return [list(row) for row in images]
    return [list(images)] if texts == 1 else [[image] for image in images]


def _messages(talk: Sequence[dict[str, Any]]) -> tuple[list[Message], list[Image.Image]]:
    """A conversation in transformers' form as ours; a picture is followed by a new line, as in training."""
    messages, images = [], []
    for turn in talk:
        role, content = turn["role"], turn["content"]
        if role not in ("user", "assistant"):
            raise UserError(
                f"role {role!r}: expected user or assistant; the template has its own system text"
            )
        found, shown = _parts([_text(content)] if isinstance(content, str) else content)
        messages.append(Message(role, tuple(found)))
        images += shown
    return messages, images


def _parts(content: Sequence[dict[str, Any]]) -> Parts:
    found: list[Part] = []
    images: list[Image.Image] = []
    for item in content:
        if item["type"] == "text":
            found.append(item["text"])
        elif item["type"] == "image":
            source = next(
                (item[key] for key in ("image", "url", "path", "base64") if item.get(key) is not None), None
            )
            images.append(_image(source))
            found += [IMAGE, "\n"]
        else:
            raise UserError(f"content of type {item['type']!r}: expected text or image")
    return found, images


def _image(source: Any) -> Image.Image:
    """A Pillow image, a file, a URL or base64 text."""
    if isinstance(source, Image.Image):
        return ImageOps.exif_transpose(source)
    if isinstance(source, str | Path) and not str(source).startswith(_REMOTE) and len(str(source)) < 4096:
        return load_image(source)
    if isinstance(source, str):
        return fetch_image(source)
    raise UserError(
        f"an image must be a Pillow image, a path, a URL or base64 text, not {type(source).__name__}"
    )
