"""The inputs of a run: the model, the benchmarks, and the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

from vlm_bench.evaluate import check_asked
from vlm_core.benchmark import Benchmark, Question
from vlm_core.errors import BadSample, UserError
from vlm_core.evaluation.inference import AnsweredQuestion, BenchmarkInference, Group
from vlm_core.evaluation.questions import missing_images, missing_lines, sample
from vlm_core.io import manifest
from vlm_core.model import VLM
from vlm_core.model_folder.assemble import load, make_current, versions
from vlm_core.plugins.config import BenchmarkConfig
from vlm_core.spec.spec import Spec
from vlm_core.states.cache import StateCache


@dataclass(frozen=True)
class Settings:
    """Settings of a run. `max_new_tokens` None is each benchmark's default, `limit` None means all questions.

    With a `state_cache`, which all benchmarks share, images that were read before are not read again.
    """

    batch_size: int = 1
    max_new_tokens: int | None = None
    limit: int | None = None
    prefix_reuse: bool = True
    allow_partial: bool = False
    state_cache: StateCache | None = None


class Inference(Protocol):
    """Answers questions; see `BenchmarkInference.ask`."""

    @property
    def why_no_prefix_reuse(self) -> str | None: ...

    def ask(
        self, questions: Iterable[Question], skip: Callable[[Group, BadSample], None] | None = None
    ) -> Iterator[AnsweredQuestion]: ...


class AskedModel(Protocol):
    """What a run asks: a `LoadedModel`, or the `ServedModel` of a server."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def warnings(self) -> list[str]:
        """What a report says about the model."""
        ...

    def metadata(self, settings: Settings) -> Mapping[str, Any]:
        """The run's metadata as far as the model decides them."""
        ...

    def inference(self, settings: Settings, max_new_tokens: int) -> Inference: ...

    def check_unchanged(self) -> None:
        """Raise `UserError` if the answers since the start may be of another model."""
        ...


@dataclass(frozen=True)
class LoadedModel:
    """A model, loaded from a model folder."""

    model: VLM
    spec: Spec
    path: Path
    digest: str
    device: str

    @property
    def dtype(self) -> str:
        return str(next(self.model.llm.parameters()).dtype).removeprefix("torch.")

    @property
    def hardware(self) -> str:
        """`cpu`, or `cuda` with the GPU's name."""
        kind = torch.device(self.device).type
        return f"cuda ({torch.cuda.get_device_name(self.device)})" if kind == "cuda" else kind

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def warnings(self) -> list[str]:
        return []

    def metadata(self, settings: Settings) -> Mapping[str, Any]:
        return {
            "model": str(self.path),
            "model name": self.name,
            "model sha256": self.digest,
            "versions": {**versions(self.spec), "vlm-bench": version("vlm-bench")},
            "batch_size": settings.batch_size,
            "dtype": self.dtype,
            "device": self.hardware,
            "prefix_reuse": self.inference(settings, 1).reuse,
        }

    def inference(self, settings: Settings, max_new_tokens: int) -> BenchmarkInference:
        return BenchmarkInference(
            self.model,
            self.spec.template,
            batch_size=settings.batch_size,
            max_new_tokens=max_new_tokens,
            reuse=settings.prefix_reuse,
            cache=settings.state_cache,
        )

    def check_unchanged(self) -> None:
        """It can't change: its weights are in memory."""

    @classmethod
    def load(
        cls, path: Path, dtype: str | None, device: str, *, trust_remote_code: bool = False
    ) -> LoadedModel:
        """Read a model folder, every file checked against its manifest; see `vlm_core.model_folder.assemble.load`."""
        number = getattr(torch, dtype) if dtype else None
        model, spec = load(path, dtype=number, device=device, trust_remote_code=trust_remote_code)
        make_current(device)
        return cls(model, spec, path, manifest.sha256(path / manifest.MANIFEST), device)


@dataclass
class Task:
    """A benchmark and the questions to ask."""

    config: BenchmarkConfig
    benchmark: Benchmark
    questions: list[Question]
    left_out: dict[str, int] = field(default_factory=dict)
    """Numbers of questions whose image is missing or unreadable, by reason; only with partial figures allowed."""
    baseline: str = ""
    """The baseline whose questions are asked; "" for the benchmark's own."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the baseline, for the run's metadata."""
    pool: Mapping[str, Question] | None = None
    """All questions of the baseline by id: as they are asked, while `questions` are the benchmark's."""

    @property
    def name(self) -> str:
        return self.config.type_name()

    @property
    def title(self) -> str:
        """The name in messages."""
        return f"{self.name}, {self.baseline}" if self.baseline else self.name

    @property
    def as_asked(self) -> Mapping[str, Question]:
        """All questions of the benchmark, as the model gets them."""
        return self.benchmark.questions if self.pool is None else self.pool


def plan(configs: Sequence[BenchmarkConfig], settings: Settings) -> list[Task]:
    """Read all questions and check that their images exist, before any question is asked.

    Raises `UserError` with the counts of every benchmark that lacks images, unless partial figures are allowed.
    """
    tasks, faults = [], []
    for config in configs:
        benchmark = config.build()
        check_asked(benchmark, settings.allow_partial or settings.limit is not None)
        asked = sample(list(benchmark.questions.values()), settings.limit)
        task = Task(config, benchmark, asked)
        if missing := missing_images(asked):
            summary, *details = missing_lines(asked, missing)
            faults += [f"{task.name}: {summary}", *details]
            task.questions = [q for q in asked if missing.keys().isdisjoint(q.images)]
            task.left_out["image not there"] = len(asked) - len(task.questions)
        tasks.append(task)
    if faults and not settings.allow_partial:
        raise UserError(*faults, "--allow-partial asks the other questions and marks the figures as partial")
    return tasks
