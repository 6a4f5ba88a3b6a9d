"""The frames of a sampled video are those of decoding everything, in every container, at every sampling."""

import random
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from videos import CODECS, decoded, trimmed, video

from vlm_core.io.video import header
from vlm_core.io.video.container import opened
from vlm_core.io.video.decode import sample_video
from vlm_core.io.video.frame_reader import FrameReader
from vlm_core.io.video.header import header_of, read_header
from vlm_core.io.video.sources import Sampling, StoredImage

OPEN_GOP = {"bf": "3", "x264-params": "open-gop=1:keyint=20:min-keyint=20:scenecut=0"}


@cache
def long_video(container):
    """(source, all frames by time) of 150 frames with a keyframe each 40, so that seeking is worth it."""
    data = video(container, frames=150, gop=40, rate=25 if container == "mpeg" else 10)
    return StoredImage(container, lambda: data), decoded(data)


def shown(frames, time, slack=0):
    """The frame shown at a time: the last one before or at it."""
    return frames[max(t for t in frames if t <= time + slack)]


@pytest.mark.parametrize("container", CODECS)
@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_times(container, seed):
    source, frames = long_video(container)
    first, last = min(frames), max(frames)
    rng = random.Random(seed)
    times = [first + (last - first) * Fraction(rng.randrange(10_001), 10_000) for _ in range(12)]
    with opened(source) as opened_video:
        reader = FrameReader(opened_video, header_of(opened_video))
        for time in times:
            found = reader.at(time)
            assert not found.missing
            slack = Fraction(1, 2000) if container in ("webm", "matroska") else 0  # times in milliseconds
            expected = shown(frames, time, slack)
            assert np.array_equal(found.frame.to_ndarray(format="rgb24"), expected), float(time)


@pytest.mark.parametrize("container", CODECS)
def test_linspace_of_frame_numbers(container):
    """LLaVA-Video's rule: `np.linspace(0, total - 1, count, dtype=int)`."""
    source, frames = long_video(container)
    everything = [frames[time] for time in sorted(frames)]
    for count in (1, 2, 5, 8, 32, 150, 200):
        expected = np.linspace(0, len(everything) - 1, count, dtype=int)
        sampled = sample_video(source, Sampling(frames=count), np.asarray)
        assert sampled.missing == 0
        assert len(sampled.frames) == count
        for frame, number in zip(sampled.frames, expected, strict=True):
            assert np.array_equal(frame, everything[number]), (count, number)


@pytest.mark.parametrize("container", ["mp4", "webm"])
def test_linspace_of_times_in_milliseconds(container):
    """30 frames a second in milliseconds, as in Matroska and FLV, and in an MP4 made of these without re-encoding."""
    times = [round(k * 1000 / 30) for k in range(60)]
    data = video(container, {"webm": "libvpx"}.get(container, "mpeg4"), frames=60, times=times)
    sampled = sample_video(StoredImage("x", lambda: data), Sampling(frames=60), np.asarray)
    for frame, (_, expected) in zip(sampled.frames, sorted(decoded(data).items()), strict=True):
        assert np.array_equal(frame, expected)


def test_open_groups_of_pictures():
    """Frames that are shown before a keyframe, but come after it, need the keyframe before."""
    data = video("mp4", frames=200, codec_options=OPEN_GOP)
    source, frames = StoredImage("mp4", lambda: data), decoded(data)
    for time in (Fraction(k, 10) for k in (15, 199, 59, 38, 39, 40, 179, 20, 19, 18)):
        with opened(source) as opened_video:
            found = FrameReader(opened_video, header_of(opened_video)).at(time)
            assert np.array_equal(found.frame.to_ndarray(format="rgb24"), shown(frames, time)), float(time)


@given(
    gaps=st.lists(st.integers(1, 3000), min_size=1, max_size=30),
    sampling=st.one_of(
        st.builds(Sampling, frames=st.integers(1, 12)),
        st.builds(Sampling, fps=st.sampled_from([0.1, 0.5, 1, 2, 7.5]), max_frames=st.integers(1, 12)),
    ),
)
@settings(max_examples=25, deadline=None)
def test_variable_frame_rate(gaps, sampling):
    """The frame at each time is the one that a player shows, however long it is shown."""
    times = [0, *np.cumsum(gaps).tolist()]
    data = video("webm", "libvpx", frames=len(times), times=times)
    sampled = sample_video(StoredImage("x", lambda: data), sampling, np.asarray)
    frames = decoded(data)
    for frame, time in zip(sampled.frames, sampled.times, strict=True):
        assert np.array_equal(frame, shown(frames, Fraction(time), Fraction(1, 2000))), time


@pytest.mark.parametrize("gaps", [[100_000, *[100] * 10], [*[100] * 10, 100_000], [*[33, 34] * 10]])
@pytest.mark.parametrize("container", ["mp4", "mov", "webm", "matroska"])
def test_the_last_frame_of_a_variable_rate(container, gaps):
    """The last of several frames is the last one of the video, not the one at its mean distance from the end."""
    times = [0, *np.cumsum(gaps).tolist()]
    codec = {"webm": "libvpx"}.get(container, "mpeg4")
    data = video(container, codec, frames=len(times), times=times)
    sampled = sample_video(StoredImage("x", lambda: data), Sampling(frames=3), np.asarray)
    assert sampled.missing == 0
    assert sampled.times[-1] == pytest.approx(times[-1] / 1000, abs=1e-3)
    frames = decoded(data)
    assert np.array_equal(sampled.frames[-1], frames[max(frames)])


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_a_cut_between_keyframes(codec):
    """`ffmpeg -ss 0.5 -c copy` and phones cut by an edit list: the keyframe before is decoded, and not shown."""
    data = trimmed(video("mp4", codec, frames=60, gop=10), 0.5, 4.0)
    frames = decoded(data)
    assert (min(frames), len(frames)) == (0, 40)
    sampled = sample_video(StoredImage("x", lambda: data), Sampling(frames=14), np.asarray)
    assert sampled.missing == 0
    for frame, time in zip(sampled.frames, np.linspace(0, 39, 14, dtype=int), strict=True):
        assert np.array_equal(frame, frames[Fraction(int(time), 10)])


def test_a_last_keyframe_that_is_far_from_the_end_costs_no_scan(monkeypatch):
    """One keyframe in the whole file, which is more than is scanned: the end is estimated, and still there."""
    times = [0, *(5000 + 100 * k for k in range(30))]
    data = video("mp4", "mpeg4", frames=31, times=times, gop=600)
    source = StoredImage("x", lambda: data)
    assert float(read_header(source).last) == 7.9
    monkeypatch.setattr(header, "SCAN_BYTES", 2000)
    assert 7.4 < float(read_header(source).last) < 7.9
    assert sample_video(source, Sampling(frames=4), np.asarray).missing == 0
