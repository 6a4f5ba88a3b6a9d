"""Base classes of component configs: frozen, strict, and able to build what they describe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from vlm_core.errors import UserError

if TYPE_CHECKING:
    from vlm_core.benchmark import Benchmark
    from vlm_core.interfaces import Connector, Encoder, LanguageModel

Kind = Literal["encoder", "connector", "llm", "dataset", "benchmark"]


@dataclass(frozen=True)
class FactoryCall:
    """A component as one plain function call, which code exported with a model can make without pydantic or plugins.

    `function` is `module:name`. For an encoder or a language model it is called with `assets`, the folder that its
    `save_assets` wrote; for a connector with `d_in` and `d_out`; always with `arguments`: plain data and functions of
    a module. Its module, and what that imports at its top, may use torch, Pillow, transformers and what `needs` names.
    """

    function: str
    arguments: dict[str, Any]
    needs: tuple[str, ...] = ()

    def __call__(self, *args: Any) -> Any:
        """Import the function and call it."""
        module, _, name = self.function.partition(":")
        return getattr(import_module(module), name)(*args, **self.arguments)


class StrictModel(BaseModel):
    """Unknown keys, wrong types, NaN and infinity are errors, and a value never changes once validated."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )
    renamed: ClassVar[Mapping[str, str]] = {}
    """New names of keys by their old ones: an old key is an error that gives the new one."""


@dataclass(frozen=True)
class Download:
    """Something that building with weights fetches: where from, what, and bytes (None: not known beforehand)."""

    source: str
    what: str
    bytes: int | None = None


@dataclass(frozen=True)
class WeightsSource:
    """Where the weights of a component come from, as a few words. `remedy`: the keys that name trained ones."""

    text: str
    random: bool = False
    remedy: str = ""


NO_WEIGHTS = WeightsSource("no weights")


def random_values(remedy: str = "") -> WeightsSource:
    """The source of a component that is initialised from the seed."""
    return WeightsSource("random values", random=True, remedy=remedy)


class ComponentConfig(StrictModel):
    """A component as the spec names it; every subclass has a field `type: Literal["name"] = "name"`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """In the schema, a type is described by the first line of its class."""
        super().__init_subclass__(**kwargs)
        name = vars(cls).get("type")
        if isinstance(name, str):
            text = (cls.__doc__ or name).strip().splitlines()[0]
            setattr(cls, "type", Field(default=name, description=text))  # noqa: B010 (unknown to type checkers)

    def label(self) -> str:
        """A few words for tables: the type and what distinguishes this instance."""
        return self.type_name()

    def for_folder(self) -> Self:
        """This config as a model folder holds it: what the folder's assets replace need not exist elsewhere."""
        return self

    def components(self) -> Iterator[ComponentConfig]:
        """This component and those that its fields hold, at any depth."""
        yield self
        for _, value in self:
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, ComponentConfig):
                    yield from item.components()

    def downloads(self) -> list[Download]:
        """What `build` would fetch from a hub, not counting components that it holds; asks no network itself."""
        return []

    @classmethod
    def engine(cls, device: str) -> str:
        """What computes on a device ("cpu", "cuda"), for `vlm-assemble --doctor`."""
        return "torch"

    def factory_call(self) -> FactoryCall:
        """The call by which a model folder exported with its code builds this component.

        Raises `UserError` if its code can't be exported.
        """
        raise UserError(
            f"the code of {self.label()} can't be exported: its config has no factory_call(); "
            "export without --with-code, and install the same packages where the model is used"
        )

    @classmethod
    def type_name(cls) -> str:
        """The name under which a spec asks for this component."""
        return cls.model_fields["type"].default


class PartConfig(ComponentConfig):
    """A part of the model: encoder, connector or language model."""

    def weights_source(self) -> WeightsSource | None:
        """Where `build` takes weights from, not counting components that it holds; reads no weights, asks no network.

        None where a type does not tell. `random_values()` of a part that no stage trains is an error of the spec.
        """
        return None


class EncoderConfig(PartConfig):
    """Describes a vision encoder."""

    def build(self, *, weights: bool = True, assets: Path | None = None) -> Encoder:
        """Build the tower.

        `weights=False` builds the architecture alone and touches neither network nor weight files;
        `assets` is a folder that `Encoder.save_assets` wrote and is then the only source of small files.
        """
        raise NotImplementedError


class ConnectorConfig(PartConfig):
    """Describes a connector."""

    def build(self, d_in: int, d_out: int) -> Connector:
        """Build the module that maps encoder width `d_in` to model width `d_out`; by default `factory_call` does."""
        if type(self).factory_call is ConnectorConfig.factory_call:
            raise NotImplementedError(f"{type(self).__name__} has neither build() nor factory_call()")
        return self.factory_call()(d_in, d_out)


class LLMConfig(PartConfig):
    """Describes a language model."""

    def build(self, *, weights: bool = True, assets: Path | None = None) -> LanguageModel:
        """As `EncoderConfig.build`; the tokenizer is loaded when it is first used."""
        raise NotImplementedError

    def learns_tokenizer(self) -> bool:
        """Whether `build` learns the tokenizer from data: a run then keeps it, and never learns it again."""
        return False

    def with_tokenizer(self, folder: Path) -> Self:
        """This config with the tokenizer that `build` has learnt and `Tokenizer.save` wrote into `folder`."""
        raise NotImplementedError


class DatasetConfig(ComponentConfig):
    """Describes a source of rows in LLaVA's schema."""

    def rows(self) -> Sequence[dict[str, Any]]:
        """Rows `{id, image: [path or StoredImage, …], conversations: [{from, value}, …], category, system}`.

        `category` groups questions and `system` is the conversation's own system text; both may be absent or None.
        Turns alternate between human and gpt and end with gpt; each `<image>` in a human turn stands for the next of
        `image`, which is empty for text alone. Faults raise `UserError` naming file and row; a large source returns
        `vlm_core.rows.Rows`, which read on demand and can name bad rows one by one.
        """
        raise NotImplementedError


class BenchmarkConfig(ComponentConfig):
    """Describes a benchmark: where its files are and by which rule its answers are scored."""

    def present(self) -> bool:
        """Whether its files are where this config looks for them."""
        return True

    def lacking(self) -> str:
        """Which file is not there, as a reason why `vlm-bench run --benchmarks all` leaves it out; "" if none."""
        return "" if self.present() else "its files are not there"

    def build(self) -> Benchmark:
        """Read the files, images excepted. Faults raise `UserError` naming file and line."""
        raise NotImplementedError
