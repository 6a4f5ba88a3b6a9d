"""The score of guessing: figures by hand, and against a simulation that answers at random and scores by the rule."""

import json
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from bench_files import write_jsonl
from layout import everything, png

from vlm_bench import benchmarks
from vlm_bench.benchmarks.mme.scoring import PERCEPTION
from vlm_core.benchmark import UNDECLARED, UNIFORM, Benchmark, Chance, CreditBenchmark, Question

DRAWS = 4000


def of(benchmark: Benchmark) -> tuple[str, float]:
    chance = benchmark.chance(list(benchmark.questions))
    assert chance.headline is not None
    return chance.rule, chance.headline.value


def simulated(benchmark: Benchmark, draws: int = DRAWS) -> tuple[float, float]:
    """(mean, standard error) of the scores of uniform guesses."""
    rng = random.Random(0)
    allowed = {key: list(benchmark.allowed_answers(key)) for key in benchmark.questions}
    scores = [
        benchmark.score({key: rng.choice(texts) for key, texts in allowed.items()}).headline.value
        for _ in range(draws)
    ]
    spread = fmean((score - fmean(scores[:200])) ** 2 for score in scores) ** 0.5
    return fmean(scores), spread / draws**0.5


def check_simulated(benchmark: Benchmark) -> None:
    rule, value = of(benchmark)
    mean, error = simulated(benchmark)
    assert rule == UNIFORM
    assert abs(value - mean) < 5 * error + 1e-12, (value, mean, error)


def pope(folder: Path, labels: dict[str, list[str]]) -> Benchmark:
    """An image per label, `labels` by split."""
    (folder / "coco").mkdir(parents=True)
    for split, words in labels.items():
        rows = [
            {"image": f"{n}.jpg", "text": "Is there a dog?", "label": word} for n, word in enumerate(words)
        ]
        write_jsonl(folder / f"coco/coco_pope_{split}.json", rows)
    return benchmarks.PopeConfig(source="official", questions=folder / "coco", images=folder).build()


def test_pope_always_yes(tmp_path: Path) -> None:
    """F1 66.7 and accuracy 50 on balanced splits; guessing has F1 50, so "yes" is the stronger baseline."""
    benchmark = pope(tmp_path, dict.fromkeys(("random", "popular", "adversarial"), ["yes", "no"] * 20))
    rule, value = of(benchmark)
    assert rule == "always 'yes', the best constant answer"
    assert value == pytest.approx(2 / 3)
    rows = benchmark.score(dict.fromkeys(benchmark.questions, "yes")).rows
    assert {row["accuracy"] for row in rows.values()} == {0.5}
    mean, error = simulated(benchmark, 500)
    assert mean == pytest.approx(0.49, abs=5 * error + 0.01)


def test_pope_of_another_balance(tmp_path: Path) -> None:
    """2p / (1 + p) for each split; a split without a positive question counts 0."""
    labels = {"random": ["yes"], "popular": ["yes", "no", "no"], "adversarial": ["no"]}
    assert of(pope(tmp_path, labels))[1] == pytest.approx((1 + 0.5 + 0) / 3)


def test_mme(tmp_path: Path) -> None:
    """A guess: 50 + 25 a task. Always yes: 50 + 0."""
    benchmark = benchmarks.MMEConfig(data=everything(tmp_path)).build()
    assert of(benchmark)[1] == pytest.approx(10 * 75)
    yes = benchmark.score(dict.fromkeys(benchmark.questions, "yes"))
    for task in PERCEPTION:
        assert (yes.rows[task]["accuracy"], yes.rows[task]["accuracy+"]) == (0.5, 0)
    check_simulated(benchmark)


def scienceqa(folder: Path, counts: list[int]) -> Benchmark:
    """A question per entry, with that many options; the last one has no image."""
    rows: list[dict[str, Any]] = []
    for n, count in enumerate(counts):
        options = "\n".join(f"{'ABCDE'[i]}. option {i}" for i in range(count))
        image = {"image": f"{n}.png"} if n < len(counts) - 1 else {}
        turns = [{"from": "human", "value": f"Which?\n{options}"}, {"from": "gpt", "value": "A"}]
        rows.append({"id": str(n), "conversations": turns, **image})
    path = folder / "questions.json"
    path.write_text(json.dumps(rows))
    return benchmarks.ScienceQAConfig(questions=path, images=folder).build()


