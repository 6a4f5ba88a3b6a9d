"""ScienceQA: LLaVA's test file, or the official problems; both hold the right letters too.

Which questions have an image is taken from the question file; the official script looks for `<image>` in the
logged prompts, so a log without that mark has no IMG accuracy there.
"""

from __future__ import annotations

from collections.abc import Mapping

from vlm_bench.configs import ScienceQAConfig
from vlm_bench.readers.scienceqa import read_official, read_questions
from vlm_bench.scorers.scienceqa import parse, parse_sane
from vlm_core.benchmark import Benchmark, Question, Score, Verdict, mean_headline


def build(config: ScienceQAConfig) -> Benchmark:
    """Read the questions."""
    return ScienceQA(config)


class ScienceQA(Benchmark):
    """The headline is the accuracy over questions with an image; `all` is over every question."""

    max_new_tokens = 1024

    def __init__(self, config: ScienceQAConfig) -> None:
        path, images = config.file("questions"), config.image_folder()
        others = [config.file("splits")] if config.source == "official" else []
        self.asked = read_official(path, *others) if others else read_questions(path)
        self.parse = parse_sane if config.strictness == "sane" else parse
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
            files={file.name: file for file in (path, *others)},
        )

    def verdict(self, key: str, text: str) -> Verdict:
        letter, right = self.parse(text), self.asked[key].right
        return Verdict(letter == right, right, letter or "")

    def score(self, answers: Mapping[str, str]) -> Score:
        letters = {key: self.parse(text) for key, text in answers.items()}
        hits = {key: letter == self.asked[key].right for key, letter in letters.items()}
        img = {key: hit for key, hit in hits.items() if self.asked[key].image is not None}
        return Score(
            mean_headline("IMG accuracy", img),
            {"IMG": _figures(img), "all": _figures(hits)},
            {"no letter found (wrong)": sum(letter is None for letter in letters.values())},
            [] if img else ["no question with an image was scored: IMG accuracy is undefined"],
        )


def _figures(hits: Mapping[str, bool]) -> dict[str, float | int]:
    correct = sum(hits.values())
    return {"n": len(hits), "correct": correct, "accuracy": correct / len(hits) if hits else 0.0}
