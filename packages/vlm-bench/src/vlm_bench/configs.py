"""The eight benchmarks as configs: which files, in LLaVA's layout unless told otherwise, and which rule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vlm_core.benchmark import Benchmark
from vlm_core.io.image_folder import ImageFolder
from vlm_core.io.paths import LocalFile
from vlm_core.plugins.config import BenchmarkConfig

File = LocalFile
Strictness = Annotated[
    Literal["official", "sane"],
    Field(description="the official rule (default), or one without its known errors"),
]


Source = Annotated[
    Literal["llava", "official"],
    Field(
        description="whose files hold the questions: LLaVA's (default), or the benchmark's own, which then suffice"
    ),
]


class LayoutConfig(BenchmarkConfig):
    """A benchmark whose files have their places in LLaVA's folder `playground/data/eval`."""

    layout: ClassVar[dict[str, str]]
    """Where a file is, below `data`, when its field is not given."""
    data: File = Field(default=Path("."), description="folder in LLaVA's layout (default: here)")

    def file(self, name: str, variant: str = "") -> Path:
        """The path of field `name` (`variant`: a split, or by itself `official`); a default one may be gzipped."""
        given = getattr(self, name)
        if given is not None:
            return given
        if f"{name}.{getattr(self, 'source', '')}" in self.layout:
            variant = "official"
        path = self.data / self.layout[f"{name}.{variant}" if variant else name]
        packed = path.with_name(f"{path.name}.gz")
        return packed if packed.is_file() and not path.exists() else path

    def present(self) -> bool:
        return not self.lacking()

    def lacking(self) -> str:
        absent = next((path for path in self.needed() if not path.exists()), None)
        return f"{absent} is not there" if absent else ""

    def needed(self) -> list[Path]:
        """The files without which there is nothing to ask, or no figure though it is made here; no images."""
        return [self.file("questions"), *([self.file("labels")] if "labels" in self.layout else [])]


class ImagesConfig(LayoutConfig):
    """A benchmark whose images are files: whatever a question file calls them, they lie in their folder."""

    symlinks: bool = Field(
        default=False, description="allow images that links lead to outside of their folder"
    )

    def image_folder(self, name: str = "images", variant: str = "") -> ImageFolder:
        """The folder of the images, which field `name` gives; every reader finds them through it."""
        return ImageFolder(str(self.file(name, variant)), self.symlinks, "--symlinks")


def _file(description: str) -> File | None:
    return Field(default=None, description=description)


class VQAv2Config(ImagesConfig):
    """VQA-v2: test-dev, which is scored on a server, or val, which is scored here"""

    layout: ClassVar = {
        "questions.test-dev": "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl",
        "questions.val": "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
        "labels": "vqav2/v2_mscoco_val2014_annotations.json",
        "ids": "vqav2/llava_vqav2_mscoco_test2015.jsonl",
        "images.test-dev": "vqav2/test2015",
        "images.val": "vqav2/val2014",
    }
    type: Literal["vqa-v2"] = "vqa-v2"
    split: Literal["test-dev", "val"] = Field(default="test-dev", description="which questions")
    questions: File | None = _file("LLaVA's questions (test-dev) or the official ones (val)")
    labels: File | None = _file("val: v2_mscoco_val2014_annotations.json")
    ids: File | None = _file("test-dev: the questions of all of test2015, which a submission must hold")
    images: File | None = _file("folder with test2015 or val2014")
    answer_format: Literal["llava", "raw"] = Field(
        default="llava", description="score answers as LLaVA's conversion submits them, or as they are"
    )
    strictness: Strictness = "official"

    def needed(self) -> list[Path]:
        return [self.file("questions", self.split), *([self.file("labels")] if self.split == "val" else [])]

    def build(self) -> Benchmark:
        from vlm_bench.benchmarks.vqa_v2 import build

        return build(self)


class GQAConfig(ImagesConfig):
    """GQA: the balanced test-dev questions"""

    layout: ClassVar = {
        "questions": "gqa/llava_gqa_testdev_balanced.jsonl",
        "questions.official": "gqa/data/testdev_balanced_questions.json",
        "labels": "gqa/data/testdev_balanced_questions.json",
        "images": "gqa/data/images",
    }
    type: Literal["gqa"] = "gqa"
    source: Source = "llava"
    questions: File | None = _file("llava_gqa_testdev_balanced.jsonl, or the file that holds the labels")
    labels: File | None = _file("testdev_balanced_questions.json")
    images: File | None = _file("folder with the images")
    strictness: Strictness = "official"

    def build(self) -> Benchmark:
        from vlm_bench.benchmarks.gqa import build

        return build(self)


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
    questions: File | None = _file("llava_test_CQM-A.json, or problems.json; both hold the right letters too")
    splits: File | None = _file("official: pid_splits.json, which says what the test set is")
    images: File | None = _file("folder with the images")
    strictness: Strictness = "official"

    def needed(self) -> list[Path]:
        return [self.file("questions"), *([self.file("splits")] if self.source == "official" else [])]

    def build(self) -> Benchmark:
        from vlm_bench.benchmarks.scienceqa import build

        return build(self)


