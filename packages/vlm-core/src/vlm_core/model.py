"""The vision-language model: encoder, connector and language model."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vlm_core.interfaces import Connector, Encoder, LanguageModel, State
from vlm_core.io.video.sources import DEFAULT_SAMPLING, Sampling
from vlm_core.numerics.cuda_graphs import CudaGraphs
from vlm_core.numerics.low_precision_matmul import upcast_matmul
from vlm_core.views.image_processor import ImageProcessor, image_processor
from vlm_core.views.image_views import ImageInput, ImageViews, add_image_newline, image_newline
from vlm_core.views.rule import ViewRule
from vlm_core.views.video_views import VideoProcessor
from vlm_core.views.view_counts import ViewCounts, view_counts

PARTS = ("encoder", "connector", "llm")


def splice(x: Tensor, image_mask: Tensor, image_embeds: Tensor) -> Tensor:
    """x (B, T, M) with `image_embeds` (N, L, M) in order at the positions of `image_mask` (B, T); the rest is unused.

    As `masked_scatter`, whose backward pass makes the host wait for a GPU; here every shape follows from the inputs'.
    """
    rows, values = x.flatten(0, 1), image_embeds.flatten(0, 1).to(x.dtype)
    rank = image_mask.flatten().cumsum(0)  # of each image position among all, from 1
    torch.ops.aten._assert_async.msg(
        (rank[-1:] <= len(values)).all(), "image_mask has more positions than there are embeddings"
    )
    # the position of each embedding; that of an unused one is a row past the end
    index = torch.searchsorted(rank, torch.arange(1, len(values) + 1, device=x.device))
    return torch.cat([rows, rows[:1]]).index_copy_(0, index, values)[:-1].unflatten(0, x.shape[:2])


def splice_part(x: Tensor, image_mask: Tensor, image_embeds: Tensor, part: slice) -> Tensor:
    """The positions `part` of what `splice` returns. x (B, part, M) has only these, `image_mask` (B, T) all."""
    values = image_embeds.flatten(0, 1).to(x.dtype)
    rank = image_mask.flatten().cumsum(0).view_as(image_mask) - 1  # of each image position among all
    torch.ops.aten._assert_async.msg(
        rank[-1, -1:] < len(values), "image_mask has more positions than there are embeddings"
    )
    here = rank[:, part].clamp(min=0)
    return torch.where(image_mask[:, part].unsqueeze(-1), values[here], x)


class ContentDigests(NamedTuple):
    """Digests of a model's parts by content, which hold while the addresses and versions of its tensors are these."""

    tensors: list[tuple[int, int]]
    digests: dict[str, str]


