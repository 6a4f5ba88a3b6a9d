"""VSR (Visual Spatial Reasoning): the authors' files hold statements and labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vlm_bench.benchmarks.layout import File, ImagesConfig, file_field
from vlm_bench.benchmarks.vsr.scoring import CATEGORY_OF, parse
from vlm_bench.files.answers import unique
from vlm_bench.files.json_files import read_jsonl
from vlm_bench.files.json_object import Row
from vlm_bench.files.label_checks import check_count
from vlm_core.benchmark import Benchmark, CreditBenchmark, Question, Score, Verdict
from vlm_core.io.image_folder import ImageFolder

Split = Literal["zeroshot-test", "zeroshot-dev", "random-test", "random-dev"]
COUNTS: Mapping[Split, int] = {
    "zeroshot-test": 1222,
    "zeroshot-dev": 340,
    "random-test": 2195,
    "random-dev": 1097,
}
REVISION = "b27a0af0"
"""Commit of cambridgeltl/visual-spatial-reasoning whose files have these numbers of statements."""
PROMPT = (
    'Based on the image, is this statement "True" or "False"? {}\nRespond with "True" or "False" directly.'
)
"""The prompt of TRI-ML/vlm-evaluation, in which Cobra's and other published figures were measured."""


class VSRConfig(ImagesConfig):
    """VSR: is a statement on the place of two objects true? The zero-shot test set by default"""

    layout: ClassVar = {
        "questions.zeroshot-test": "vsr/splits/zeroshot/test.jsonl",
        "questions.zeroshot-dev": "vsr/splits/zeroshot/dev.jsonl",
        "questions.random-test": "vsr/splits/random/test.jsonl",
        "questions.random-dev": "vsr/splits/random/dev.jsonl",
        "images": "vsr/images",
    }
    type: Literal["vsr"] = "vsr"
    split: Split = Field(default="zeroshot-test", description="which statements")
    questions: File | None = file_field("the official file of the split, with statements and labels")
    images: File | None = file_field("folder with the images, which are COCO's of 2017")

    def needed(self) -> list[Path]:
        return [self.file("questions", self.split)]

    def build(self) -> Benchmark:
        """Read the statements. The zero-shot test set has 1,222 about 715 images."""
        return VSR(self.file("questions", self.split), self.split, self.image_folder())


@dataclass(frozen=True)
class Statement:
    """A caption of an image, and whether it is true."""

    image: str
    caption: str
    truth: bool
    relation: str
    where: str


class VSR(CreditBenchmark):
    """Accuracy, also by relation and by the authors' categories of relations. Ids are `image/caption`."""

    def __init__(self, path: Path, split: Split, images: ImageFolder) -> None:
        self.statements = _read(path)
        other, warnings = check_count(len(self.statements), COUNTS[split], "statements")
        super().__init__(
            f"vsr-{split}{other or f'@{REVISION}'}",
            (
                Question(key, PROMPT.format(s.caption), images.path(s.image, s.where))
                for key, s in self.statements.items()
            ),
            files={f"{path.parent.name}/{path.name}": path},  # two splits have a test.jsonl
            warnings=warnings,
        )

    def allowed_answers(self, key: str) -> Sequence[str]:
        return "True", "False"

    def credit(self, key: str, text: str) -> float:
        return float(parse(text) is self.statements[key].truth)

    def groups(self, key: str) -> Iterable[str]:
        relation = self.statements[key].relation
        yield f"category: {CATEGORY_OF.get(relation, 'none')}"
        yield f"relation: {relation}"

    def right(self, key: str) -> str:
        return str(self.statements[key].truth)

    def verdict(self, key: str, text: str) -> Verdict:
        read = parse(text)
        return Verdict(self.credit(key, text), self.right(key), "" if read is None else str(read))

    def score(self, answers: Mapping[str, str]) -> Score:
        score = super().score(answers)
        rows = {name: score.rows[name] for name in sorted(score.rows)}
        unread = sum(parse(text) is None for text in answers.values())
        return replace(score, rows=rows, parse={"neither true nor false (wrong)": unread})


def _read(path: Path) -> dict[str, Statement]:
    rows = [(f"{row.named('image')}/{row.named('caption')}", row) for row in read_jsonl(path)]
    return {key: _statement(row) for key, row in unique(rows, "the statement").items()}


def _statement(row: Row) -> Statement:
    label = row.data.get("label")
    if isinstance(label, bool) or label not in (0, 1):
        row.wrong("label", "0 or 1")
    return Statement(row.text("image"), row.text("caption"), label == 1, row.named("relation"), row.where)
