"""MMBench, English and Chinese: dev is scored here, test on a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vlm_bench.benchmarks.layout import ON_A_SERVER, File, LayoutConfig, file_field
from vlm_bench.benchmarks.mmbench.files import COLUMNS, MMBenchRow, images, read_tsv
from vlm_bench.benchmarks.mmbench.scoring import PASS, How, circular, parse
from vlm_bench.files.json_files import unpacked
from vlm_bench.files.questions import LETTER
from vlm_bench.scoring.accuracy import accuracy_row
from vlm_core.benchmark import UNIFORM, Benchmark, Chance, Headline, Question, Score, Verdict, mean_headline
from vlm_core.errors import UserError


@dataclass(frozen=True)
class Edition:
    """A language of MMBench: LLaVA's answer instruction, and releases by (rows, questions)."""

    name: str
    instruction: str
    releases: Mapping[tuple[int, int], str]


ENGLISH = Edition(
    "mmbench", LETTER, {(4377, 1176): "20230712", (4329, 1164): "v1.0", (6666, 1784): "20230712"}
)
CHINESE = Edition("mmbench-cn", "请直接回答选项字母。", {(4329, 1164): "20231003"})

_DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")


class _MMBenchConfig(LayoutConfig):
    edition: ClassVar[Edition]
    split: Literal["dev", "test"] = Field(default="dev", description="which questions")
    questions: File | None = file_field("the official TSV file, with questions, images and (dev) answers")

    def needed(self) -> list[Path]:
        return [self.file("questions", self.split)]

    def build(self) -> Benchmark:
        """Read the TSV file."""
        return MMBench(self.file("questions", self.split), self.split, self.edition)


class MMBenchConfig(_MMBenchConfig):
    """MMBench: dev, scored here by CircularEval, or test, scored on a server"""

    layout: ClassVar = {
        "questions.dev": "mmbench/mmbench_dev_20230712.tsv",
        "questions.test": "mmbench/mmbench_test_20230712.tsv",
    }
    edition: ClassVar = ENGLISH
    type: Literal["mmbench"] = "mmbench"


class MMBenchCNConfig(_MMBenchConfig):
    """MMBench-CN: MMBench in Chinese, dev or test"""

    layout: ClassVar = {
        "questions.dev": "mmbench_cn/mmbench_dev_cn_20231003.tsv",
        "questions.test": "mmbench_cn/mmbench_test_cn_20231003.tsv",
    }
    edition: ClassVar = CHINESE
    type: Literal["mmbench-cn"] = "mmbench-cn"


class MMBench(Benchmark):
    """The headline is CircularEval: a question is right if each of its rotations is."""

    max_new_tokens = 1024

    def __init__(self, path: Path, split: Literal["dev", "test"], edition: Edition = ENGLISH) -> None:
        self.split, self.edition = split, edition
        self.unpacked = unpacked(path)  # removed with this benchmark
        stored = Path(self.unpacked.name) if self.unpacked else path
        self.rows = {str(row.index): row for row in read_tsv(path, stored)}
        self.scored_by = "here" if split == "dev" else "server"
        pixels = images(path, list(self.rows.values()))
        self.rotations = _rotations(path, self.rows)
        if split == "dev":
            _check_answers(path, self.rows)
        release = edition.releases.get((len(self.rows), len(self.rotations)), "unknown")
        super().__init__(
            f"llava-1.5/{edition.name}-{split}@{release} circular, exact-matching",
            (
                Question(key, row.prompt(edition.instruction), pixels[row.index], tuple(row.options.values()))
                for key, row in self.rows.items()
            ),
            files={path.name: path},
            warnings=_warnings(list(self.rows.values()), split),
        )

    def score(self, answers: Mapping[str, str]) -> Score:
        if self.split == "test":
            raise UserError(
                f"the answers of MMBench test are not public: `vlm-bench submit {self.edition.name} --split test` "
                "writes the file for its server; --split dev is scored here"
            )
        complete = self._complete(answers)
        parsed = {key: parse(answers[key], self.rows[key].options) for key in complete}
        hits = {
            self.rows[key].index: letter == self.rows[key].value("answer")
            for key, (letter, _) in parsed.items()
        }
        questions = circular(hits)
        vanilla = {index: hit for index, hit in hits.items() if index < PASS}
        return Score(
            self._headline(questions),
            {"CircularEval": accuracy_row(questions.values()), "vanilla": accuracy_row(vanilla.values())}
            | self._by_category(questions),
            _statistics(parsed),
            unscored=len(answers) - len(complete),
        )

    def chance(self, keys: Sequence[str]) -> Chance:
        """A uniform guess of each rotation on its own: 1 / options ** rotations for each question."""
        if self.split == "test":
            return ON_A_SERVER
        complete = dict.fromkeys(self.rows[key].index % PASS for key in self._complete(keys))
        rotations = {index: self.rotations[index] for index in complete}
        return Chance(
            UNIFORM, self._headline({i: prod(map(self.guess_credit, keys)) for i, keys in rotations.items()})
        )

    def _headline(self, questions: Mapping[int, float]) -> Headline:
        headline = mean_headline("CircularEval accuracy", {str(i): value for i, value in questions.items()})
        return replace(headline, members={str(index): self.rotations[index] for index in questions})

    def verdict(self, key: str, text: str) -> Verdict | None:
        row = self.rows[key]
        if (right := row.value("answer")) is None:
            return None
        letter, _ = parse(text, row.options)
        return Verdict(letter == right, right, letter or "")

    def _complete(self, answers: Iterable[str]) -> list[str]:
        """Answers to questions of which every rotation is answered."""
        answers = dict.fromkeys(answers)
        incomplete = {row.index % PASS for key, row in self.rows.items() if key not in answers}
        return [key for key in answers if self.rows[key].index % PASS not in incomplete]

    def _by_category(self, questions: Mapping[int, bool]) -> dict[str, dict[str, float | int]]:
        groups: dict[str, dict[int, bool]] = {}
        for index, hit in questions.items():
            row = self.rows.get(str(index))
            for column in ("l2-category", "category"):
                if row is not None and (name := row.value(column)):
                    groups.setdefault(f"{column}: {name}", {})[index] = hit
        return {
            name: accuracy_row(groups[name].values())
            for name in sorted(groups, key=lambda n: (n[0] == "c", n))
        }

    def submission(self, answers: Mapping[str, str]) -> dict[str, bytes]:
        """The table for MMBench's server: the columns that LLaVA's script keeps, and the answers."""
        from vlm_bench.files.xlsx import workbook

        kept_columns = [column for column in next(iter(self.rows.values())).cells if column not in _DROPPED]
        columns = [*kept_columns[:6], "prediction", *kept_columns[6:]]
        table = [_submitted(row, columns, answers.get(key, "")) for key, row in self.rows.items()]
        return {f"{self.edition.name}_{self.split}.xlsx": workbook(columns, table)}


