"""Config of this package's Mamba-1: published weights, or a custom size."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt, model_validator

from vlm_core.errors import UserError
from vlm_core.io.paths import LocalPath
from vlm_core.plugins.config import Download, FactoryCall, LLMConfig, WeightsSource, random_values
from vlm_core.plugins.hub import source_of
from vlm_llms.configs import TokenizerChoice, TrainTokenizer, is_local, load_tokenizer, tokenizer_download
from vlm_llms.mamba.mamba_shape import FP32_FILES, PUBLISHED, MambaShape

if TYPE_CHECKING:
    from vlm_llms.mamba.mamba import MambaLM

NEOX, TOKENIZER = "EleutherAI/gpt-neox-20b", "tokenizer.json"


class MambaConfig(LLMConfig):
    """Mamba-1, from `weights` (a hub id or a folder, original or transformers format) or with a custom size."""

    type: Literal["mamba"] = "mamba"
    weights: LocalPath | None = Field(
        default=None, min_length=1, description="hub id or folder of a checkpoint"
    )
    tokenizer: TokenizerChoice | None = Field(
        default=None,
        description="a tokenizer.json, a folder that holds one, a hub id, or a dataset to train one on; default: that "
        "in the folder of weights, else EleutherAI/gpt-neox-20b",
    )
    d_model: PositiveInt | None = Field(
        default=None, le=2**16, description="width; with n_layer for a model without weights"
    )
    n_layer: PositiveInt | None = Field(default=None, le=1024, description="number of layers")
    vocab_size: PositiveInt | None = Field(
        default=None,
        le=2**22,
        description="rows of the embedding; default: the tokenizer's size, rounded up to a multiple of 8",
    )
    d_state: PositiveInt | None = Field(
        default=None, le=1024, description="state size of a layer; default 16"
    )
    d_conv: PositiveInt | None = Field(
        default=None, le=16, description="width of a layer's convolution; default 4"
    )
    expand: PositiveInt | None = Field(
        default=None, le=16, description="inner width of a layer, as a multiple; default 2"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="number format of the weights; A_log, D and the bias of Δ stay float32"
    )
    revision: str | None = Field(default=None, min_length=1, description="commit, branch or tag of `weights`")
    init_std: float = Field(default=0.02, gt=0, le=1, description="of new embeddings; transformers uses 0.1")

    @model_validator(mode="after")
    def _one_source(self) -> MambaConfig:
        sizes = ("d_model", "n_layer", "vocab_size", "d_state", "d_conv", "expand")
        sizes_set = [name for name in sizes if getattr(self, name) is not None]
        if self.weights and sizes_set:
            raise ValueError(f"weights determine the size; remove {', '.join(sizes_set)}, or remove weights")
        if self.revision and not self.weights:
            raise ValueError("revision applies to weights on the hub; set weights, or remove revision")
        if not self.weights and (self.d_model is None or self.n_layer is None):
            raise ValueError("set weights, or d_model and n_layer for a model without weights")
        return self

    def label(self) -> str:
        return f"mamba {self.weights or f'{self.n_layer} layers × {self.d_model}'}"

    def for_folder(self) -> MambaConfig:
        return self.model_copy(update={"tokenizer": "saved with this model"})

    def learns_tokenizer(self) -> bool:
        return isinstance(self.tokenizer, TrainTokenizer)

    def with_tokenizer(self, folder: Path) -> MambaConfig:
        return self.model_copy(update={"tokenizer": str(folder)})

    def weights_source(self) -> WeightsSource:
        if not self.weights:
            return random_values("weights: HUB-ID or FOLDER")
        return source_of(self.weights, self.revision)

    @property
    def tokenizer_source(self) -> str | TrainTokenizer:
        """The spec's tokenizer, else the one in the folder of weights, else that of the published models."""
        if self.tokenizer is not None:
            return self.tokenizer
        if self.weights and Path(self.weights, TOKENIZER).is_file():
            return self.weights
        return NEOX

    def factory_call(self) -> FactoryCall:
        return FactoryCall("vlm_llms.mamba.mamba:from_folder", {})

    def shape(self, tokens: Callable[[], int], assets: Path | None = None) -> MambaShape:
        """The shape from the saved folder, `PUBLISHED`, the checkpoint's config.json, or the fields.

        `tokens` returns the tokenizer's size; it is called only if the vocabulary depends on it.
        """
        if assets is not None:
            return self._saved_shape(assets)
        if self.weights in PUBLISHED and not Path(self.weights).exists():
            return PUBLISHED[self.weights]
        if self.weights:
            from vlm_llms.mamba.mamba_checkpoint import read_shape

            return read_shape(self.weights, self.revision)
        sizes = self.model_dump(
            include={"d_model", "n_layer", "d_state", "d_conv", "expand"}, exclude_none=True
        )
        rows = self.vocab_size or -(-tokens() // 8) * 8
        return MambaShape(vocab_size=rows, **sizes)

    def _saved_shape(self, assets: Path) -> MambaShape:
        """The shape that `save_assets` wrote; raises `UserError` if the spec sets another value."""
        where = assets / "mamba.json"
        shape = MambaShape.saved(where)
        for name, value in shape.model_dump().items():
            if (expected := getattr(self, name, None)) not in (None, value):
                raise UserError(
                    f"{where}: {name} is {value}, but {expected} in the spec; they describe different models"
                )
        return shape

    def build(self, *, weights: bool = True, assets: Path | None = None) -> MambaLM:
        import torch

        from vlm_llms.mamba.mamba import MambaLM

        tokenizer = cache(lambda: load_tokenizer(self.tokenizer_source, assets))
        shape = self.shape(lambda: len(tokenizer()), assets)
        if weights and self.weights:
            from vlm_llms.mamba.mamba_checkpoint import check_shape

            check_shape(shape, self.weights, self.revision)
        model = MambaLM(
            **shape.model_dump(),
            init_std=self.init_std,
            dtype=getattr(torch, self.dtype),
            load_tokenizer=tokenizer,
        )
        if is_local(self.tokenizer_source, assets):
            _ = model.tokenizer
        if weights and self.weights:
            from vlm_llms.mamba.mamba_checkpoint import check_config, load_weights

            load_weights(model, self.weights, self.revision)
            check_config(shape, self.weights, self.revision)
        return model

    def downloads(self) -> list[Download]:
        """Weights and tokenizer. Published checkpoints take 2 bytes a parameter, those for transformers (`-hf`) 4."""
        tokenizer_downloads = tokenizer_download(self.tokenizer_source)
        if not self.weights or Path(self.weights).exists():
            return tokenizer_downloads
        shape = PUBLISHED.get(self.weights)
        item = 4 if self.weights in FP32_FILES else 2
        return [Download(self.weights, "weights", shape and item * shape.parameters()), *tokenizer_downloads]

    @classmethod
    def engine(cls, device: str) -> str:
        from vlm_ssm.backends import engine

        return engine(device)
