"""ScienceQA: LLaVA's test file, or the official problems; both hold the right letters too.

Which questions have an image is taken from the question file; the official script looks for `<image>` in the
logged prompts, so a log without that mark has no IMG accuracy there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from vlm_bench.benchmarks.layout import File, ImagesConfig, Source, Strictness, file_field
from vlm_bench.benchmarks.scienceqa.files import read_official, read_questions
from vlm_bench.benchmarks.scienceqa.scoring import LETTERS, parse
from vlm_bench.scoring.accuracy import accuracy_row
from vlm_bench.scoring.letters import parse_normalized
from vlm_core.benchmark import UNIFORM, Benchmark, Chance, Question, Score, Verdict, mean_headline
from vlm_core.io.image_folder import ImageFolder


class ScienceQAConfig(ImagesConfig):
    """ScienceQA test set; papers print the IMG subset"""

    layout: ClassVar = {
        "questions": "scienceqa/llava_test_CQM-A.json",
        "questions.official": "scienceqa/problems.json",
        "splits": "scienceqa/pid_splits.json",
        "images": "scienceqa/images/test",
    }
    type: Literal["scienceqa"] = "scienceqa"
    source: Source = "llava"
    questions: File | None = file_field(
        "llava_test_CQM-A.json, or problems.json; both hold the right letters too"
    )
    splits: File | None = file_field("official: pid_splits.json, which lists the test set")
    images: File | None = file_field("folder with the images")
    strictness: Strictness = "official"

    def needed(self) -> list[Path]:
        return [self.file("questions"), *([self.file("splits")] if self.source == "official" else [])]

    def build(self) -> Benchmark:
        """Read the questions."""
        return ScienceQA(
            self.file("questions"),
            self.image_folder(),
            splits=self.file("splits") if self.source == "official" else None,
            normalized=self.strictness == "normalized",
        )


class ScienceQA(Benchmark):
    """The headline is the accuracy over questions with an image; `all` is over every question."""

    max_new_tokens = 1024

    def __init__(
        self, path: Path, images: ImageFolder, *, splits: Path | None = None, normalized: bool = False
    ) -> None:
        """`path` is LLaVA's question file or, where `splits` is given, the official problems."""
        self.asked = read_official(path, splits) if splits else read_questions(path)
        self.parse = parse_normalized if normalized else parse
        super().__init__(
            "llava-1.5/scienceqa-img",
            (
                Question(
                    key,
                    q.prompt,
                    None if q.image is None else images.path(q.image, f"{path}: {key}"),
                    q.choices,
                )
                for key, q in self.asked.items()
            ),
            files={file.name: file for file in (path, splits) if file},
        )

    def allowed_answers(self, key: str) -> Sequence[str]:
        """A letter for each option; all letters for a question without a list of options."""
        return super().allowed_answers(key) or LETTERS

    def chance(self, keys: Sequence[str]) -> Chance:
        img = [key for key in keys if self.asked[key].image is not None]
        return Chance(UNIFORM, mean_headline("IMG accuracy", {key: self.guess_credit(key) for key in img}))

    def verdict(self, key: str, text: str) -> Verdict:
        letter, right = self.parse(text), self.asked[key].right
        return Verdict(letter == right, right, letter or "")

    def score(self, answers: Mapping[str, str]) -> Score:
        letters = {key: self.parse(text) for key, text in answers.items()}
        hits = {key: letter == self.asked[key].right for key, letter in letters.items()}
        img = {key: hit for key, hit in hits.items() if self.asked[key].image is not None}
        return Score(
            mean_headline("IMG accuracy", img),
            {"IMG": accuracy_row(img.values()), "all": accuracy_row(hits.values())},
            {"no letter found (wrong)": sum(letter is None for letter in letters.values())},
            [] if img else ["no question with an image was scored: IMG accuracy is undefined"],
        )
