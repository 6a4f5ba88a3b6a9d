"""Requests at the same time: bounded, each answered once, none begun after the caller has stopped."""

import threading
import time

import pytest

from vlm_core.errors import UserError
from vlm_core.remote import in_parallel


class Work:
    """Squares numbers; `most` is the largest number of calls at the same time."""

    def __init__(self):
        self.lock, self.now, self.most, self.begun = threading.Lock(), 0, 0, []

    def __call__(self, number):
        with self.lock:
            self.now += 1
            self.begun.append(number)
            self.most = max(self.most, self.now)
        time.sleep(0.01 * (number % 3))
        with self.lock:
            self.now -= 1
        if number == 7:
            raise UserError("seven")
        return number * number


@pytest.mark.parametrize("count", [1, 3, 50])
def test_each_item_is_done_once_and_at_most_so_many_at_once(count):
    work = Work()
    results = dict(in_parallel(range(20), work, count))
    assert work.most <= count
    assert count == 1 or work.most > 1
    assert str(results.pop(7)) == "seven"
    assert results == {n: n * n for n in range(20) if n != 7}


def test_items_are_taken_as_they_are_needed():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = in_parallel(items(), lambda n: n, 4)
    next(results)
    results.close()
    assert len(taken) <= 6


def test_nothing_is_begun_after_an_error_that_ends_the_work():
    work = Work()
    for _, result in in_parallel(range(5, 20), work, 1):
        if isinstance(result, UserError):
            break
    time.sleep(0.05)
    assert work.begun == [5, 6, 7]


def test_bugs_are_raised():
    with pytest.raises(ZeroDivisionError):
        list(in_parallel([1, 0], lambda n: 1 / n, 2))


def test_threads_end():
    before = threading.active_count()
    list(in_parallel(range(8), lambda n: n, 4))
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
