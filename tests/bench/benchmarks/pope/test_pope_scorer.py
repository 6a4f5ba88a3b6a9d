"""POPE's rule, quirk by quirk."""

import pytest

from vlm_bench.benchmarks.pope import benchmark as pope
from vlm_bench.benchmarks.pope.scoring import SplitScore, reads_as_no, score_split, unclear
from vlm_core.benchmark import Headline

PARSING = [  # text, read as no, counted as unclear
    ("No", True, False),
    ("no", True, False),
    ("No.", True, False),
    ("No, there is not.", True, False),
    ("There is not a dog", True, False),
    ("It is not. Yes", True, False),
    ("Yes and no", True, False),
    ("Yes, No", True, False),
    ("N,o", True, False),  # commas vanish before the text is split
    ("Yes", False, False),
    ("yes.", False, False),
    ("YES", False, False),
    ("Yes. No.", False, False),  # only what stands before the first period is read
    ("NO", False, True),
    ("Nope", False, True),
    ("None", False, True),
    ("Not really", False, True),  # `Not` is not among the words
    ("There isn't", False, True),
    ("No!", False, True),  # only commas and periods are cut off
    ("(no)", False, True),
    ("No\nbecause", False, True),  # split at spaces, not at line ends
    ("", False, True),
    (".No", False, True),
    ("No,yes", False, False),  # becomes the single word Noyes
    ("maybe", False, True),
    ("Yesterday", False, True),
]


@pytest.mark.parametrize(("text", "no", "doubtful"), PARSING, ids=[repr(row[0]) for row in PARSING])
def test_parsing(text: str, no: bool, doubtful: bool) -> None:
    assert reads_as_no(text) is no
    assert unclear(text) is doubtful


def test_figures_by_hand() -> None:
    pairs = [("Yes", True)] * 3 + [("No", True)] + [("Yes", False)] + [("No", False)] * 4 + [("hm", False)]
    score = score_split(pairs)
    assert (score.tp, score.fn, score.fp, score.tn, score.unclear) == (3, 1, 2, 4, 1)
    assert score.total == 10
    assert score.accuracy == pytest.approx(0.7)
    assert score.precision == pytest.approx(3 / 5)
    assert score.recall == pytest.approx(3 / 4)
    assert score.f1 == pytest.approx(2 * 0.6 * 0.75 / (0.6 + 0.75))
    assert score.yes_ratio == pytest.approx(0.5)
    assert score.undefined == ()


def test_division_by_zero_is_zero_and_flagged() -> None:
    all_no = score_split([("No", True), ("No", False)])
    assert (all_no.precision, all_no.recall, all_no.f1, all_no.yes_ratio) == (0.0, 0.0, 0.0, 0.0)
    assert all_no.undefined == ("precision", "f1")
    nothing_there = score_split([("No", False), ("Yes", False)])
    assert nothing_there.undefined == ("recall", "f1")
    assert SplitScore(0, 0, 0, 0).accuracy == 0.0


def test_the_figure_is_the_mean_over_splits_not_pooled() -> None:
    good, bad = SplitScore(tp=10, fp=0, tn=10, fn=0), SplitScore(tp=1, fp=1, tn=0, fn=98)
    unit: dict[str, tuple[float, float]] = {}
    pope._add(unit, "random", good)
    pope._add(unit, "popular", bad)
    assert Headline("mean F1", {"an image": unit}).value == pytest.approx((1 + 2 / 101) / 2)
