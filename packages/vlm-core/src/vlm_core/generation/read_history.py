"""What a session has read, as pieces and as one key of the whole content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from torch import Tensor

from vlm_core.io import digests
from vlm_core.states.manifest import ReadPiece
from vlm_core.text.render import TokenizedConversation
from vlm_core.views.image_views import ImageInput, ImageViews


@dataclass(frozen=True)
class ReadHistory:
    """The pieces that one sequence was read in, and a key of their contents in order.

    Equal keys mean equal ids, equal images after the transform, and equal pieces: a sequence in other pieces has the
    same state only up to rounding. A generated answer is a piece of its own kind for the same reason.
    """

    key: str = ""
    positions: int = 0
    pieces: tuple[ReadPiece, ...] = ()

    def then(self, piece: TokenizedConversation, image: ImageInput | None) -> ReadHistory:
        """After a piece of a prompt with at most one image."""
        image_digest = None if image is None else of_image_input(image)
        history = self
        for is_image, start, count in _runs(piece.image_mask):
            content = image_digest if is_image else None
            content = content or digests.of(piece.input_ids[start : start + count])
            history = history._with("image" if is_image else "text", count, content)
        mask = [int(is_image) for is_image in piece.image_mask]
        key = digests.of(self.key, "prompt", piece.input_ids, mask, image_digest)
        return replace(history, key=key)

    def decoded(self, ids: Sequence[int]) -> ReadHistory:
        """After generated ids that the model has processed one by one."""
        if not ids:
            return self
        content = digests.of(list(ids))
        return replace(self._with("answer", len(ids), content), key=digests.of(self.key, "answer", content))

    def _with(self, kind: Literal["text", "image", "answer"], tokens: int, sha256: str) -> ReadHistory:
        piece = ReadPiece(kind=kind, start=self.positions, tokens=tokens, sha256=sha256)
        return replace(self, positions=self.positions + tokens, pieces=(*self.pieces, piece))


def of_image_input(image: ImageInput) -> str:
    """Digest of an image as the model takes it: the pixels after the transform, and the order of its views."""
    if isinstance(image, Tensor):
        return digests.of_tensor(image)
    assert isinstance(image, ImageViews)
    order = None if image.order is None else digests.of_tensor(image.order)
    encoded = image.features is not None
    return digests.of(digests.of_tensor(image.values), order, image.view_tokens, encoded)


def _runs(image_mask: Sequence[bool]) -> list[tuple[bool, int, int]]:
    """(value, start, length) of the runs of equal values."""
    runs, start = [], 0
    for value, run in groupby(image_mask):
        count = len(list(run))
        runs.append((value, start, count))
        start += count
    return runs
