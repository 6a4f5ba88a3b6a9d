"""Base classes of component configs: frozen, strict pydantic models with a `build` method."""

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
    """A function call that builds a component without pydantic and plugins, for models exported with their code.

    `function` is `module:name`. It is called with `assets`, the folder that `save_assets` wrote (encoder, language
    model), or with `d_in` and `d_out` (connector), and with `arguments`: plain data and functions of modules. Its
    module and the modules imported at its top may use torch, Pillow, transformers and the packages in `needs`.
    """

    function: str
    arguments: dict[str, Any]
    needs: tuple[str, ...] = ()

    def __call__(self, *args: Any) -> Any:
        """Import the function and call it."""
        module, _, name = self.function.partition(":")
        return getattr(import_module(module), name)(*args, **self.arguments)


class StrictModel(BaseModel):
    """A frozen model in which unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        defer_build=True,
    )
    renamed: ClassVar[Mapping[str, str]] = {}
    """New names of renamed keys: using an old key is an error that names the new one."""


@dataclass(frozen=True)
class Download:
    """A download of `build` with weights: its source, its content, and its size in bytes (None if unknown)."""

    source: str
    what: str
    bytes: int | None = None


@dataclass(frozen=True)
class WeightsSource:
    """Short description of the source of a component's weights. `remedy` names the keys that select trained weights."""

    text: str
    random: bool = False
    remedy: str = ""


NO_WEIGHTS = WeightsSource("no weights")


def random_values(remedy: str = "") -> WeightsSource:
    """The source of a component whose weights are initialised from the seed."""
    return WeightsSource("random values", random=True, remedy=remedy)


class ComponentConfig(StrictModel):
    """A component in a spec; every subclass has a field `type: Literal["name"] = "name"`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Use the first line of the class docstring as the schema's description of the type."""
        super().__init_subclass__(**kwargs)
        name = vars(cls).get("type")
        if isinstance(name, str):
            text = (cls.__doc__ or name).strip().splitlines()[0]
            setattr(cls, "type", Field(default=name, description=text))  # noqa: B010 (unknown to type checkers)

    def label(self) -> str:
        """A short name for tables: the type and the main settings."""
        return self.type_name()

    def for_folder(self) -> Self:
        """This config for a model folder, without paths that the folder's assets replace."""
        return self

    def components(self) -> Iterator[ComponentConfig]:
        """This component and all components in its fields, recursively."""
        yield self
        for _, value in self:
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, ComponentConfig):
                    yield from item.components()

    def downloads(self) -> list[Download]:
        """Downloads of `build`, without those of components in its fields; uses no network itself."""
        return []

    @classmethod
    def engine(cls, device: str) -> str:
        """The implementation used on a device ("cpu", "cuda"), for `vlm-assemble --doctor`."""
        return "torch"

    def factory_call(self) -> FactoryCall:
        """The function call that builds this component in a model folder exported with its code.

        Raises `UserError` if the code can't be exported.
        """
        raise UserError(
            f"the code of {self.label()} can't be exported: its config has no factory_call(); "
            "export without --with-code, and install the same packages where the model is used"
        )

    @classmethod
    def type_name(cls) -> str:
        """The `type` of this component in a spec."""
        return cls.model_fields["type"].default


class PartConfig(ComponentConfig):
    """A part of the model: encoder, connector or language model."""

    def weights_source(self) -> WeightsSource | None:
        """The source of `build`'s weights, without components in its fields; None if the type doesn't report it.

        Reads no weights and uses no network. A spec with `random_values()` in a part that no stage trains is an error.
        """
        return None


class EncoderConfig(PartConfig):
    """Config of a vision encoder."""

    def build(self, *, weights: bool = True, assets: Path | None = None) -> Encoder:
        """Build the encoder.

        `weights=False` builds the architecture only, without network or weight files. `assets` is a folder that
        `Encoder.save_assets` wrote; small files are then read from there only.
        """
        raise NotImplementedError


class ConnectorConfig(PartConfig):
    """Config of a connector."""

    def build(self, d_in: int, d_out: int) -> Connector:
        """Build a connector from encoder width `d_in` to model width `d_out`; by default with `factory_call`."""
        if type(self).factory_call is ConnectorConfig.factory_call:
            raise NotImplementedError(f"{type(self).__name__} has neither build() nor factory_call()")
        return self.factory_call()(d_in, d_out)


class LLMConfig(PartConfig):
    """Config of a language model."""

    def build(self, *, weights: bool = True, assets: Path | None = None) -> LanguageModel:
        """As `EncoderConfig.build`; the tokenizer is loaded at its first use."""
        raise NotImplementedError

    def learns_tokenizer(self) -> bool:
        """Whether `build` trains the tokenizer on data; a run then saves it and doesn't train it again."""
        return False

    def with_tokenizer(self, folder: Path) -> Self:
        """This config with the trained tokenizer that `Tokenizer.save` wrote into `folder`."""
        raise NotImplementedError


class DatasetConfig(ComponentConfig):
    """Config of a dataset with rows in LLaVA's schema."""

    def rows(self) -> Sequence[dict[str, Any]]:
        """Rows `{id, image: [path or StoredImage, …], conversations: [{from, value}, …], category, system}`.

        `category` groups questions, `system` is the conversation's system prompt; both may be absent or None. Turns
        alternate between human and gpt and end with gpt. Each `<image>` in a human turn is the placeholder of the next
        entry of `image`, which is empty for text only. Faults raise `UserError` naming file and row. A large dataset
        returns `vlm_core.rows.Rows`, which are read on demand and raise `BadSample` per row.
        """
        raise NotImplementedError


class BenchmarkConfig(ComponentConfig):
    """Config of a benchmark: the location of its files, and options of the scoring rule."""

    def present(self) -> bool:
        """Whether its files exist."""
        return True

    def lacking(self) -> str:
        """The missing file, as the reason why `vlm-bench run --benchmarks all` skips this benchmark; "" if none."""
        return "" if self.present() else "its files are not there"

    def for_baseline(self, name: str) -> BenchmarkConfig:
        """The config that scores the answers of a baseline; another one where, say, a judge graded them."""
        return self

    def build(self) -> Benchmark:
        """Read the files, without images. Faults raise `UserError` naming file and line."""
        raise NotImplementedError
