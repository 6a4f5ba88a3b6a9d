"""Base classes of component configs: frozen, strict, and able to build what they describe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from vlm_core.interfaces import Connector, Encoder, LanguageModel

Kind = Literal["encoder", "connector", "llm", "dataset"]


class StrictModel(BaseModel):
    """Unknown keys, wrong types, NaN and infinity are errors, and a value never changes once validated."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class ComponentConfig(StrictModel):
    """A component as the spec names it; every subclass has a field `type: Literal["name"] = "name"`."""

    def label(self) -> str:
        """A few words for tables: the type and what distinguishes this instance."""
        return self.type_name()

    def for_folder(self) -> Self:
        """This config as a model folder holds it: what the folder's assets replace need not exist elsewhere."""
        return self

    @classmethod
    def type_name(cls) -> str:
        """The name under which a spec asks for this component."""
        return cls.model_fields["type"].default


class EncoderConfig(ComponentConfig):
    """Describes a vision encoder."""

    def build(self, *, weights: bool = True, assets: Path | None = None) -> Encoder:
        """Build the tower.

        `weights=False` builds the architecture alone and touches neither network nor weight files;
        `assets` is a folder that `Encoder.save_assets` wrote and is then the only source of small files.
        """
        raise NotImplementedError


class ConnectorConfig(ComponentConfig):
    """Describes a connector."""

    def build(self, d_in: int, d_out: int) -> Connector:
        """Build the module that maps encoder width `d_in` to model width `d_out`."""
        raise NotImplementedError


class LLMConfig(ComponentConfig):
    """Describes a language model."""

    def build(self, *, weights: bool = True, assets: Path | None = None) -> LanguageModel:
        """As `EncoderConfig.build`; the tokenizer is loaded when it is first used."""
        raise NotImplementedError


class DatasetConfig(ComponentConfig):
    """Describes a source of rows in LLaVA's schema."""

    def rows(self) -> Sequence[dict[str, Any]]:
        """Rows `{id, image: [path, …], conversations: [{from, value}, …], category: text or absent}`.

        Turns alternate between human and gpt and end with gpt; each `<image>` in a human turn stands for
        the next of `image`, which is empty for text alone. Faults raise `UserError` naming file and row.
        """
        raise NotImplementedError