class TextVQAConfig(ImagesConfig):
    """TextVQA: the validation set, with OCR tokens in the prompt unless told otherwise"""

    layout: ClassVar = {
        "questions": "textvqa/llava_textvqa_val_v051_ocr.jsonl",
        "questions.official": "textvqa/TextVQA_0.5.1_val.json",
        "tokens": "textvqa/TextVQA_Rosetta_OCR_v0.2_val.json",
        "labels": "textvqa/TextVQA_0.5.1_val.json",
        "images": "textvqa/train_images",
    }
    type: Literal["textvqa"] = "textvqa"
    source: Source = "llava"
    questions: File | None = _file("llava_textvqa_val_v051_ocr.jsonl, or the file that holds the labels")
    labels: File | None = _file("TextVQA_0.5.1_val.json")
    images: File | None = _file("folder with the images")
    ocr: Literal["yes", "no"] = Field(
        default="yes", description="keep the OCR tokens in the prompt, or drop them"
    )
    tokens: File | None = _file("official: TextVQA_Rosetta_OCR_v0.2_val.json, the OCR tokens of each image")

    def needed(self) -> list[Path]:
        tokens = self.source == "official" and self.ocr == "yes"
        return [self.file("questions"), self.file("labels"), *([self.file("tokens")] if tokens else [])]

    def build(self) -> Benchmark:
        from vlm_bench.benchmarks.textvqa import build

        return build(self)


class PopeConfig(ImagesConfig):
    """POPE: object hallucination, yes/no questions"""

    layout: ClassVar = {
        "questions": "pope/llava_pope_test.jsonl",
        "questions.official": "pope/coco",
        "labels": "pope/coco",
        "images": "pope/val2014",
    }
    type: Literal["pope"] = "pope"
    source: Source = "llava"
    questions: File | None = _file("llava_pope_test.jsonl, or the folder with the label files")
    labels: File | None = _file("folder with coco_pope_{random,popular,adversarial}.json")
    images: File | None = _file("folder with COCO's val2014")
    strictness: Strictness = "official"

    def lacking(self) -> str:
        from vlm_bench.readers.pope import missing_labels

        official = self.source == "official"
        return super().lacking() or missing_labels(self.file("questions" if official else "labels"))

    def build(self) -> Benchmark:
        from vlm_bench.benchmarks.pope import build

        return build(self)


class MMEConfig(ImagesConfig):
    """MME: perception, as papers print it, and cognition"""

    layout: ClassVar = {
        "questions": "MME/llava_mme.jsonl",
        "questions.official": "MME/MME_Benchmark_release_version",
        "labels": "MME/MME_Benchmark_release_version",
    }
    type: Literal["mme"] = "mme"
    source: Source = "llava"
    questions: File | None = _file("llava_mme.jsonl, or the folder with the labels")
    labels: File | None = _file("MME_Benchmark_release_version, with the images")
    strictness: Strictness = "official"

    def lacking(self) -> str:
        from vlm_bench.readers.mme import missing_labels

        official = self.source == "official"
        return super().lacking() or missing_labels(self.file("questions" if official else "labels"))

    def build(self) -> Benchmark:
        from vlm_bench.benchmarks.mme import build

        return build(self)


class MMBenchConfig(LayoutConfig):
    """MMBench: dev, scored here by CircularEval, or test, scored on a server"""

    layout: ClassVar = {
        "questions.dev": "mmbench/mmbench_dev_20230712.tsv",
        "questions.test": "mmbench/mmbench_test_20230712.tsv",
    }
    type: Literal["mmbench"] = "mmbench"
    split: Literal["dev", "test"] = Field(default="dev", description="which questions")
    questions: File | None = _file("the official TSV file, with questions, images and (dev) answers")

    def needed(self) -> list[Path]:
        return [self.file("questions", self.split)]

    def build(self) -> Benchmark:
        from vlm_bench.benchmarks.mmbench import build

        return build(self)


class MMVetConfig(ImagesConfig):
    """MM-Vet: open answers, graded by a judge; scored from a grade file"""

    layout: ClassVar = {
        "questions": "mm-vet/llava-mm-vet.jsonl",
        "labels": "mm-vet/mm-vet.json",
        "images": "mm-vet/images",
    }
    type: Literal["mm-vet"] = "mm-vet"
    questions: File | None = _file("llava-mm-vet.jsonl")
    labels: File | None = _file("mm-vet.json: right answers and capabilities")
    images: File | None = _file("folder with the images")
    grades: File | None = _file("the judge's grades, as `vlm-bench judge` or the official script writes them")

    def needed(self) -> list[Path]:
        """A judge makes the figure, who may have the right answers elsewhere."""
        return [self.file("questions")]

    def build(self) -> Benchmark:
        from vlm_bench.benchmarks.mm_vet import build

        return build(self)
