"""Scores LLaVA-1.5-13B's published answers and compares with LLaVA's table, to verify the rules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlm_bench.benchmarks import MMBenchConfig, MMEConfig, MMVetConfig, PopeConfig, ScienceQAConfig
from vlm_bench.benchmarks.layout import LayoutConfig
from vlm_bench.evaluate import evaluate
from vlm_bench.files.answers import read_answers
from vlm_bench.report.published.paper_table import LLAVA_13B
from vlm_core.errors import UserError

MODEL = "llava-v1.5-13b"
GRADES = f"mm-vet/results/{MODEL}_gpt-4-grade-1runs.json"
CASES: tuple[tuple[type[LayoutConfig], str], ...] = (
    (PopeConfig, f"pope/answers/{MODEL}.jsonl"),
    (ScienceQAConfig, f"scienceqa/answers/{MODEL}_output.jsonl"),
    (MMEConfig, f"MME/answers/{MODEL}.jsonl"),
    (MMBenchConfig, f"mmbench/answers/mmbench_dev_20230712/{MODEL}.jsonl"),
    (MMVetConfig, GRADES),
)


@dataclass(frozen=True)
class Check:
    """One figure, or the missing file that it needs."""

    benchmark: str
    published: float
    ours: float | None = None
    absent: Path | None = None

    @property
    def agrees(self) -> bool:
        """Whether the difference is within rounding; LLaVA sometimes truncates."""
        return self.ours is not None and abs(self.ours - self.published) < 0.1


def llava_selfcheck(folder: Path) -> list[Check]:
    """Score each benchmark whose files `folder` has: LLaVA's `playground/data/eval`, from its eval.zip."""
    checks = [_check(folder, config, answers) for config, answers in CASES]
    if all(check.ours is None for check in checks):
        wanted = ", ".join(str(check.absent) for check in checks)
        raise UserError(f"{folder}: no benchmark has all of its files here; missing: {wanted}")
    return checks


def _check(folder: Path, kind: type[LayoutConfig], answers: str) -> Check:
    name, config = kind.type_name(), kind(data=folder)
    path = _or_gzipped(folder / answers)
    parts = ["questions.dev" if kind is MMBenchConfig else "questions"]
    parts += ["labels"] if kind in (PopeConfig, MMEConfig) else []
    needed = [config.file(*part.split(".")) for part in parts] + [path]
    if absent := [file for file in needed if not file.exists()]:
        return Check(name, LLAVA_13B[name], absent=absent[0])
    if kind is MMVetConfig:
        report = evaluate(MMVetConfig(data=folder, grades=path), None)
    else:
        report = evaluate(config, read_answers(path))
    return Check(name, LLAVA_13B[name], report.headline.value * (1 if report.headline.points else 100))


def _or_gzipped(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    return path if path.exists() or not packed.exists() else packed


def line(check: Check) -> str:
    """One check as text."""
    if check.ours is None:
        return f"{check.benchmark:<10} published {check.published:>7}  not checked: {check.absent} does not exist"
    verdict = "agrees" if check.agrees else "DIFFERS"
    return f"{check.benchmark:<10} published {check.published:>7}  here {check.ours:>8.2f}  {verdict}"
