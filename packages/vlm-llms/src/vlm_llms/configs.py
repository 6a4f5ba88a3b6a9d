"""Configs of the language models; only pydantic and vlm_core are imported: checking a spec needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, SerializeAsAny, Tag, model_validator

from vlm_core.config import DatasetConfig, LLMConfig, StrictModel
from vlm_core.errors import UserError
from vlm_core.validate import component

if TYPE_CHECKING:
    from vlm_llms.hf_adapter import TransformersLM
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


def load_tokenizer(
    choice: str | TrainTokenizer, assets: Path | None = None, *, revision: str | None = None
) -> FastTokenizer:
    """The tokenizer saved in `assets` if given, else what `choice` names (at `revision`) or describes."""
    from vlm_llms.tokenizer import FastTokenizer, train_bpe

    if assets is not None:
        return FastTokenizer.load(assets)
    if isinstance(choice, TrainTokenizer):
        return train_bpe(choice.texts(), choice.vocab_size)
    return FastTokenizer.load(choice, revision)


class TransformersLLMConfig(LLMConfig):
    """Any causal language model of transformers that takes embeddings, with its own cache."""

    type: Literal["transformers"] = "transformers"
    model: str = Field(min_length=1, description="hub id, or a folder that save_pretrained() wrote")
    tokenizer: str | None = Field(default=None, min_length=1, description="where from, if not from `model`")
    dtype: Literal["float32", "bfloat16"] = "float32"
    revision: str | None = Field(default=None, min_length=1, description="commit, branch or tag on the hub")
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _pinned(self) -> TransformersLLMConfig:
        """Code that is run unseen must at least be the code that somebody has looked at."""
        if self.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                f"trust_remote_code runs code from the hub, so revision must pin it: got {self.revision!r}, "
                "expected the 40 hex digits of the commit that you have read"
            )
        return self

    def label(self) -> str:
        return f"transformers {self.model}"

    def build(self, *, weights: bool = True, assets: Path | None = None) -> TransformersLM:
        """As `LLMConfig.build`. Without weights and assets only the model's config.json is read."""
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise UserError(
                "llm transformers needs a library: pip install 'vlm-llms[transformers]'"
            ) from error
        from vlm_llms.hf_build import build

        name = self.tokenizer or self.model
        return build(
            self.model,
            load_tokenizer=lambda: load_tokenizer(name, assets, revision=self.revision),
            dtype=self.dtype,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            weights=weights,
            assets=assets,
        )
