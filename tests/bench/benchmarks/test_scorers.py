"""GQA, MME, MMBench and MM-Vet: official and normalized reading of answers; POPE and ScienceQA: normalized rules."""

from typing import Any

import pytest

from vlm_bench.benchmarks.gqa import scoring as gqa
from vlm_bench.benchmarks.mm_vet import scoring as mm_vet
from vlm_bench.benchmarks.mmbench import scoring as mmbench
from vlm_bench.benchmarks.mme import scoring as mme
from vlm_bench.benchmarks.pope import scoring as pope
from vlm_bench.scoring import letters

GQA = [  # text, official, normalized
    ("Dog", "dog", "dog"),
    ("dog.", "dog", "dog"),
    ("dog...", "dog", "dog"),
    ("dog. ", "dog. ", "dog"),  # nothing is stripped but periods at the very end
    (" dog", " dog", "dog"),
    ("a dog", "a dog", "dog"),
    ("The", "the", "the"),
    ("two", "two", "two"),
    ("", "", ""),
]
MME = [  # text, official, normalized
    ("Yes", "yes", "yes"),
    ("NO", "no", "no"),
    ("yes, it is", "yes", "yes"),
    ("Eyes", "yes", "other"),  # among the first four letters
    ("Not sure", "no", "other"),
    ("None", "no", "other"),
    ("North", "no", "other"),
    ("I know", "other", "other"),
    ("Y", "other", "other"),
    ("The answer is yes", "other", "yes"),
    (" yes", "yes", "yes"),
    ("   yes", "other", "yes"),
    ("\nNo\n", "no", "no"),
    ("no yes", "no", "other"),
    ("", "other", "other"),
]
OPTIONS = {"A": "a cat", "B": "a dog", "C": "1,000", "D": "none of them"}
MMBENCH = [  # text, letter, how it was found
    ("B", "B", "letter"),
    ("(B)", "B", "letter"),
    ("B. a dog", "B", "letter"),
    ("Answer:B", "B", "letter"),
    ("The answer is *C*", "C", "letter"),
    ("A dog is there", "A", "letter"),  # the article is the only option's letter
    ("A or B", None, "unread"),
    ("A or B: a dog", "B", "text"),
    ("b", None, "unread"),
    ("It is a Dog", "B", "text"),  # whatever the case
    ("It is A DOG", "A", "letter"),
    ("a cat and a dog", None, "unread"),
    ("exactly 1,000", "C", "text"),
    ("Z", None, "refused"),
    ("Z, a dog", None, "refused"),
    ("Cannot determine the answer, maybe B", None, "refused"),
    ("Failed to obtain answer via API: B", None, "unread"),
    ("E", None, "unread"),
    ("", None, "unread"),
]
GRADES = [
    ("1.0", 1.0), ("0", 0.0), ("0.5 because", 0.5), ("1.1", None), ("-0.1", None), ("nan", None), ("good", None),
    (" 0.5", None), ("", None),
]  # fmt: skip
POPE = [
    ("Yes", "yes"), ("NO", "no"), ("Nope", "no"), ("There isn't one", "no"), ("Not really", "no"), ("(no)", "no"),
    ("No\nbecause", "no"), ("Well. Yes", "yes"), ("maybe", "other"), ("Yesterday", "other"), ("", "other"),
]  # fmt: skip
SCIENCEQA = [
    ("B", "B"),
    ("b", "B"),
    ("(B)", "B"),
    ("B.", "B"),
    ("B. red", "B"),
    ("B: red", "B"),
    (" B\n", "B"),
    ("(c) red", "C"),
    ("The answer is D", "D"),
    ("The answer is D.", "D"),
    ("answer is A, answer is B", None),
    ("a dog", None),
    ("Because", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "official", "normalized"), GQA)
def test_gqa(text: str, official: str, normalized: str) -> None:
    assert gqa.parse(text) == official
    assert gqa.parse_normalized(text) == normalized


def test_gqa_steps_leave_out_the_last_question() -> None:
    program = [
        ("select", "dog (1)"),
        ("exist", "?"),
        ("query", "name"),
        ("query", "color"),
        ("choose name", ""),
    ]
    assert gqa.steps([{"operation": o, "argument": a} for o, a in program]) == 2
    assert gqa.is_open("query")
    assert not any(map(gqa.is_open, ("verify", "logical", "choose", "compare")))


@pytest.mark.parametrize(("text", "official", "normalized"), MME)
def test_mme(text: str, official: str, normalized: str) -> None:
    assert mme.parse(text) == official
    assert mme.parse_normalized(text) == normalized


def test_mme_points() -> None:
    task = mme.score([(True, True), (True, False), (False, False), (True, True)])
    assert (task.right, task.answers, task.both, task.pairs) == (5, 8, 2, 4)
    assert task.points == pytest.approx(62.5 + 50)
    assert mme.score([]).points == 0
    assert len(mme.PERCEPTION) == 10
    assert len(mme.COGNITION) == 4


@pytest.mark.parametrize(("text", "letter", "how"), MMBENCH)
def test_mmbench(text: str, letter: str | None, how: str) -> None:
    assert mmbench.parse(text, OPTIONS) == (letter, how)


def test_circular_needs_every_rotation() -> None:
    hits = {3: True, 1_000_003: True, 4: True, 1_000_004: True, 2_000_004: False, 5: False}
    assert mmbench.circular(hits) == {3: True, 4: False, 5: False}


@pytest.mark.parametrize(("reply", "grade"), GRADES)
def test_grades(reply: str, grade: float | None) -> None:
    assert mm_vet.parse(reply) == grade


def test_what_the_judge_is_asked() -> None:
    prompt = mm_vet.judge_prompt("Examples.\n", "What is x?", "-1<AND>-5", "x = 3")
    assert prompt == "Examples.\n\nWhat is x? | -1 <AND> -5 | x = 3 | "
    assert mm_vet.judge_prompt("", "q", "a<OR>b", "c", again=True).endswith(
        "q | a <OR> b | c | \nPredict the correctness of the answer (digit): "
    )
    assert mm_vet.by_run({"a": [1.0, 0.5], "b": [0.0, 0.5]}) == [0.5, 0.5]
    assert mm_vet.spread([0.2, 0.4]) == pytest.approx(0.1)


@pytest.mark.parametrize(("text", "expected"), POPE)
def test_pope_sane(text: str, expected: str) -> None:
    assert pope.first_yes_or_no(text) == expected


def test_what_says_neither_is_sanely_wrong() -> None:
    pairs: Any = [("maybe", True), ("maybe", False), ("NO", False)]
    official, normalized = pope.score_split(pairs), pope.score_split(pairs, normalized=True)
    assert (official.tp, official.fp, official.tn, official.fn) == (1, 2, 0, 0)
    assert (normalized.tp, normalized.fp, normalized.tn, normalized.fn) == (0, 1, 1, 1)
    assert normalized.unclear == 2


@pytest.mark.parametrize(("text", "letter"), SCIENCEQA)
def test_scienceqa_sane(text: str, letter: str | None) -> None:
    assert letters.parse_normalized(text) == letter
