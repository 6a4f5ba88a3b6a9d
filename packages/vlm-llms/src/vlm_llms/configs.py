"""Configs of the language models. Only pydantic and vlm_core are imported, so checking a spec needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, SerializeAsAny, Tag

from vlm_core.errors import UserError
from vlm_core.io.paths import LocalPath
from vlm_core.placeholders import IMAGE_PLACEHOLDER
from vlm_core.plugins.config import (
    DatasetConfig,
    Download,
    FactoryCall,
    LLMConfig,
    StrictModel,
    WeightsSource,
)
from vlm_core.plugins.hub import FromHub, source_of
from vlm_core.rows import readable
from vlm_core.spec.validate import component

if TYPE_CHECKING:
    from vlm_llms.tokenizer.tokenizer import FastTokenizer
    from vlm_llms.transformers.hf_adapter import TransformersLM


class TrainTokenizer(StrictModel):
    """Learn a byte-level BPE from the texts of a dataset; for small models trained from nothing."""

    dataset: Annotated[SerializeAsAny[DatasetConfig], component("dataset")] = Field(
        description="whose texts to learn from"
    )
    vocab_size: int = Field(ge=257, le=2**20, description="256 bytes, the end of text and what is learnt")

    def texts(self) -> Iterator[str]:
        """What is said in the dataset's conversations, without the marks where images go."""
        for row in readable(self.dataset.rows()):
            if row.get("system"):
                yield row["system"]
            for turn in row["conversations"]:
                human = turn["from"] == "human"
                yield turn["value"].replace(IMAGE_PLACEHOLDER, "") if human else turn["value"]


def _branch(value: Any) -> str:
    return "to-train" if isinstance(value, dict | TrainTokenizer) else "to-load"


# The tags are no identifiers, so error paths leave them out: the spec has no such keys.
TokenizerChoice = Annotated[
    Annotated[LocalPath, Field(min_length=1), Tag("to-load")] | Annotated[TrainTokenizer, Tag("to-train")],
    Discriminator(_branch),
]
"""A tokenizer.json, a folder that holds one or a hub id; or a mapping of what to learn one from."""


def load_tokenizer(
    choice: str | TrainTokenizer, assets: Path | None = None, *, revision: str | None = None
) -> FastTokenizer:
    """The tokenizer saved in `assets` if given, else what `choice` names (at `revision`) or describes."""
    from vlm_llms.tokenizer.tokenizer import FastTokenizer, train_bpe

    if assets is not None:
        return FastTokenizer.load(assets)
    if isinstance(choice, TrainTokenizer):
        return train_bpe(choice.texts(), choice.vocab_size)
    return FastTokenizer.load(choice, revision)


def tokenizer_download(choice: str | TrainTokenizer) -> list[Download]:
    """A hub id is fetched; a file, a folder and what is learnt here is not."""
    if isinstance(choice, TrainTokenizer) or Path(choice).exists():
        return []
    return [Download(choice, "tokenizer, a few MB")]


def at_hand(choice: str | TrainTokenizer, assets: Path | None = None) -> bool:
    """Whether `choice` names files here: then it costs nothing to see at once whether they fit the model."""
    if assets is not None or not isinstance(choice, str):
        return False
    return Path(choice).is_file() or Path(choice, "tokenizer.json").is_file()


class TransformersLLMConfig(FromHub, LLMConfig):
    """Any causal language model of transformers that takes embeddings, with its own cache."""

    type: Literal["transformers"] = "transformers"
    model: LocalPath = Field(min_length=1, description="hub id, or a folder that save_pretrained() wrote")
    tokenizer: LocalPath | None = Field(
        default=None, min_length=1, description="where from, if not from `model`"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="number format of the weights"
    )
    config: dict[str, JsonValue] | None = Field(
        default=None,
        description="the architecture as in the model's config.json; --check then needs neither hub nor folder",
    )

    def label(self) -> str:
        return f"transformers {self.model}"

    def weights_source(self) -> WeightsSource:
        return source_of(self.model, self.revision)

    def factory_call(self) -> FactoryCall:
        self.refuse_code_export()
        return FactoryCall("vlm_llms.transformers.hf_build:from_folder", {"dtype": self.dtype})

    def build(self, *, weights: bool = True, assets: Path | None = None) -> TransformersLM:
        """As `LLMConfig.build`; without weights and assets config.json, or `config`, and a local tokenizer alone."""
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise UserError(
                "llm transformers needs a library: pip install 'vlm-llms[transformers]'"
            ) from error
        from vlm_llms.transformers.hf_build import build

        source, at = (self.tokenizer, None) if self.tokenizer else (self.model, self.revision)
        lm = build(
            self.model,
            load_tokenizer=lambda: load_tokenizer(source, assets, revision=at),
            dtype=self.dtype,
            revision=self.revision,
            trust_remote_code=self.runs_code(assets or self.model),
            config=self.config,
            weights=weights,
            assets=assets,
        )
        if at_hand(source, assets):
            _ = lm.tokenizer
        return lm

    def downloads(self) -> list[Download]:
        """The size follows from `config` and its `dtype`; without them it is not known beforehand."""
        found = tokenizer_download(self.tokenizer or self.model)
        if Path(self.model).exists():
            return found
        if self.config is None:
            return [Download(self.model, "weights"), *found]
        from vlm_llms.transformers.hf_architecture import stored_bytes

        return [Download(self.model, "weights", stored_bytes(self.config)), *found]

    @classmethod
    def engine(cls, device: str) -> str:
        return "transformers"
