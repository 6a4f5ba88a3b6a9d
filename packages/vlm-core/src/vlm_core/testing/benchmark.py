"""What every benchmark must do. Subclass with its config on a few questions:

    class TestMine(BenchmarkSuite):
        config = MyConfig(...)

A config that needs files is made by overriding `make_config(tmp_path_factory)`. What is scored elsewhere only
(`score` raises `UserError`) passes the tests of scoring.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest

from vlm_core.benchmark import Benchmark, Score
from vlm_core.config import BenchmarkConfig
from vlm_core.errors import UserError

SAMPLE = 20


class BenchmarkSuite:
    """The contract of `Benchmark` as tests."""

    config: ClassVar[Any] = None
    has_images: ClassVar[bool] = True
    """Whether the images are there; scoring must not need them."""

    @classmethod
    def make_config(cls, tmp_path_factory: pytest.TempPathFactory) -> BenchmarkConfig:
        """The config under test; override it where the config needs files."""
        return cls.config

    @pytest.fixture(scope="class")
    @classmethod
    def benchmark_config(cls, tmp_path_factory: pytest.TempPathFactory) -> BenchmarkConfig:
        return cls.make_config(tmp_path_factory)

    @pytest.fixture(scope="class")
    @classmethod
    def benchmark(cls, benchmark_config: BenchmarkConfig) -> Benchmark:
        return benchmark_config.build()

    @pytest.fixture
    def answers(self, benchmark: Benchmark) -> dict[str, str]:
        words = ("Yes", "no", "A", "", "a\tb\nc")
        return {key: words[n % len(words)] for n, key in enumerate(benchmark.questions)}

    def test_questions_are_complete(self, benchmark: Benchmark) -> None:
        assert benchmark.questions
        for key, question in benchmark.questions.items():
            assert question.id == key
            assert question.prompt.strip()
            assert "<image>" not in question.prompt
        assert benchmark.expected >= len(benchmark.questions)
        assert benchmark.protocol

    def test_images_can_be_read(self, benchmark: Benchmark) -> None:
        if not self.has_images:
            pytest.skip("no images here")
        for question in list(benchmark.questions.values())[:SAMPLE]:
            assert question.image is None or question.open() is not None

    def test_reading_again_gives_the_same_questions(
        self, benchmark: Benchmark, benchmark_config: BenchmarkConfig
    ) -> None:
        """Answers are resumed by id."""
        assert dict(benchmark_config.build().questions) == dict(benchmark.questions)

    def test_any_answer_is_scored_whatever_the_order(
        self, benchmark: Benchmark, answers: dict[str, str]
    ) -> None:
        straight, back = _score(benchmark, answers), _score(benchmark, dict(reversed(answers.items())))
        if straight is not None and back is not None:
            assert math.isfinite(straight.headline.value)
            assert straight.headline.units
            assert straight.headline.value == pytest.approx(back.headline.value)
            assert _cells(straight) == pytest.approx(_cells(back))

    def test_a_verdict_is_worth_0_to_1(self, benchmark: Benchmark, answers: dict[str, str]) -> None:
        for key, text in list(answers.items())[:SAMPLE]:
            verdict = benchmark.verdict(key, text)
            assert verdict is None or 0 <= verdict.credit <= 1

    def test_no_answer_at_all_gives_no_figure_above_zero(self, benchmark: Benchmark) -> None:
        nothing = _score(benchmark, {})
        assert nothing is None or nothing.headline.value == 0


def _score(benchmark: Benchmark, answers: dict[str, str]) -> Score | None:
    try:
        return benchmark.score(answers)
    except UserError:
        return None


def _cells(score: Score) -> dict[str, float]:
    return {f"{name}, {column}": value for name, row in score.rows.items() for column, value in row.items()}
