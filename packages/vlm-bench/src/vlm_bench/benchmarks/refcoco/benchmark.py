"""RefCOCO, RefCOCO+ and RefCOCOg: one protocol for three datasets of referring expressions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vlm_bench.benchmarks.layout import File, ImagesConfig, file_field
from vlm_bench.benchmarks.refcoco.files import qwen_expressions, refer_expressions
from vlm_bench.benchmarks.refcoco.scoring import THRESHOLD, Box, Frame, How, in_image, iou, parse
from vlm_bench.files.label_checks import check_count
from vlm_core.benchmark import Benchmark, Chance, Question, Score, Verdict, mean_headline
from vlm_core.io.image_folder import ImageFolder

PROMPT = 'Please provide the bounding box coordinate of the region this sentence describes: "{}"'
"""The prompt of TRI-ML/vlm-evaluation, in which Cobra's and other published figures were measured."""
COUNTS: Mapping[str, Mapping[str, int]] = {
    "refcoco": {"val": 10834, "testA": 5657, "testB": 5095},
    "refcoco+": {"val": 10758, "testA": 5726, "testB": 4889},
    "refcocog": {"val": 4896, "test": 9602},
}
"""Expressions by dataset and split: UNC's splits, of RefCOCOg those of UMD."""


def _layout(name: str, refs: str) -> dict[str, str]:
    splits = {f"questions.{split}": f"refcoco/{name}_{split}.jsonl" for split in COUNTS[name]}
    return splits | {
        "questions.official": f"refcoco/{name}/{refs}.json",
        "labels": f"refcoco/{name}/instances.json",
        "images": "refcoco/train2014",
    }


Unc = Annotated[Literal["val", "testA", "testB"], Field(description="which expressions")]
Umd = Annotated[Literal["val", "test"], Field(description="which expressions")]


class _RefCOCOConfig(ImagesConfig):
    source: Literal["qwen", "official"] = Field(
        default="qwen", description="Qwen-VL's files (default), or REFER's: refs as JSON, and instances.json"
    )
    questions: File | None = file_field("the split's JSON lines of Qwen-VL; official: the refs, as JSON")
    labels: File | None = file_field("official: instances.json")
    images: File | None = file_field("folder with COCO's train2014")
    frame: Frame = Field(
        default="image",
        description="boxes are relative to the image (default), or to the image padded to a square, as LLaVA-1.5's",
    )

    @property
    def chosen(self) -> str:
        """The field `split`, whose values depend on the dataset."""
        raise NotImplementedError

    def needed(self) -> list[Path]:
        official = self.source == "official"
        return [self.file("questions", self.chosen), *([self.file("labels")] if official else [])]

    def build(self) -> Benchmark:
        """Read the expressions and their boxes."""
        path = self.file("questions", self.chosen)
        labels = self.file("labels") if self.source == "official" else None
        return RefCOCO(self.type_name(), self.chosen, path, self.image_folder(), labels, self.frame)


class _UncConfig(_RefCOCOConfig):
    split: Unc = "val"

    @property
    def chosen(self) -> str:
        return self.split


class RefCOCOConfig(_UncConfig):
    """RefCOCO: boxes of the objects that expressions refer to"""

    layout: ClassVar = _layout("refcoco", "refs(unc)")
    type: Literal["refcoco"] = "refcoco"


class RefCOCOPlusConfig(_UncConfig):
    """RefCOCO+: as RefCOCO, without words of place"""

    layout: ClassVar = _layout("refcoco+", "refs(unc)")
    type: Literal["refcoco+"] = "refcoco+"


class RefCOCOgConfig(_RefCOCOConfig):
    """RefCOCOg: as RefCOCO, with longer expressions"""

    layout: ClassVar = _layout("refcocog", "refs(umd)")
    type: Literal["refcocog"] = "refcocog"
    split: Umd = "val"

    @property
    def chosen(self) -> str:
        return self.split


CONSTANT_BOXES = (
    "[0.00, 0.00, 1.00, 1.00]",
    "[0.25, 0.25, 0.75, 0.75]",
    "[0.00, 0.00, 0.50, 1.00]",
    "[0.50, 0.00, 1.00, 1.00]",
)
"""Answers that need no image: all of it, the middle, the left and the right half."""


class RefCOCO(Benchmark):
    """Acc@0.5: the share of expressions whose box overlaps the right one with an IoU of 0.5 or more."""

    def __init__(
        self,
        name: str,
        split: str,
        path: Path,
        images: ImageFolder,
        labels: Path | None = None,
        frame: Frame = "image",
    ) -> None:
        """`path` is Qwen-VL's file or, where `labels` is given, REFER's refs of all splits."""
        self.expressions = refer_expressions(path, labels, split) if labels else qwen_expressions(path)
        self.frame = frame
        other, warnings = check_count(len(self.expressions), COUNTS[name][split], "expressions")
        super().__init__(
            f"{name}-{split}{other} Acc@0.5" + (", boxes of the padded square" if frame == "square" else ""),
            (
                Question(key, PROMPT.format(e.text), images.path(e.image, e.where))
                for key, e in self.expressions.items()
            ),
            files={file.name: file for file in (path, labels) if file},
            notes={"boxes": f"relative to the {'image' if frame == 'image' else 'padded square'}"},
            warnings=warnings,
        )

    def overlap(self, key: str, text: str) -> tuple[float, Box | None, How]:
        """The IoU of an answer's box with the right one, the box, and how it was read; 0 without a box."""
        box, how = parse(text)
        if box is None:
            return 0.0, None, how
        box = in_image(box, self.expressions[key].size) if self.frame == "square" else box
        return iou(box, self.expressions[key].box), box, how

    def score(self, answers: Mapping[str, str]) -> Score:
        overlaps = {key: self.overlap(key, text) for key, text in answers.items()}
        hits = {key: float(value >= THRESHOLD) for key, (value, _, _) in overlaps.items()}
        count = len(hits) or 1
        row = {
            "n": len(hits),
            "Acc@0.5": sum(hits.values()) / count,
            "mean IoU": sum(value for value, _, _ in overlaps.values()) / count,
        }
        ways = Counter(how for _, _, how in overlaps.values())
        parse_counts = {
            "no box (wrong)": ways["no box"],
            "numbers that are no box of the image (wrong)": ways["not a box of the image"],
            "box in whole numbers": ways["integers"],
        }
        return Score(mean_headline("Acc@0.5", hits), {"all": row}, parse_counts)

    def chance(self, keys: Sequence[str]) -> Chance:
        """The best of a few constant boxes, since boxes are no set of options: the image, its middle, its halves.

        They are relative to the image in either frame: guessing does not depend on how the model writes boxes.
        """
        guesses = copy(self)
        guesses.frame = "image"
        return guesses.best_constant(keys, CONSTANT_BOXES)

    def verdict(self, key: str, text: str) -> Verdict:
        value, box, _ = self.overlap(key, text)
        return Verdict(float(value >= THRESHOLD), self.right(key), _shown(box) if box else "")

    def right(self, key: str) -> str:
        return _shown(self.expressions[key].box)


def _shown(box: Box) -> str:
    return f"[{', '.join(f'{edge:.3f}' for edge in box)}]"
