"""The interval of one score, McNemar's exact test and what a baseline is compared on."""

import random
from itertools import product
from math import comb

import pytest

from vlm_bench.report.baselines import Baseline, compared, not_above, read_baselines
from vlm_bench.report.paired import difference, mcnemar, score_interval
from vlm_core.benchmark import Headline, mean_headline


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (5, 1), (3, 3), (9, 2), (0, 10)])
def test_mcnemar_counts_all_splits(better: int, worse: int) -> None:
    """Every assignment of the discordant units to the two sides is equally likely."""
    n = better + worse
    extreme = [sides for sides in product((0, 1), repeat=n) if abs(2 * sum(sides) - n) >= abs(better - worse)]
    assert mcnemar(better, worse) == pytest.approx(len(extreme) / 2**n)


def test_mcnemar_of_many_units() -> None:
    tail = sum(comb(4000, i) for i in range(1901))
    assert mcnemar(1900, 2100) == pytest.approx(2 * tail / 2**4000)


def test_the_interval_of_a_score() -> None:
    """Near that of the binomial distribution; of equal units nothing varies."""
    units = mean_headline("accuracy", {str(n): float(n < 300) for n in range(400)})
    low, high = score_interval(units)
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert (low, high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.1 * half)
    assert score_interval(mean_headline("accuracy", {"1": 1.0, "2": 1.0})) == (1, 1)


def test_only_right_or_wrong_units_have_a_p() -> None:
    binary = mean_headline("accuracy", {"1": 1.0, "2": 0.0, "3": 1.0})
    soft = mean_headline("accuracy", {"1": 0.3, "2": 0.0, "3": 1.0})
    assert difference(mean_headline("accuracy", dict.fromkeys("123", 0.0)), binary).p == mcnemar(2, 0)
    assert difference(binary, soft).p is None
    assert difference(soft, binary).p is None
    pairs = Headline("a", {"1": {"x": (1, 1), "y": (0, 1)}})
    assert difference(pairs, pairs).p is None


def test_a_baseline_is_compared_on_common_equal_units() -> None:
    """A unit whose questions differ, or that one side lacks, is left out and counted."""
    model = mean_headline("accuracy", {"1": 1.0, "2": 1.0, "3": 0.0, "4": 1.0})
    other = mean_headline("accuracy", {"2": 0.0, "3": 0.0, "4": 0.0, "5": 1.0})
    digests = {key: key for key in "1234"}, {key: key if key != "4" else "changed" for key in "2345"}
    baseline = compared("chance", "how", model, other, digests)
    assert baseline.difference is not None
    assert (baseline.difference.units, baseline.difference.left_out) == (2, 3)
    assert (baseline.difference.first, baseline.difference.second) == (0, 0.5)
    nothing = compared("chance", "how", model, mean_headline("accuracy", {"9": 1.0}))
    assert nothing.difference is None
    assert "no question in common" in nothing.how


def test_not_above_needs_a_clear_difference() -> None:
    rng = random.Random(0)
    base = {str(n): float(rng.random() < 0.5) for n in range(200)}
    better = {key: 1.0 if n < 150 else value for n, (key, value) in enumerate(base.items())}
    slightly = {key: 1.0 if n < 2 else value for n, (key, value) in enumerate(base.items())}
    low, model = mean_headline("accuracy", base), mean_headline("accuracy", better)
    clear = compared("chance", "", model, low)
    doubtful = compared("images shuffled", "", mean_headline("accuracy", slightly), low)
    below = compared("question alone", "", low, model)
    assert not_above([clear, doubtful, below, Baseline("none", "why")]) == [
        "images shuffled",
        "question alone",
    ]


def test_saved_and_read_again() -> None:
    model = mean_headline("accuracy", {"1": 1.0, "2": 0.0})
    baselines = [compared("chance", "guess", model, model), Baseline("question alone", "not graded")]
    assert read_baselines({"baselines": [b.as_dict() for b in baselines]}) == baselines
    assert read_baselines({}) == []
