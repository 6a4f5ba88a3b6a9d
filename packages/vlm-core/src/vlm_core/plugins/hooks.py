"""The hooks of plugins, which return config classes. Plugins are found by the entry-point group `vlm`.

A plugin is a module with functions marked `@hookimpl`; its package points the entry point at it:

    [project.entry-points.vlm]
    my-package = "my_package.plugin"

The module may import only pydantic and vlm_core; other libraries are imported inside `build`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from pydantic import BaseModel

    from vlm_core.plugins.config import (
        BenchmarkConfig,
        ConnectorConfig,
        DatasetConfig,
        EncoderConfig,
        LLMConfig,
    )

PROJECT = "vlm"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Scan = Callable[[int, int], list[list[int]]]
"""(H, W) -> K permutations of range(H*W): the order in which each direction visits the row-major grid."""


class Hooks:
    """All hooks; each is optional."""

    @hookspec
    def vlm_encoders(self) -> list[type[EncoderConfig]]:  # pyright: ignore[reportReturnType]
        """Vision encoders."""

    @hookspec
    def vlm_connectors(self) -> list[type[ConnectorConfig]]:  # pyright: ignore[reportReturnType]
        """Connectors between encoder and language model."""

    @hookspec
    def vlm_llms(self) -> list[type[LLMConfig]]:  # pyright: ignore[reportReturnType]
        """Language models."""

    @hookspec
    def vlm_scans(self) -> dict[str, Scan]:  # pyright: ignore[reportReturnType]
        """2D scan mechanisms, by name."""

    @hookspec
    def vlm_datasets(self) -> list[type[DatasetConfig]]:  # pyright: ignore[reportReturnType]
        """Datasets for training and evaluation."""

    @hookspec
    def vlm_benchmarks(self) -> list[type[BenchmarkConfig]]:  # pyright: ignore[reportReturnType]
        """Benchmarks."""

    @hookspec
    def vlm_sections(self) -> dict[str, type[BaseModel]]:  # pyright: ignore[reportReturnType]
        """Sections of a spec that this package validates, by key; a spec has one such section, `train`."""