def test_scienceqa_is_the_mean_of_one_over_options(tmp_path: Path) -> None:
    benchmark = scienceqa(tmp_path, [2, 3, 4, 5, 2, 5])
    assert of(benchmark)[1] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 1 / 5 + 1 / 2) / 5)
    check_simulated(benchmark)


def mmbench(folder: Path, rotations: dict[int, int]) -> Benchmark:
    """Questions of four options by index, each with a number of rotations."""
    import base64

    image = base64.b64encode(png()).decode()
    lines = ["index\tquestion\tA\tB\tC\tD\tanswer\tcategory\timage\tl2-category\tsplit"]
    for index, count in rotations.items():
        for turn in range(count):
            cells = [f"o{(i + turn) % 4}" for i in range(4)]
            answer = "ABCD"[-turn % 4]
            row = [str(turn * 1_000_000 + index), "What?", *cells, answer, "c", image, "l", "dev"]
            lines.append("\t".join(row))
    path = folder / "questions.tsv"
    path.write_text("\n".join(lines) + "\n")
    return benchmarks.MMBenchConfig(questions=path).build()


def test_mmbench_is_circular(tmp_path: Path) -> None:
    assert of(mmbench(tmp_path, {1: 4}))[1] == pytest.approx((1 / 4) ** 4)
    benchmark = mmbench(tmp_path, {1: 1, 2: 2, 3: 3})
    assert of(benchmark)[1] == pytest.approx((1 / 4 + 1 / 16 + 1 / 64) / 3)
    check_simulated(benchmark)


def test_open_questions_have_the_best_constant_answer(tmp_path: Path) -> None:
    """No other reference answer has a higher score as answer to all questions."""
    data = everything(tmp_path)
    for config, texts in (
        (benchmarks.GQAConfig(data=data), ["dog", "red", "yes"]),
        (benchmarks.TextVQAConfig(data=data), ["dakota", "red", "blue"]),
        (benchmarks.VQAv2Config(data=data, split="val"), ["yes", "2", "two", "red", "blue"]),
    ):
        benchmark = config.build()
        rule, value = of(benchmark)
        assert rule.startswith("always '")
        assert value == max(
            benchmark.score(dict.fromkeys(benchmark.questions, text)).headline.value for text in texts
        )


def test_no_chance_without_labels_or_with_a_judge(tmp_path: Path) -> None:
    data = everything(tmp_path)
    for config, reason in (
        (benchmarks.VQAv2Config(data=data), "on a server"),
        (benchmarks.MMVetConfig(data=data), "a judge grades free text"),
    ):
        benchmark = config.build()
        chance = benchmark.chance(list(benchmark.questions))
        assert chance.headline is None
        assert reason in chance.rule


class Letters(CreditBenchmark):
    """Two questions with options, right is B."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        super().__init__("letters", [Question(key, "Which?", choices=choices) for key in "12"])

    def credit(self, key: str, text: str) -> float:
        return float(text == "B")


def test_the_default_of_third_parties() -> None:
    """Options give a uniform guess; open questions without known right answers must declare their chance."""
    assert of(Letters(("x", "y", "z"))) == (UNIFORM, pytest.approx(1 / 3))
    assert Letters(()).chance(["1", "2"]) == Chance(UNDECLARED)


REFERENCES = [
    "unanswerable", "Coke", "coke", "the dog", "dog", "McDonald's", "mcdonald 's", "No", "no", "2", "two", "dont",
    "don't", "grey.", "",
]  # fmt: skip


@pytest.mark.parametrize("answer_format", ["llava", "raw"])
@pytest.mark.parametrize("strictness", ["official", "normalized"])
def test_vizwiz_by_trying_every_reference(answer_format: Any, strictness: Any, tmp_path: Path) -> None:
    """References are compared as they are, so the most frequent one may be an answer that never matches."""
    rng = random.Random(0)
    for n in range(25):
        rows = [
            {
                "image": f"{n}_{k}.jpg",
                "question": "What?",
                "answers": [{"answer": text} for text in rng.choices(rng.sample(REFERENCES, 4), k=10)],
                "answer_type": "other",
                "answerable": 1,
            }
            for k in range(3)
        ]
        path = tmp_path / "val.json"
        path.write_text(json.dumps(rows))
        benchmark = benchmarks.VizWizConfig(
            questions=path, images=tmp_path, answer_format=answer_format, strictness=strictness
        ).build()
        scores = [
            benchmark.score(dict.fromkeys(benchmark.questions, text)).headline.value for text in REFERENCES
        ]
        assert of(benchmark)[1] == pytest.approx(max(scores))
