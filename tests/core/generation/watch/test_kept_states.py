"""Which states are kept: bounded in number and bytes, the newest all, older ones at distances that grow."""

from itertools import pairwise

import pytest

from vlm_core.errors import UserError
from vlm_core.generation.watch.kept_states import Keep, KeptStates
from vlm_core.io.frames.times import clock, seconds


class Moment:
    def __init__(self, time, nbytes=100):
        self.time, self.nbytes, self.frames = time, nbytes, int(time) + 1


def kept_states(keep, times, nbytes=100):
    """The states that are kept of frames at these times."""
    kept = KeptStates(keep)
    for time in times:
        if kept.is_due(time):
            kept.add(Moment(time, nbytes))
    return kept


def test_the_first_frame_of_each_period():
    assert kept_states(Keep(every=60), [3, 10, 59.9, 61, 119, 120, 400, 401]).times == [3, 61, 120, 400]


def test_periods_that_no_float_is():
    """`0.3 // 0.1` is 2: each frame at 10 a second is the first of its tenth."""
    times = [i / 10 for i in range(50)]
    assert kept_states(Keep(every=0.1, last=60), times).times == times


def test_old_ones_are_thinned_out_and_the_last_are_all_kept():
    """A day of a state each minute, in 20 states."""
    times = kept_states(Keep(every=60, last=10, older=10), range(0, 86400, 60)).times
    assert len(times) == 20
    assert times[-10:] == [86400 - 60 * (10 - i) for i in range(10)]
    assert times[0] == 0
    gaps = [b - a for a, b in pairwise(times[:-9])]
    ages = [86340 - time for time in times[:-10]]
    assert all(gap <= 1.6 * age for gap, age in zip(gaps, ages, strict=True))
    assert gaps[0] > 10 * gaps[-1], "distances grow with age"


@pytest.mark.parametrize("budget", [250, 1000, 1999])
def test_bytes_are_a_limit_of_their_own(budget):
    kept = kept_states(Keep(every=1, last=5, older=100, max_bytes=budget), range(500))
    assert kept.nbytes <= budget < kept.nbytes + 100
    assert kept.times[-1] == 499


def test_states_that_grow_share_the_budget():
    kept = KeptStates(Keep(every=1, last=3, older=10, max_bytes=1000))
    for time in range(60):
        kept.add(Moment(time, 10 * (time + 1)))
        assert kept.nbytes <= 1000
    assert kept.times == [59]


def test_a_state_larger_than_the_budget_is_told_once(caplog):
    kept = kept_states(Keep(every=1, max_bytes=2000), range(5), nbytes=3000)
    assert kept.times == []
    assert [r.getMessage() for r in caplog.records] == [
        "a state takes 3.00 kB, more than the 2.00 kB for kept ones: none is kept"
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "keep: every is 0; expected seconds above 0"),
        ({"every": float("nan")}, "every is nan"),
        ({"every": "60s"}, "every is '60s'"),
        ({"last": 0}, "last is 0; expected a whole number of at least 1"),
        ({"older": -1}, "older is -1"),
        ({"max_bytes": 1.5}, "max_bytes is 1.5"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(UserError, match=message):
        Keep(**settings)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("01:12:00", 4320),
        ("1:12:00.25", 4320.25),
        ("72:00", 4320),
        (" 90 ", 90),
        ("90s", 90),
        ("1.5min", 90),
        ("2h", 7200),
        (0, 0),
        (1.5, 1.5),
        ("100:00:00", 360000),
    ],
)
def test_times_as_people_write_them(written, expected):
    assert seconds(written) == expected


@pytest.mark.parametrize(
    "written",
    [
        "",
        "noon",
        "1:2:3",
        "-5",
        "1:60:0",
        "99:99",
        "0:60",
        "1:60:00",
        "nan",
        "1e9",
        "٣",
        -1,
        float("inf"),
        None,
        "9" * 99,
    ],
)
def test_what_is_no_time(written):
    with pytest.raises(UserError, match="is no time; write 01:12:00"):
        seconds(written)


@pytest.mark.parametrize(
    ("time", "text"),
    [(0, "00:00:00"), (4320, "01:12:00"), (59.999, "00:01:00"), (2.5, "00:00:02.50"), (360000, "100:00:00")],
)
def test_times_are_written_alike(time, text):
    assert clock(time) == text
    assert seconds(text) == pytest.approx(time, abs=0.005)
