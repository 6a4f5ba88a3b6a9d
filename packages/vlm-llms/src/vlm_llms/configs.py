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
    """Train a byte-level BPE tokenizer on a dataset's texts, for small models trained from scratch."""

    dataset: Annotated[SerializeAsAny[DatasetConfig], component("dataset")] = Field(
        description="dataset whose texts the tokenizer is trained on"
    )
    vocab_size: int = Field(ge=257, le=2**20, description="256 bytes, the end of text, and the merges")

    def texts(self) -> Iterator[str]:
        """The texts of the dataset's conversations, without image placeholders."""
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
"""A tokenizer.json, a folder that holds one, a hub id, or the mapping of `TrainTokenizer`."""


def load_tokenizer(
    choice: str | TrainTokenizer, assets: Path | None = None, *, revision: str | None = None
) -> FastTokenizer:
    """The tokenizer saved in `assets` if given, else the one that `choice` names (at `revision`) or trains."""
    from vlm_llms.tokenizer.tokenizer import FastTokenizer, train_bpe

    if assets is not None:
        return FastTokenizer.load(assets)
    if isinstance(choice, TrainTokenizer):
        return train_bpe(choice.texts(), choice.vocab_size)
    return FastTokenizer.load(choice, revision)


def tokenizer_download(choice: str | TrainTokenizer) -> list[Download]:
    """The download of a hub id; none for files, folders and trained tokenizers."""
    if isinstance(choice, TrainTokenizer) or Path(choice).exists():
        return []
    return [Download(choice, "tokenizer, a few MB")]


def is_local(choice: str | TrainTokenizer, assets: Path | None = None) -> bool:
    """Whether `choice` is a local file or folder, which can be checked against the model at once."""
    if assets is not None or not isinstance(choice, str):
        return False
    return Path(choice).is_file() or Path(choice, "tokenizer.json").is_file()


class TransformersLLMConfig(FromHub, LLMConfig):
    """Any causal language model of transformers that accepts `inputs_embeds`, with its cache."""

    type: Literal["transformers"] = "transformers"
    model: LocalPath = Field(min_length=1, description="hub id, or a folder that save_pretrained() wrote")
    tokenizer: LocalPath | None = Field(
        default=None, min_length=1, description="hub id, folder or tokenizer.json; default: that of `model`"
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
        """As `LLMConfig.build`. Without weights and assets only the config and a local tokenizer are read."""
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise UserError(
                "llm transformers needs the library transformers: pip install 'vlm-llms[transformers]'"
            ) from error
        from vlm_llms.transformers.hf_build import build

        source, revision = (self.tokenizer, None) if self.tokenizer else (self.model, self.revision)
        lm = build(
            self.model,
            load_tokenizer=lambda: load_tokenizer(source, assets, revision=revision),
            dtype=self.dtype,
            revision=self.revision,
            trust_remote_code=self.runs_code(assets or self.model),
            config=self.config,
            weights=weights,
            assets=assets,
        )
        if is_local(source, assets):
            _ = lm.tokenizer
        return lm

    def downloads(self) -> list[Download]:
        """Weights and tokenizer; the size of the weights is known only with `config`."""
        tokenizer = tokenizer_download(self.tokenizer or self.model)
        if Path(self.model).exists():
            return tokenizer
        if self.config is None:
            return [Download(self.model, "weights"), *tokenizer]
        from vlm_llms.transformers.hf_architecture import stored_bytes

        return [Download(self.model, "weights", stored_bytes(self.config)), *tokenizer]

    @classmethod
    def engine(cls, device: str) -> str:
        return "transformers"
