"""Sources of the weights of a spec's parts, and parts that would keep random weights."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from vlm_core.errors import SpecError
from vlm_core.plugins.config import ComponentConfig, PartConfig, WeightsSource
from vlm_core.plugins.registry import installed

if TYPE_CHECKING:
    from vlm_core.io.yaml_loader import Document
    from vlm_core.spec.spec import Spec

PARTS = ("encoder", "connector", "llm")
"""As in `vlm_core.model`, without importing torch."""


@runtime_checkable
class HasTrainedParts(Protocol):
    """A section of a spec that names the parts it trains."""

    def trained_parts(self) -> set[str]: ...


def _sources(config: ComponentConfig) -> Iterator[tuple[PartConfig, WeightsSource | None]]:
    """A part and the parts in its fields, with the source of their weights; datasets in its fields have none."""
    for one in config.components():
        if isinstance(one, PartConfig):
            yield one, one.weights_source()


def weight_rows(spec: Spec) -> list[tuple[str, str, str]]:
    """(part, component, source of its weights), for tables."""
    return [
        (part, one.label(), source.text if source else f"not reported by {one.type_name()}")
        for part in PARTS
        for one, source in _sources(getattr(spec, part))
    ]


def never_trained(spec: Spec, trained: Container[str]) -> list[tuple[str, str]]:
    """(part, message) of each component with random weights that is neither trained nor in `keep_random`."""
    return [
        (part, _message(part, one, source))
        for part in PARTS
        if part not in trained and part not in (spec.keep_random or ())
        for one, source in _sources(getattr(spec, part))
        if source is not None and source.random
    ]


def refuse_untrained(spec: Spec, document: Document) -> None:
    """Raise `SpecError` for parts with random weights that no stage of the spec's `train` section trains."""
    if spec.train is None or "train" not in installed().names("section"):
        return
    section = installed().get("section", "train").model_validate(spec.train)
    if isinstance(section, HasTrainedParts) and (idle := never_trained(spec, section.trained_parts())):
        raise SpecError([document.problem((part,), text) for part, text in idle])


def _message(part: str, config: PartConfig, source: WeightsSource) -> str:
    ways = [f"set {source.remedy}"] if source.remedy else []
    ways += [f"train {part} in a stage", f"keep the random values by keep_random: [{part}]"]
    return f"{config.label()} starts from random values and no stage trains it; {', '.join(ways[:-1])}, or {ways[-1]}"
