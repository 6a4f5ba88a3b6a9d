"""Intervals and paired tests against scipy and against tables of Student's t."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from vlm_train.sweep import statistics

FEW = st.lists(st.floats(0, 100, width=32), min_size=3, max_size=8)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (60, 2.000)]
)
def test_quantiles_of_the_printed_table(degrees, quantile):
    assert statistics.t_quantile(0.975, degrees) == pytest.approx(quantile, abs=5e-4)


@given(x=st.floats(0, 1), a=st.floats(0.5, 60), b=st.floats(0.5, 60))
def test_the_incomplete_beta_function(x, a, b):
    assert statistics.incomplete_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), abs=1e-12)


@given(values=FEW)
def test_the_interval_is_scipys(values):
    spread = max(values) > min(values)
    wanted = stats.t.interval(0.95, len(values) - 1, loc=0, scale=stats.sem(values))[1] if spread else 0.0
    assert statistics.half_width(values) == pytest.approx(wanted, abs=1e-9)


@given(pairs=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=8))
def test_the_paired_test_is_scipys(pairs):
    a, b = ({seed: pair[i] / 10 for seed, pair in enumerate(pairs)} for i in (0, 1))
    test = statistics.paired_test({**a, 99: 1.0}, {**b, 77: 1.0})  # seeds that one alone has don't count
    assert test.n == len(pairs)
    assert test.difference == pytest.approx(sum(x - y for x, y in pairs) / 10 / len(pairs))
    if len({x - y for x, y in pairs}) > 1:
        wanted = stats.ttest_rel(list(a.values()), list(b.values()))
        assert test.p == pytest.approx(wanted.pvalue, abs=1e-9)
        assert test.half_width == pytest.approx(wanted.confidence_interval().high - test.difference, rel=1e-6)


def test_without_any_spread():
    """scipy gives NaN for equal values, and p = 0 for a constant difference, of which two runs are no proof."""
    assert statistics.paired_test({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1
    assert statistics.paired_test({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0}).p is None
    assert statistics.half_width([5.0, 5.0, 5.0]) == 0


def test_one_run_has_no_interval_and_no_test():
    assert statistics.half_width([5.0]) is None
    assert statistics.paired_test({0: 1.0, 1: 2.0}, {1: 1.0, 2: 2.0}) is None


def test_holm():
    """0.01·4, then 0.02·3, then max(0.06, 0.03·2), then max(0.06, 0.04·1); in the order given."""
    assert statistics.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@pytest.mark.parametrize("gain", [0, 1, 3])
def test_equal_differences_are_equal_whatever_their_rounding(gain):
    """Accuracies of counts, in percent: 70.1 - 69.8 and 71.1 - 70.8 differ in the last bits, which are no spread."""
    right = {0: 698, 1: 708, 2: 731}
    a, b = ({seed: 100 * (n + more) / 1000 for seed, n in right.items()} for more in (gain, 0))
    test = statistics.paired_test(a, b)
    assert test is not None
    assert (test.half_width, test.p) == (0.0, None if gain else 1.0)
    two = statistics.paired_test({0: 0.1 + 0.2, 1: 0.3 + 0.2}, {0: 0.2, 1: 0.4})
    assert two is not None
    assert two.p is None
