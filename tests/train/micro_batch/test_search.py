"""The search for the largest micro-batch, on devices whose memory is a formula."""

import pytest

from vlm_train.micro_batch.search import GROWTH, Trial, divisors, predicted, search


class Device:
    """Peak memory of a step as a function of its samples; more than `capacity` runs out of memory."""

    def __init__(self, peak, resident=10, capacity=100):
        self.peak, self.resident, self.capacity = peak, resident, capacity
        self.tried = []

    def __call__(self, size):
        self.tried.append(size)
        peak = self.peak(size)
        return None if peak > self.capacity else Trial(size, peak, self.resident)


def affine(fixed, sample):
    return lambda size: fixed + sample * size


@pytest.mark.parametrize("share", [1, 2, 12, 16, 97, 128, 360])
def test_divisors(share):
    assert divisors(share) == [d for d in range(1, share + 1) if share % d == 0]


@pytest.mark.parametrize("share", [1, 2, 3, 7, 12, 13, 16, 97, 128, 360, 1024])
@pytest.mark.parametrize("fixed", [10, 40, 80])
@pytest.mark.parametrize("sample", [0.05, 0.7, 3, 12])
def test_the_largest_divisor_that_fits_without_ever_running_out(share, fixed, sample):
    """A step that frees nothing but its samples is predicted exactly: no trial is above the limit."""
    device = Device(affine(fixed, sample), resident=fixed, capacity=92)
    found = search(divisors(share), 92, device)
    assert found.size == max(d for d in divisors(share) if fixed + sample * d <= 92)
    assert all(b <= GROWTH * a for a, b in zip(device.tried, device.tried[1:], strict=False))
    assert len(device.tried) <= 12


@pytest.mark.parametrize("share", [8, 96, 128])
def test_temporary_memory_makes_the_first_guess_careful_only(share):
    """One trial can't tell what is temporary from what belongs to the sample; the second tells."""
    device = Device(affine(30, 2), resident=15, capacity=92)
    found = search(divisors(share), 92, device)
    assert found.size == max(d for d in divisors(share) if 30 + 2 * d <= 92)


def test_a_peak_that_bends_upwards_is_found_out_and_taken_back():
    """Above 16 samples another place of the step is the peak: prediction fails, and trials decide."""
    device = Device(lambda size: max(20 + size, 5 * size - 60), capacity=100)
    found = search(divisors(128), 92, device)
    assert found.size == 16
    assert device.tried[-1] in (32, 64)


def test_one_sample_that_does_not_fit():
    assert search([1, 2], 92, Device(affine(90, 3))) == (None, [Trial(1, 93, 10)])
    assert search([1, 2], 92, Device(affine(200, 3))) == (None, [])


def test_running_out_of_memory_lowers_the_ceiling():
    device = Device(affine(10, 0.1), resident=10, capacity=18)
    found = search(divisors(128), 92, device)
    assert found.size == 64
    assert 10 + 0.1 * 128 > 18


def test_predictions():
    one = [Trial(1, 30, 20)]
    assert predicted(one, 4) == 60
    two = [*one, Trial(4, 36, 20)]
    assert predicted(two, 16) == 60
    assert predicted([*two, Trial(16, 100, 20)], 10) == 68
