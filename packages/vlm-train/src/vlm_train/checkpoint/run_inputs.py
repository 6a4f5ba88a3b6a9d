"""Digests of a run's inputs (data, files, weights): `inputs.json`, with which a resumed run is compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from vlm_core.errors import UserError
from vlm_core.io import digests
from vlm_core.io.checksum import KEY, verified, with_checksum
from vlm_core.io.files import read_text
from vlm_core.io.paths import file_names, local
from vlm_core.model import PARTS
from vlm_core.plugins.config import DatasetConfig
from vlm_core.rows import digest_of
from vlm_core.spec.spec import Spec
from vlm_train.config.train import TrainConfig

STRICT = ConfigDict(strict=True, extra="forbid")
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Source:
    """One input: its name in messages, a digest of its content, and the number of its rows."""

    __pydantic_config__ = STRICT
    name: str
    digest: str
    rows: int | None = None

    def __str__(self) -> str:
        rows = "" if self.rows is None else f"{self.rows} rows, "
        return f"{self.name} ({rows}{self.digest[:12]})"


@dataclass(frozen=True)
class Inputs:
    """Sources by dotted key of the spec: data, benchmarks, and local files of encoder, connector and LLM."""

    __pydantic_config__ = STRICT
    data: Mapping[str, Source]
    benchmarks: Mapping[str, Source]
    files: Mapping[str, Source]
    versions: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    """Digests of the parts as the spec builds them, and of the tokenizer."""
    spec: str = ""
    """The resolved spec as YAML, in case `spec.yaml` is lost."""
    run: str = ""
    """`resume.identity` of the run when it started; empty if an earlier version started it."""

    def to_json(self) -> str:
        return json.dumps(with_checksum(asdict(self)), indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Inputs:
        """Raises `UserError` for a file that is missing or damaged."""
        record = verified(read_text(path), path)
        del record[KEY]
        try:
            return TypeAdapter(cls).validate_json(json.dumps(record))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"{path}: damaged: {where:.80}: {first['msg']}") from None

    def count(self, prefix: str) -> int:
        """Number of rows of the data whose keys start with `prefix`."""
        return sum(source.rows or 0 for key, source in self.data.items() if key.startswith(prefix))

    def part(self, prefix: str) -> dict[str, str]:
        """Digests of the data whose keys start with `prefix`."""
        return {key: source.digest for key, source in self.data.items() if key.startswith(prefix)}


def datasets(train: TrainConfig) -> Iterator[tuple[str, DatasetConfig]]:
    """Every dataset of the `train` section by its key."""
    lists = [(f"train.stages.{i}.data", stage.data) for i, stage in enumerate(train.stages)]
    lists += [("train.held_out_qa.data", train.held_out_qa.data)] if train.held_out_qa else []
    lists += [("train.validation.data", train.validation.data)] if train.validation else []
    for key, configs in lists:
        yield from ((f"{key}.{i}", config) for i, config in enumerate(configs))


def data_sources(
    train: TrainConfig, opened: Mapping[str, Rows], known: dict[str, Source]
) -> dict[str, Source]:
    """The source of every dataset, by key.

    `opened` are rows that are open already, by key. `known` caches sources by config, and is extended.
    """
    sources = {}
    for key, config in datasets(train):
        text = config.model_dump_json()
        if text not in known:
            known[text] = _source(config, opened.get(key))
        sources[key] = known[text]
    return sources


def _source(config: DatasetConfig, rows: Any) -> Source:
    try:
        rows = config.rows() if rows is None else rows
        return Source(config.label(), digest_of(rows), len(rows))
    except OSError as error:
        raise UserError(f"{config.label()}: cannot be read: {error.strerror or error}") from None


def file_sources(spec: Spec, known: dict[Path, str]) -> dict[str, Source]:
    """The source of every local file and folder that a part of the spec names, by key.

    `known` caches digests by path, and is extended. Training data of a tokenizer are left out: the run folder has the
    tokenizer itself.
    """
    sources = {}
    for part in PARTS:
        for keys, value in file_names(getattr(spec, part)):
            tokenizer_data = part == "llm" and spec.llm.learns_tokenizer() and keys[:1] == ("tokenizer",)
            if not tokenizer_data and isinstance(value, str | Path) and (path := local(value)):
                if path not in known:
                    known[path] = digests.of_files(path)
                sources[".".join((part, *keys))] = Source(str(value), known[path])
    return sources
