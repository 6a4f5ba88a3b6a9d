"""Conformance tests of benchmarks. Subclass with a config of a few questions:

    class TestMine(BenchmarkSuite):
        config = MyConfig(...)

If the config needs files, override `make_config(tmp_path_factory)`. A benchmark that is scored elsewhere (`score`
raises `UserError`) passes the tests of scoring.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest

from vlm_core.benchmark import UNDECLARED, Benchmark, EncodedImage, Question, Score
from vlm_core.errors import UserError
from vlm_core.placeholders import IMAGE_PLACEHOLDER
from vlm_core.plugins.config import BenchmarkConfig

SAMPLE = 20
_BOM = b"\xef\xbb\xbf"


class BenchmarkSuite:
    """The contract of `Benchmark` as tests."""

    config: ClassVar[Any] = None
    has_images: ClassVar[bool] = True
    """Whether the image files exist; scoring must not need them."""

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
            assert IMAGE_PLACEHOLDER not in question.prompt
        assert benchmark.expected >= len(benchmark.questions)
        assert benchmark.protocol

    def test_images_can_be_read(self, benchmark: Benchmark) -> None:
        if not self.has_images:
            pytest.skip("no images here")
        for question in list(benchmark.questions.values())[:SAMPLE]:
            assert len(question.open_images()) == len(question.images)

    def test_scoring_opens_no_image(
        self, benchmark: Benchmark, answers: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("scoring opened an image")

        monkeypatch.setattr(Question, "_open", refuse)
        monkeypatch.setattr(EncodedImage, "read", refuse)
        _score(benchmark, answers)
        for key, text in list(answers.items())[:SAMPLE]:
            benchmark.verdict(key, text)

    def test_units_name_their_questions(self, benchmark: Benchmark, answers: dict[str, str]) -> None:
        """`vlm-bench diff` compares units only if both reports have the same questions in them."""
        score = _score(benchmark, answers)
        for unit in score.headline.units if score else ():
            members = score.headline.members.get(unit, (unit,)) if score else ()
            assert members, f"unit {unit!r} is no question and has no members"
            assert benchmark.questions.keys() >= set(members), (
                f"unit {unit!r} has members that are no questions"
            )

    def test_only_missing_files_exclude_it_from_all(self, benchmark_config: BenchmarkConfig) -> None:
        """A config that can be built has no missing files."""
        assert benchmark_config.lacking() == ""
        assert benchmark_config.present()

    def test_byte_order_marks_and_line_ends_are_ignored(
        self,
        benchmark: Benchmark,
        benchmark_config: BenchmarkConfig,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        """Files saved on another system, with byte order mark and CRLF, are the same revision."""
        home = tmp_path_factory.getbasetemp().resolve()
        paths = [
            path for path in benchmark.files.values() if home in path.resolve().parents and _is_text(path)
        ]
        contents = {path: path.read_bytes() for path in paths}
        try:
            for path, content in contents.items():
                plain = content.removeprefix(_BOM).replace(b"\r\n", b"\n")
                path.write_bytes(_BOM + plain.replace(b"\n", b"\r\n"))
            again = benchmark_config.build()
        finally:
            for path, content in contents.items():
                path.write_bytes(content)
        assert again.protocol == benchmark.protocol
        assert dict(again.questions) == dict(benchmark.questions)
        assert list(again.warnings) == list(benchmark.warnings)

    def test_reading_again_gives_the_same_questions(
        self, benchmark: Benchmark, benchmark_config: BenchmarkConfig
    ) -> None:
        """Answers are resumed by id."""
        assert dict(benchmark_config.build().questions) == dict(benchmark.questions)

    def test_every_answer_is_scored_in_any_order(self, benchmark: Benchmark, answers: dict[str, str]) -> None:
        score, reverse = _score(benchmark, answers), _score(benchmark, dict(reversed(answers.items())))
        if score is not None and reverse is not None:
            assert math.isfinite(score.headline.value)
            assert score.headline.units
            assert score.headline.value == pytest.approx(reverse.headline.value)
            assert _cells(score) == pytest.approx(_cells(reverse))

    def test_chance_is_declared(self, benchmark: Benchmark, answers: dict[str, str]) -> None:
        """Chance has the units of the score, on all questions and on a part; or a reason why it has no score."""
        chance = benchmark.chance(list(answers))
        assert chance.rule
        assert chance.rule != UNDECLARED, (
            "override `chance`, or give the questions `choices` or a right answer"
        )
        score = _score(benchmark, answers)
        if score is not None:
            assert benchmark.headline(answers) == score.headline, "`headline` is that of `score`"
        if chance.headline is None or score is None:
            return
        assert chance.headline.units.keys() == score.headline.units.keys()
        kind = (chance.headline.name, chance.headline.combine, chance.headline.points)
        assert kind == (score.headline.name, score.headline.combine, score.headline.points)
        assert math.isfinite(chance.headline.value)
        assert benchmark.chance([]).rule

    def test_allowed_answers_can_be_scored(self, benchmark: Benchmark) -> None:
        """One of the allowed answers is right, so a guess is not always wrong."""
        for key in list(benchmark.questions)[:SAMPLE]:
            verdicts = [benchmark.verdict(key, text) for text in benchmark.allowed_answers(key)]
            if verdicts and all(verdicts):
                assert max(verdict.credit for verdict in verdicts if verdict) == 1

    def test_credit_is_from_0_to_1(self, benchmark: Benchmark, answers: dict[str, str]) -> None:
        for key, text in list(answers.items())[:SAMPLE]:
            verdict = benchmark.verdict(key, text)
            assert verdict is None or 0 <= verdict.credit <= 1

    def test_the_score_without_answers_is_zero(self, benchmark: Benchmark) -> None:
        score = _score(benchmark, {})
        assert score is None or score.headline.value == 0


def _is_text(path: Path) -> bool:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _score(benchmark: Benchmark, answers: dict[str, str]) -> Score | None:
    try:
        return benchmark.score(answers)
    except UserError:
        return None


def _cells(score: Score) -> dict[str, float]:
    return {f"{name}, {column}": value for name, row in score.rows.items() for column, value in row.items()}
