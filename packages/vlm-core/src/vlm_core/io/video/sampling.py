"""The times at which frames of a video are read.

`frames: N` is the rule of LLaVA-NeXT-Video and LLaVA-Video, `np.linspace(0, T - 1, N, dtype=int)` of T frames, in
times instead of frame numbers: at a constant rate the frames are the same, at a variable one they are evenly spaced
in time. `fps: X` is LLaVA-Video's, too: every 1/X seconds from the first frame on and, if that is more than
`max_frames`, as many evenly spaced ones.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor

from vlm_core.io.sources import Sampling


def sample_times(first: Fraction, last: Fraction, sampling: Sampling) -> list[Fraction]:
    """Seconds, ascending, from `first` to at most `last`, the times of the video's first and last frame."""
    count = sample_count(first, last, sampling)
    if sampling.fps is not None and count == _regular(first, last, sampling.fps):
        return [first + k / _exact(sampling.fps) for k in range(count)]
    if count == 1:
        return [first]
    return [first + (last - first) * k / (count - 1) for k in range(count)]


def sample_count(first: Fraction, last: Fraction, sampling: Sampling) -> int:
    """The number of `sample_times`."""
    if sampling.fps is None:
        return sampling.limit
    return min(_regular(first, last, sampling.fps), sampling.limit)


def _regular(first: Fraction, last: Fraction, fps: float) -> int:
    return floor((last - first) * _exact(fps)) + 1


def _exact(fps: float) -> Fraction:
    """0.1 as 1/10: what was written, not the nearest binary number."""
    return Fraction(str(fps))