class VLM(nn.Module):
    """encoder → connector → image embeddings inserted into text embeddings → language model (paper, section 3.1)."""

    def __init__(
        self,
        encoder: Encoder,
        connector: Connector,
        llm: LanguageModel,
        views: ViewRule | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        """`views` are the tiles of images, `sampling` that of videos; None where the spec says nothing of them."""
        super().__init__()
        self.encoder, self.connector, self.llm, self.views = encoder, connector, llm, views
        self.sampling, self.samples_videos = sampling or DEFAULT_SAMPLING, sampling is not None
        if views is not None and views.newline:
            add_image_newline(connector, llm.dim)
        self._image_graphs = CudaGraphs()
        self.content_digests: ContentDigests | None = None  # see `model_folder.model_digest`

    @cached_property
    def image_processor(self) -> ImageProcessor:
        """Makes the input of one image: the encoder's transform, or tiles by the rule `views`."""
        return image_processor(self.encoder, self.connector, self.views)

    @cached_property
    def video_processor(self) -> VideoProcessor:
        """Makes the input of one video; `sampling` is for videos without their own."""
        return VideoProcessor(self.encoder.transform, self.image_tokens_by_default, self.sampling)

    @cached_property
    def view_counts(self) -> ViewCounts | None:
        """Views and positions that images may have; None if every image has one view."""
        return None if self.views is None else view_counts(self.image_processor)

    def image_tokens(self, image: ImageInput) -> int:
        """Number of positions of one image in the sequence: its views, or its pixels (3, height, width)."""
        if isinstance(image, ImageViews):
            return image.positions(self.image_tokens(image.values[0]))
        return self.connector.num_tokens(*self.encoder.grid(*image.shape[-2:]))

    def feature_tokens(self, image: ImageInput) -> int:
        """As `image_tokens`, of an image with features (H, W, D)."""
        if isinstance(image, ImageViews):
            return image.positions(self.feature_tokens(image.values[0]))
        return self.connector.num_tokens(*image.shape[:2])

    @property
    def image_tokens_by_default(self) -> int:
        """Number of positions of a view, an image of the encoder's `image_size`."""
        return self.connector.num_tokens(*self.encoder.grid(*self.encoder.image_size))

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Pixels (N, 3, height, width) -> features (N, H, W, D); no gradient is recorded if the encoder is frozen.

        The dtype is that of the encoder's parameters, or of the pixels if it has none.
        """
        trained = any(p.requires_grad for p in self.encoder.parameters())
        with (
            upcast_matmul(next(self.encoder.parameters(), pixel_values)),
            torch.set_grad_enabled(trained and torch.is_grad_enabled()),
        ):
            return self.encoder(pixel_values)

    def project(self, features: Tensor) -> Tensor:
        """Features (N, H, W, D) -> image embeddings (N, L, M)."""
        like = next(self.connector.parameters(), features)
        if like.is_floating_point() and like.itemsize < features.itemsize:
            features = features.to(like.dtype)  # an encoder without parameters returns fp32
        with upcast_matmul(like):
            return self.connector(features)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Pixels (N, 3, height, width) -> image embeddings (N, L, M); a CUDA graph where that equals the modules."""
        (embeds,) = self._image_graphs.call(self._image_embeds, [self.encoder, self.connector], pixel_values)
        return embeds

    def arrange(self, image_embeds: Tensor, image_order: Tensor | None = None) -> Tensor:
        """Embeddings (N, L, M) of all views -> those of the image positions, (1, P, M) for an order (P,).

        A connector's newline is the row after the last one, also where no order uses it: it has a gradient in every
        step, as wrappers for several processes expect.
        """
        newline = image_newline(self.connector)
        if newline is not None:
            rows = [image_embeds.flatten(0, 1), newline.to(image_embeds.dtype)[None]]
            image_embeds = torch.cat(rows)[None]
        if image_order is None:
            return image_embeds
        return image_embeds.flatten(0, 1)[image_order.to(image_embeds.device)][None]

    def _image_embeds(self, pixel_values: Tensor) -> tuple[Tensor]:
        return (self.project(self.encode(pixel_values)),)

    def embed(
        self, input_ids: Tensor, image_mask: Tensor | None = None, image_embeds: Tensor | None = None
    ) -> Tensor:
        """Ids (B, T) -> embeddings (B, T, M), with `image_embeds` of `arrange` where `image_mask` (B, T) is true.

        Raises `RuntimeError` for a mask with more positions than embeddings; a GPU stops with an assertion.
        """
        x = self.llm.embed(input_ids)
        if image_embeds is None or image_mask is None:
            return x
        return splice(x, image_mask, image_embeds)

    def forward_embeds(
        self, x: Tensor, segments: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State | None]:
        """Embeddings (B, T, M) -> (hidden states (B, T, M), state), as `LanguageModel.forward`."""
        with upcast_matmul(x):
            return self.llm(x, segments=segments, state=state)

    def prefill(
        self, x: Tensor, segments: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State | None]:
        """Embeddings (B, T, M) -> (logits (B, V) of the last position, state), as `LanguageModel.prefill`."""
        with upcast_matmul(x):
            return self.llm.prefill(x, segments=segments, state=state)

    def next_state(self, x: Tensor, state: State | None = None) -> State | None:
        """The state after embeddings (B, T, M), as `LanguageModel.next_state`."""
        with upcast_matmul(x):
            return self.llm.next_state(x, state=state)

    def forward(
        self,
        input_ids: Tensor,
        image_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        segments: Tensor | None = None,
        features: Tensor | None = None,
        image_order: Tensor | None = None,
    ) -> tuple[Tensor, State | None]:
        """Ids (B, T) and images, as in a `Batch`, -> (hidden states (B, T, M), state); `llm.logits` gives logits."""
        if pixel_values is not None:
            features = self.encode(pixel_values)
        image_embeds = None if features is None else self.arrange(self.project(features), image_order)
        return self.forward_embeds(self.embed(input_ids, image_mask, image_embeds), segments)