def _submitted(row: MMBenchRow, columns: list[str], answer: str) -> list[str | int | None]:
    known = {"index": row.index, "prediction": answer}
    return [known[name] if name in known else row.value(name) for name in columns]


def _rotations(path: Path, rows: Mapping[str, MMBenchRow]) -> dict[int, list[str]]:
    """The rows of each question. Missing rows would raise the figure, so they are an error."""
    rotations: dict[int, list[str]] = {}
    for key, row in rows.items():
        rotations.setdefault(row.index % PASS, []).append(key)
    incomplete = [
        i for i, keys in rotations.items() if {int(key) // PASS for key in keys} != set(range(len(keys)))
    ]
    if incomplete:
        raise UserError(
            f"{path}: {len(incomplete)} of {len(rotations)} questions lack a rotation, first index {incomplete[0]}; "
            "is the file cut off or a part of another?"
        )
    return rotations


def _warnings(rows: list[MMBenchRow], split: str) -> list[str]:
    """Content of the file that this protocol ignores or does not know."""
    cells = rows[0].cells
    other = Counter(name for row in rows if (name := row.value("split")) not in (None, split))
    counts = {
        'with an option such as "None", which ends their options': sum(row.cut for row in rows),
        "with an option E, which is not asked": sum(row.value("E") is not None for row in rows),
    } | {f"of split {name!r}, where {split!r} is expected": count for name, count in other.items()}
    unknown = [name for name in cells if name not in COLUMNS]
    return (
        [f"{count} of {len(rows)} rows {what}" for what, count in counts.items() if count]
        + [f"columns that are not known here: {', '.join(unknown)}"] * bool(unknown)
        + ["no column 'hint': questions are asked without hints"] * ("hint" not in cells)
    )


def _check_answers(path: Path, rows: Mapping[str, MMBenchRow]) -> None:
    if "answer" not in next(iter(rows.values())).cells:
        raise UserError(f"{path}: no column 'answer'; is this the test file?")
    bad = [key for key, row in rows.items() if row.value("answer") not in row.options]
    if bad:
        raise UserError(
            f"{path}: {len(bad)} of {len(rows)} rows without a letter of theirs as answer, first index {bad[0]}; "
            "is this the test file?"
        )


def _statistics(parsed: Mapping[str, tuple[str | None, How]]) -> dict[str, int]:
    ways = [how for _, how in parsed.values()]
    return {
        "read from an option's text": ways.count("text"),
        "refused (wrong)": ways.count("refused"),
        "no option found (wrong)": ways.count("unread"),
    }
