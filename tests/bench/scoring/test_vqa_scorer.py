"""VQA-v2 and TextVQA: normalisation and soft accuracy, quirk by quirk."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_bench.benchmarks.textvqa.scoring import ConvertedReferences, converted_accuracy
from vlm_bench.benchmarks.vqa_v2.scoring import References, soft_accuracy
from vlm_bench.scoring.vqa import CONTRACTIONS, convert, leave_one_out, normalise, one_line

NORMAL = [  # text, the official evaluation's form
    ("Red", "red"),
    ("the red Dog", "red dog"),
    ("an apple a day", "apple day"),
    ("None", "0"),
    ("zero one two", "0 1 2"),
    ("ten", "10"),
    ("eleven", "eleven"),
    ("dont", "don't"),
    ("couldntve", "couldntve"),  # both apostrophes are missing: no key for that
    ("couldnt've", "couldn't've"),
    ("couldn'tve", "couldn't've"),
    ("somebody'd", "somebodyd"),  # the entry that works backwards
    ("red,white", "red white"),  # a mark without a space beside it leaves one
    ("red, white", "red white"),  # with one, it goes
    ("red/ blue/green", "red bluegreen"),  # ... everywhere
    ("1,000 red-ish", "1000 redish"),  # a comma between digits drops every mark
    ("a-b", "b"),  # becomes "a b", and "a" is an article
    ("3.", "3"),  # the look-behind that should keep this period does nothing
    ("2.5", "2.5"),
    ("$.50", "$.50"),
    ("e.g. this", "eg this"),
    ("it's", "it's"),
    ("what?", "what"),
    ("what ?", "what"),
    ("." * 40 + "x", "." * 8 + "x"),  # only 32 periods go
    ("  two   dogs ", "2 dogs"),
    ("", ""),
]
CONVERTED = [  # text, what LLaVA submits
    ("McDonald's", "mcdonald 's"),
    ("it's", "it 's"),
    ("red,white", "redwhite"),
    ("1,000", "1000"),
    ("What?", "what"),
    ("The Dog.", "dog"),
    ("two\tdogs\nhere", "2 dogs here"),
    ("  Yes ", "yes"),
]


@pytest.mark.parametrize(("text", "normal"), NORMAL, ids=[repr(row[0])[:30] for row in NORMAL])
def test_normal_form(text: str, normal: str) -> None:
    assert normalise(one_line(text)) == normal


@pytest.mark.parametrize(("text", "submitted"), CONVERTED, ids=[repr(row[0]) for row in CONVERTED])
def test_conversion(text: str, submitted: str) -> None:
    assert convert(text) == submitted


def test_the_contractions_are_the_published_ones() -> None:
    """All 114 that the scripts can reach and that change something; the hash is of the official table."""
    text = "\n".join(f"{key}={value}" for key, value in sorted(CONTRACTIONS.items()))
    assert len(CONTRACTIONS) == 114
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "1eae2a36d9cbbad196900a48c741daf645c1d1c87b92d811db221c69a7ca56ea"
    )


@pytest.mark.parametrize(("matches", "credit"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_credit_of_ten_references(matches: int, credit: float) -> None:
    by_hand = [
        min(1, (matches - (left_out < matches)) / 3) for left_out in range(10)
    ]  # each reference left out once
    assert leave_one_out(matches) == pytest.approx(sum(by_hand) / 10) == pytest.approx(credit)


CREDITS = [  # answer, references, VQA-v2's credit, the same with `always_normalise`
    ("red", ["red"] * 10, 1, 1),
    ("red", ["red"] * 2 + ["blue"] * 8, 0.6, 0.6),
    ("The red.", ["red"] * 3 + ["blue"] * 7, 0.9, 0.9),
    ("yes", ["Yes"] * 10, 0, 1),  # ten equal references are not normalised
    ("Yes", ["Yes"] * 10, 1, 1),
    ("yes", ["Yes"] * 9 + ["yes"], 1, 1),
    ("two", ["2"] * 10, 0, 1),
    ("red\n", ["red"] * 10, 1, 1),  # line ends and outer spaces go in any case
    ("red", ["red "] * 5 + ["red"] * 5, 1, 1),  # and are gone before references are compared
    ("mcdonald 's", ["mcdonald's"] * 9 + ["kfc"], 0, 0),  # what LLaVA's conversion does to a right answer
    ("", ["red"] * 10, 0, 0),
]


@pytest.mark.parametrize(("answer", "references", "official", "normalized"), CREDITS)
def test_soft_accuracy(answer: str, references: list[str], official: float, normalized: float) -> None:
    assert soft_accuracy(answer, references) == pytest.approx(official)
    assert soft_accuracy(answer, references, always_normalise=True) == pytest.approx(normalized)


def test_textvqa_converts_both_sides_always() -> None:
    assert converted_accuracy("yes", ["Yes"] * 10) == 1
    assert converted_accuracy("McDonald's", ["mcdonald's"] * 9 + ["kfc"]) == 1
    assert converted_accuracy("red white", ["red,white"] * 10) == 0  # "redwhite" there
    assert converted_accuracy("dakota", ["Dakota"] * 2 + ["digital"] * 8) == pytest.approx(0.6)


_ODD = (
    "Red",
    "the red, dog",
    "dont",
    "two",
    "2",
    "1,000",
    "a.b.",
    "a/b",
    "St. Louis's",
    " yes ",
    "Yes",
    "",
    "?",
)


@given(st.lists(st.one_of(st.sampled_from(_ODD), st.text(max_size=6)), min_size=10, max_size=10), st.data())
def test_references_once_give_the_definitions_credit(texts: list[str], data: st.DataObject) -> None:
    answer = data.draw(st.one_of(st.sampled_from([*texts, *_ODD]), st.text(max_size=6)))
    for normalized in (False, True):
        references = References(texts, always_normalise=normalized)
        assert references.credit(answer) == soft_accuracy(answer, texts, always_normalise=normalized)
    assert ConvertedReferences(texts).credit(answer) == converted_accuracy(answer, texts)


def test_equal_references_are_normalised_once() -> None:
    seen: list[str] = []

    def normal(text: str) -> str:
        seen.append(text)
        return normalise(text)

    references = References(["Red"] * 9 + ["blue"], normal)
    for _ in range(5):
        references.credit("red")
    assert seen == ["Red", "blue", *["red"] * 5]
