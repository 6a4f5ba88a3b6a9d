"""Every frame of a video in order, as decoding the whole file gives them; damaged ones are told apart."""

import io

import av
import numpy as np
import pytest
from PIL import Image
from videos import trimmed, video

from vlm_core.errors import BadSample, UserError
from vlm_core.io.frames.camera import camera_frames
from vlm_core.io.frames.files import file_frames


@pytest.fixture
def path(tmp_path):
    """Writes a video file and returns its path."""

    def write(data, name="video"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def frames_of(path):
    source = file_frames(path)
    return [(time, source.load(item)) for time, item in source.items]


@pytest.mark.parametrize("container", ["mp4", "webm", "matroska", "avi", "mpegts"])
def test_all_frames_are_those_of_decoding_everything(path, container):
    data = video(container, frames=25, rate=10)
    frames = frames_of(path(data))
    with av.open(io.BytesIO(data)) as whole:
        expected = [frame.to_image() for frame in whole.decode(video=0)]
    assert [time for time, _ in frames] == pytest.approx([i / 10 for i in range(25)], abs=1e-3)
    assert len(expected) == 25
    for (_, image), other in zip(frames, expected, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(other))


def test_times_are_those_of_the_frames(path):
    times = [0, 100, 450, 460, 3000]
    assert [round(time * 1000) for time, _ in frames_of(path(video(frames=5, times=times)))] == times


def test_the_first_frames_of_a_cut_between_keyframes_are_good(path):
    assert len(frames_of(path(trimmed(video("mp4", frames=60, gop=10), 0.5, 4.0)))) == 40


def test_the_name_does_not_matter(path):
    assert len(frames_of(path(video(frames=3), "video.jpg"))) == 3


def test_a_damaged_part_is_left_out_until_the_next_keyframe(path):
    """MPEG-4, whose decoder reports what it can't decode."""
    data = bytearray(video(codec="mpeg4", frames=40, gop=10, size=(320, 240)))
    middle = len(data) * 2 // 5
    data[middle : middle + 2000] = bytes(2000)
    source, keyframes, damaged = file_frames(path(bytes(data))), [], []
    for number, (time, item) in enumerate(source.items):
        assert number == round(time * 10)
        keyframes.append(item.frame.key_frame)
        try:
            source.load(item)
        except BadSample:
            damaged.append(number)
    assert len(keyframes) == 40
    assert 1 <= len(damaged) <= 10
    assert damaged == list(range(damaged[0], damaged[-1] + 1))
    assert keyframes[damaged[-1] + 1]
    assert not any(keyframes[i] for i in damaged[1:])


def test_a_video_that_breaks_off_ends_there_and_says_so(path, caplog):
    data = video("matroska", frames=80, rate=10, size=(320, 240))
    assert len(frames_of(path(data))) == 80
    assert not caplog.records
    frames = frames_of(path(data[: len(data) // 2]))
    assert 5 < len(frames) < 60
    (record,) = caplog.records
    last = f"00:00:{frames[-1][0]:05.2f}".removesuffix(".00")
    assert f"the last frame is at {last}, and its header states a length of 00:00:08" in record.getMessage()


def test_a_camera_gives_frames_until_it_is_unplugged(path, monkeypatch):
    """A file stands for the camera: what V4L2 gives is decoded alike."""
    camera, opened = path(video("matroska", frames=12, rate=10)), av.open

    class Unplugged:
        def __init__(self, container):
            self.container = container

        def decode(self, video):
            yield from self.container.decode(video=video)
            raise av.error.OSError(19, "No such device")

        def close(self):
            self.container.close()

    monkeypatch.setattr(av, "open", lambda name, format: Unplugged(opened(name)))
    source, frames = camera_frames(camera), []
    assert source.live
    with pytest.raises(UserError, match=r"the camera has stopped: .*No such device"):
        frames.extend((time, source.load(item)) for time, item in source.items)
    assert [time for time, _ in frames] == pytest.approx([i / 10 for i in range(12)], abs=1e-3)
    assert frames[3][1].mode == "RGB"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"hello" * 100, "not a video of a kind that is read: its first bytes are none of MP4"),
        (b"FLV" + bytes(100), "FLV is none of MP4"),
        (video(frames=3)[:200], "cannot read this video|truncated|no video|damaged|moov"),
    ],
)
def test_what_is_no_video_is_told_before_the_first_frame(path, data, message):
    with pytest.raises(UserError, match=message):
        file_frames(path(data))


def test_a_single_image_is_no_video(path):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    with pytest.raises(UserError, match="a single image, not a video or an animation"):
        file_frames(path(file.getvalue(), "image.mp4"))
