"""The processor: images and conversations as model inputs, by the model's template, tokenizer and image transform."""

# transformers' signatures list arguments of other models; ours take what they use
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from vlm_core.errors import UserError
from vlm_core.generation.prompts import refuse_empty
from vlm_core.hf import components
from vlm_core.hf.arguments import (
    DECODING,
    PADDINGS,
    PROCESSOR,
    TRUNCATIONS,
    PaddingOptions,
    check_loading,
    local_folder,
    padding_options,
    refuse_unknown,
)
from vlm_core.hf.collator import VLMDataCollator
from vlm_core.hf.conversations import ParsedConversation, parse_messages
from vlm_core.hf.saving import add_small_files, small_files, upload_of, verify_small_files
from vlm_core.hf.tokenizer import ProcessorTokenizer
from vlm_core.interfaces import PADDING
from vlm_core.io.files import read_json
from vlm_core.io.video.sources import VideoSource
from vlm_core.model import PARTS, VLM
from vlm_core.model_folder.load import empty_model
from vlm_core.text.batch import collate
from vlm_core.text.render import TokenizedConversation, TooLong, render
from vlm_core.views.given_videos import Medium, VideoFrames, video_lists
from vlm_core.views.image_views import ImageInput, ImageViews


class VLMProcessor(ProcessorMixin):
    """Made by `from_pretrained(folder)`. User text is literal: it is tokenised without control tokens."""

    def __init__(self, model: VLM, template: Any, files: dict[str, bytes]) -> None:
        self.model, self.template, self.files = model, template, files
        self.chat_template = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """The processor of a model folder or hub repository; `UserError` for arguments that would change it."""
        check_loading(kwargs, PROCESSOR)
        folder = local_folder(pretrained_model_name_or_path, kwargs)
        verify_small_files(folder)
        file = folder / "processor_config.json"
        config = read_json(file)
        trust = bool(kwargs.get("trust_remote_code"))
        model = empty_model(lambda: components.build(folder, trust_remote_code=trust), folder, PARTS)
        template = {"image": "{image}", "system_text": None, **config["template"]}
        return cls(model, SimpleNamespace(**template), small_files(folder))

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the small files; beside a model saved there they must be the same, else it is a `UserError`."""
        upload = upload_of(push_to_hub, kwargs)
        add_small_files(Path(save_directory), self.files)
        upload(Path(save_directory), self.files)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer: EOS and BOS ids, `encode` and `decode`."""
        return ProcessorTokenizer(self.model.llm.tokenizer)

    @property
    def model_input_names(self) -> list[str]:
        names = ["input_ids", "attention_mask", "image_mask", "pixel_values"]
        return names if self.model.views is None else [*names, "image_order"]

    def data_collator(
        self,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        loss_on: Literal["answers", "all"] = "answers",
    ) -> VLMDataCollator:
        """A `data_collator` for Trainer and SFTTrainer."""
        return VLMDataCollator(self, max_length, pad_to_multiple_of, loss_on)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Questions with their images (one image each, a list of images each, or none) -> inputs of `generate`.

        `videos` alike: paths, which are sampled as the model's spec says, or lists or arrays of frames. Raises
        `UserError` for an argument or an input that is not supported.
        """
        refuse_unknown("the processor", {"audio": audio}, {}, ("images", "text"))
        options = padding_options(kwargs)
        texts = [text] if isinstance(text, str) else list(text or [])
        if not texts or not all(isinstance(question, str) for question in texts):
            raise UserError(f"text {text!r:.80}: expected a question, or a list with one for each row")
        lists = [
            [[]] * len(texts) if values is None else listed(values, len(texts))
            for values, listed in ((images, _image_lists), (videos, video_lists))
        ]
        for kind, given in zip(("images", "videos"), lists, strict=True):
            if len(given) != len(texts):
                raise UserError(
                    f"{len(texts)} texts but {kind} for {len(given)}; give each text its own list"
                )
        conversations = [_question(*media) for media in zip(texts, *lists, strict=True)]
        batch = self._batch(conversations, options)
        del batch["loss_mask"]
        return batch

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: Any = None,
        tools: Any = None,
        documents: Any = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Conversations in transformers' format -> inputs of `generate`; `UserError` if the template can't render one.

        `return_assistant_tokens_mask` adds `assistant_masks` (B, T): 1 at the targets of training.
        """
        refuse_unknown("apply_chat_template", {"tools": tools, "documents": documents}, {}, ("conversation",))
        if not (tokenize and return_dict):
            raise UserError(
                "this template returns ids only, so that user text can't become a control token: "
                "set tokenize=True, return_dict=True"
            )
        if chat_template is not None or continue_final_message:
            raise UserError(
                "chat_template and continue_final_message are not supported: the template is the model's"
            )
        options = padding_options(kwargs)
        single = isinstance(conversation, list | tuple) and all(isinstance(t, dict) for t in conversation[:1])
        batch_of_turns = [conversation] if single else conversation or [None]
        conversations = [parse_messages(turns) for turns in batch_of_turns]
        user_last = {parsed.messages[-1].role == "user" for parsed in conversations}
        for asks in user_last - {bool(add_generation_prompt)}:
            place = "a user's turn" if asks else "an answer"
            raise UserError(
                f"a conversation ends with {place}: set add_generation_prompt={asks}, as the template writes it"
            )
        batch = self._batch(conversations, options)
        targets = batch.pop("loss_mask")
        if return_assistant_tokens_mask:
            batch["assistant_masks"] = targets.long()
        return batch

    def render(
        self, conversation: ParsedConversation, loss_on: Literal["answers", "all"] = "answers"
    ) -> tuple[TokenizedConversation, list[ImageInput]]:
        """-> (token ids with image mask and loss mask, the pixels (3, h, w) or views of each image and video)."""
        images = [self._input(medium) for medium in conversation.images]
        counts = [self.model.image_tokens(image) for image in images]
        tokenizer, system = self.model.llm.tokenizer, conversation.system
        sample = render(
            self.template, conversation.messages, tokenizer, counts, system=system, loss_on=loss_on
        )
        return sample, images

    def _input(self, medium: Medium) -> ImageInput:
        """An image or video as the model takes it; a file is sampled as the spec says. Raises `BadSample`."""
        if isinstance(medium, VideoSource):
            return self.model.video_processor(medium)
        if isinstance(medium, VideoFrames):
            return ImageViews(torch.stack([self.model.encoder.transform(frame) for frame in medium.frames]))
        return self.model.image_processor(medium)

    def tensors(
        self,
        samples: Sequence[TokenizedConversation],
        images: Sequence[ImageInput],
        side: Literal["left", "right"] = "left",
        multiple: int | None = None,
        width: int = 0,
    ) -> BatchFeature:
        """A batch padded on one `side` to the longest sample or `width`, rounded up to `multiple`; with `loss_mask`."""
        batch = collate(samples, images, side=side)
        length = max(width, batch.input_ids.shape[1])
        padding = -(-length // (multiple or 1)) * (multiple or 1) - batch.input_ids.shape[1]

        def padded(tensor: Tensor, fill: int = 0) -> Tensor:
            return F.pad(tensor, (padding, 0) if side == "left" else (0, padding), value=fill)

        mask = batch.input_ids.new_ones(batch.input_ids.shape)
        if batch.segments is not None:
            mask = (batch.segments != PADDING).long()
        tensors: dict[str, Tensor] = {
            "input_ids": padded(batch.input_ids),
            "attention_mask": padded(mask),
            "loss_mask": padded(batch.loss_mask),
        }
        if batch.pixel_values is not None:
            tensors |= {"image_mask": padded(batch.image_mask), "pixel_values": batch.pixel_values}
        if self.model.views is not None and batch.pixel_values is not None:
            order = (
                batch.image_order
                if batch.image_order is not None
                else torch.arange(int(batch.image_mask.sum()))
            )
            tensors["image_order"] = padded(batch.input_ids.masked_scatter(batch.image_mask, order))
        return BatchFeature(tensors)

    def _batch(self, conversations: Sequence[ParsedConversation], options: PaddingOptions) -> BatchFeature:
        self._check_special_tokens(options)
        written = [self.render(conversation) for conversation in conversations]
        samples, pixels = [sample for sample, _ in written], [p for _, shown in written for p in shown]
        refuse_empty(samples)
        if TRUNCATIONS[options.truncation]:
            samples = [_cut(sample, options.max_length) for sample in samples]
        lengths = {len(sample) for sample in samples}
        padding = PADDINGS[options.padding]
        if padding == "no" and len(lengths) > 1:
            raise UserError(
                f"padding={options.padding!r}: rows of {min(lengths)} to {max(lengths)} positions don't form one "
                "tensor; set padding=True"
            )
        width = (options.max_length or 0) if padding == "max_length" else 0
        multiple = None if padding == "no" else options.pad_to_multiple_of
        return self.tensors(samples, pixels, options.padding_side, multiple, width)

    def _check_special_tokens(self, options: PaddingOptions) -> None:
        """The template always writes BOS if the tokenizer has one."""
        if options.add_special_tokens is False and self.model.llm.tokenizer.bos_id is not None:
            raise UserError(
                "add_special_tokens=False is not supported: this model's template begins with BOS"
            )

    def decode(self, token_ids: Any, **kwargs: Any) -> Any:
        """Text of one sequence of ids without control tokens; for a batch, a list of texts."""
        refuse_unknown("decode", kwargs, DECODING, DECODING)
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if isinstance(ids, list | tuple) and ids and isinstance(ids[0], list | tuple):
            return self.batch_decode(ids)
        ids = [ids] if isinstance(ids, int) else [int(i) for i in ids]
        if any(i < 0 for i in ids):
            raise UserError(f"{min(ids)} is not a token id; replace -100 before decoding labels")
        return self.model.llm.tokenizer.decode(ids)

    def batch_decode(self, sequences: Any, **kwargs: Any) -> list[str]:
        """`decode` of each sequence."""
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


def _question(text: str, images: Sequence[Any], videos: Sequence[Any]) -> ParsedConversation:
    """One user turn: the images, the videos, then the text."""
    media = [
        *({"type": "image", "image": image} for image in images),
        *({"type": "video", "video": video} for video in videos),
    ]
    content = [*media, {"type": "text", "text": text}]
    return parse_messages([{"role": "user", "content": content}])


def _image_lists(images: Any, texts: int) -> list[list[Any]]:
    """The images of each text, from one image, an image per text, all images of one text, or a list per text."""
    if not isinstance(images, list | tuple):
        return [[images]]
    if any(isinstance(row, list | tuple) for row in images):
        return [
            list(row) if isinstance(row, list | tuple) else [] if row is None else [row] for row in images
        ]
    return [list(images)] if texts == 1 else [[] if image is None else [image] for image in images]
