"""One part of another dataset, training or held-out rows, as a dataset of a spec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny

from vlm_core.plugins.config import DatasetConfig
from vlm_core.spec.validate import component


class SplitConfig(DatasetConfig):
    """The training or the held-out part of another dataset; no image is in both."""

    type: Literal["split"] = "split"
    dataset: Annotated[SerializeAsAny[DatasetConfig], component("dataset")] = Field(
        description="the dataset to split"
    )
    part: Literal["train", "held-out"] = Field(description="the part that this dataset is")
    held_out: float = Field(
        default=0.1, gt=0, lt=1, description="share of images to hold out, give the same in both parts"
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="selects the held-out images, give the same in both parts"
    )

    def label(self) -> str:
        return f"{self.dataset.label()} ({self.part})"

    def rows(self) -> Sequence[dict[str, Any]]:
        from vlm_train.data.split_rows.sides import held_out_rows
        from vlm_train.data.split_rows.subset import Subset

        rows = self.dataset.rows()
        is_held_out = held_out_rows(rows, self.held_out, self.seed, self.dataset.label())
        return Subset(rows, is_held_out if self.part == "held-out" else ~is_held_out)
