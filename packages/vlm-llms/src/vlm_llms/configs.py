"""Configs of the language models; only pydantic and vlm_core are imported: checking a spec needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Field, SerializeAsAny, Tag

from vlm_core.config import DatasetConfig, StrictModel
from vlm_core.validate import component

if TYPE_CHECKING:
    from vlm_llms.tokenizer import FastTokenizer

_PLACEHOLDER = "<image>"


class TrainTokenizer(StrictModel):
    """Learn a byte-level BPE from the texts of a dataset; for small models trained from nothing."""

    dataset: Annotated[SerializeAsAny[DatasetConfig], component("dataset")]
    vocab_size: int = Field(ge=257, le=2**20, description="256 bytes, the end of text and what is learnt")

    def texts(self) -> Iterator[str]:
        """What is said in the dataset's conversations, without the marks where images go."""
        for row in self.dataset.rows():
            for turn in row["conversations"]:
                human = turn["from"] == "human"
                yield turn["value"].replace(_PLACEHOLDER, "") if human else turn["value"]


def _branch(value: Any) -> str:
    return "to-train" if isinstance(value, dict | TrainTokenizer) else "to-load"


# The tags are no identifiers, so error paths leave them out: the spec has no such keys.
TokenizerChoice = Annotated[
    Annotated[str, Field(min_length=1), Tag("to-load")] | Annotated[TrainTokenizer, Tag("to-train")],
    Discriminator(_branch),
]
"""A tokenizer.json, a folder that holds one or a hub id; or a mapping of what to learn one from."""


def load_tokenizer(choice: str | TrainTokenizer, assets: Path | None = None) -> FastTokenizer:
    """The tokenizer saved in `assets` if given, else the one that `choice` names or describes."""
    from vlm_llms.tokenizer import FastTokenizer, train_bpe

    if assets is not None:
        return FastTokenizer.load(assets)
    if isinstance(choice, TrainTokenizer):
        return train_bpe(choice.texts(), choice.vocab_size)
    return FastTokenizer.load(choice)
