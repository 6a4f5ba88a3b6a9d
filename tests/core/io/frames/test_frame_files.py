"""Frames from folders and animations, at a limited rate and prefetched."""

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from videos import decoded as decoded_video
from videos import video

from vlm_core.errors import BadSample, UserError
from vlm_core.io.frames import prefetch
from vlm_core.io.frames.camera import camera_frames, is_device
from vlm_core.io.frames.files import file_frames
from vlm_core.io.frames.prefetch import FramePrefetcher
from vlm_core.io.frames.source import FrameSource, limit_fps


def level(image):
    """The grey value of an image of one."""
    return image.convert("L").getpixel((0, 0))


def grey(value):
    return Image.new("RGB", (8, 6), (value, value, value))


@pytest.fixture
def folder(tmp_path):
    """Three images whose names are in order of numbers, not of characters, and another file."""
    for number, value in [(2, 20), (10, 100), (1, 10)]:
        grey(value).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_images_of_a_folder_are_in_order_of_their_numbers(folder):
    source = file_frames(folder)
    assert [(time, level(source.load(item))) for time, item in source.items] == [(0, 10), (1, 20), (2, 100)]
    assert [time for time, _ in file_frames(folder, rate=4).items] == [0, 0.25, 0.5]
    assert not source.live


def test_a_damaged_image_of_a_folder_is_that_frames_error(folder):
    Image.effect_noise((40, 40), 50).save(folder / "frame3.png")
    (folder / "frame3.png").write_bytes((folder / "frame3.png").read_bytes()[:500])
    source = file_frames(folder)
    items = [item for _, item in source.items]
    with pytest.raises(BadSample, match=r"frame3\.png: cannot decode"):
        source.load(items[2])
    assert level(source.load(items[3])) == 100


@pytest.mark.parametrize("kind", ["mp4", "webm", "avi", "mpegts"])
def test_every_frame_of_a_video_has_its_time(tmp_path, kind):
    """Also of one named as another kind of file: what it is shows its content."""
    data = video(kind, frames=12)
    (tmp_path / "clip.gif").write_bytes(data)
    source = file_frames(tmp_path / "clip.gif")
    everything = decoded_video(data)
    frames = [(time, np.asarray(source.load(frame))) for time, frame in source.items]
    assert [time for time, _ in frames] == pytest.approx([k / 10 for k in range(12)])
    for (_, frame), moment in zip(frames, sorted(everything), strict=True):
        assert np.array_equal(frame, everything[moment])
    with pytest.raises(UserError, match="has times of its own; --rate is for folders"):
        file_frames(tmp_path / "clip.gif", rate=2)


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
def test_an_animation_has_its_own_times(tmp_path, form):
    path = tmp_path / f"a.{form}"
    images = [grey(value) for value in (0, 100, 200)]
    options = {"lossless": True} if form == "webp" else {}
    images[0].save(path, save_all=True, append_images=images[1:], duration=[500, 250, 40], **options)
    source = file_frames(path)
    frames = [(time, source.load(image)) for time, image in source.items]
    assert [time for time, _ in frames] == [0, 0.5, 0.75]
    assert [level(image) for _, image in frames] == pytest.approx([0, 100, 200], abs=2)
    assert all(image.mode == "RGB" for _, image in frames)


def test_a_frame_without_a_duration_lasts_a_tenth_of_a_second(tmp_path):
    images = [grey(value) for value in (0, 100, 200)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:])
    assert [time for time, _ in file_frames(tmp_path / "a.gif").items] == pytest.approx([0, 0.1, 0.2])


def test_a_cut_animation_ends_with_an_error(tmp_path):
    images = [Image.effect_noise((64, 64), 50 + i).convert("RGB") for i in range(4)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=100)
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(data[: len(data) * 5 // 8])
    frames = []
    with pytest.raises(BadSample, match=r"cut\.gif: cannot decode this image"):
        frames.extend(time for time, _ in file_frames(tmp_path / "cut.gif").items)


def test_what_has_no_frames(tmp_path, folder):
    grey(3).save(tmp_path / "one.png")
    (tmp_path / "empty").mkdir()
    for path, message in [
        (tmp_path / "one.png", r"one\.png: a single image, not a video or an animation"),
        (tmp_path / "empty", "empty: no image in this folder"),
        (tmp_path / "none", "no such file"),
        (folder / "notes.txt", "not a video of a kind that is read"),
    ]:
        with pytest.raises(UserError, match=message):
            file_frames(path)
    grey(3).save(tmp_path / "a.gif", save_all=True, append_images=[grey(9)])
    with pytest.raises(UserError, match="has times of its own; --rate is for folders and standard input"):
        file_frames(tmp_path / "a.gif", rate=2)


def test_thinning_keeps_the_first_frame_of_each_period():
    items = [(i / 30, i) for i in range(90)]
    assert [i for _, i in limit_fps(items, 1)] == [0, 30, 60]
    assert [i for _, i in limit_fps(items, 30)] == list(range(90))
    assert [i for _, i in limit_fps(items, 1000)] == list(range(90))
    assert [i for _, i in limit_fps([(0.9, "a"), (1.1, "b"), (1.9, "c"), (2.0, "d")], 1)] == ["a", "b", "d"]


def test_a_source_that_is_read_slowly_waits(monkeypatch):
    produced = []

    def items():
        for i in range(40):
            produced.append(i)
            yield float(i), i

    reader = FramePrefetcher(FrameSource("numbers", items(), lambda i: i))
    time.sleep(0.2)
    assert len(produced) <= prefetch.QUEUE_SIZE + 1
    assert [i for _, i in reader] == list(range(40))
    assert reader.dropped == 0


def test_a_live_source_drops_the_oldest_that_waits():
    done = threading.Event()

    def items():
        yield from ((float(i), i) for i in range(40))
        done.set()

    reader = FramePrefetcher(FrameSource("numbers", items(), lambda i: i, live=True))
    assert done.wait(10)
    frames = [i for _, i in reader]
    assert frames == list(range(40 - prefetch.QUEUE_SIZE, 40))
    assert reader.dropped == 40 - prefetch.QUEUE_SIZE


def test_an_error_comes_after_the_frames_before_it():
    def items():
        yield 0.0, "a"
        raise UserError("the stream ended")

    frames = []
    with pytest.raises(UserError, match="the stream ended"):
        frames.extend(FramePrefetcher(FrameSource("letters", items(), lambda i: i)))
    assert frames == [(0.0, "a")]


def test_a_closed_reader_ends():
    reader = FramePrefetcher(FrameSource("numbers", ((float(i), i) for i in range(10**9)), lambda i: i))
    frames = iter(reader)
    next(frames)
    reader.close()
    assert list(frames) == []
    reader._thread.join(5)
    assert not reader._thread.is_alive()


def test_a_device_that_is_no_camera_is_refused(tmp_path, monkeypatch):
    assert is_device(Path("/dev/null"))
    assert not is_device(tmp_path)
    assert not is_device(tmp_path / "none")
    with pytest.raises(UserError, match="/dev/null: not a camera that can be read"):
        camera_frames(Path("/dev/null"))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"needs PyAV: pip install .vlm-core"):
        camera_frames(Path("/dev/null"))
