"""Files that are no usable video: a `BadSample` with a reason; what is missing of the others is counted."""

import os
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from videos import FASTSTART, MATRICES, decoded, sound_only, turned, video, with_duration

from vlm_core.errors import BadSample, UserError
from vlm_core.io.images import load_image
from vlm_core.io.video import container, decode, frame_reader, mp4_checks
from vlm_core.io.video.decode import sample_video
from vlm_core.io.video.header import frame_count, read_header
from vlm_core.io.video.sources import Sampling, StoredImage, VideoSource

EIGHT = Sampling(frames=8)


def stored(data, name="clip.mp4"):
    return StoredImage(name, lambda: data)


def reason(data, sampling=EIGHT):
    with pytest.raises(BadSample) as error:
        sample_video(stored(data), sampling, np.asarray)
    assert str(error.value).startswith("clip.mp4: ")
    return error.value.reason, str(error.value)


def picture_file(kind):
    from io import BytesIO

    file = BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_an_image_is_no_video(kind):
    assert reason(picture_file(kind)) == (
        "not-a-video",
        f"clip.mp4: an image ({kind}), not a video; give it as an image",
    )


@pytest.mark.parametrize("kind", ["mp4", "webm", "avi", "mpegts", "mov"])
def test_a_video_is_no_image(kind, tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(video(kind))
    with pytest.raises(BadSample, match=r"picture.jpg: a video \(.*\), not an image; give it as a video"):
        load_image(path)
    assert sample_video(path, EIGHT, np.asarray).missing == 0, "a name says nothing of the content"


def test_playlists_and_other_files_are_refused():
    for text, name in {
        "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n": "HLS",
        "ffconcat version 1.0\nfile /etc/passwd\n": "FFmpeg",
        "<?xml version='1.0'?><MPD/>": "DASH",
        "v=0\nm=video 5000 RTP/AVP 96\n": "SDP",
        "some text": "first bytes",
    }.items():
        why, message = reason(text.encode())
        assert why == "not-a-video"
        assert name in message
    assert reason(b"")[0] == "empty"
    assert reason(b"OggS" + bytes(100))[0] == "not-a-video"


def test_sound_only_and_no_frames():
    assert reason(sound_only()) == ("no-video", "clip.mp4: this file has sound but no video")
    assert reason(video(frames=0)) == ("no-video", "clip.mp4: this file has no video")
    assert reason(video("webm", frames=0)) == ("no-frames", "clip.mp4: it ends before its first frame")


@pytest.mark.parametrize("turn", ["90", "180", "270", "mirrored"])
def test_rotation_is_applied(turn):
    data = video()
    plain = sample_video(stored(data), EIGHT, np.asarray).frames
    shown = sample_video(stored(turned(data, MATRICES[turn])), EIGHT, np.asarray).frames
    for before, after in zip(plain, shown, strict=True):
        clockwise = {"90": 3, "180": 2, "270": 1}
        expected = before[:, ::-1] if turn == "mirrored" else np.rot90(before, clockwise[turn])
        assert np.array_equal(after, expected)
    assert reason(turned(data, MATRICES["45"]))[0] == "variant"


@pytest.mark.parametrize("kind", ["webm", "mp4"])
def test_truncated_in_the_middle(kind):
    """The header tells of 30 frames: those that are cut off are counted, too many make a bad row."""
    data = video(kind, frames=60, gop=5, options=None if kind == "webm" else FASTSTART, sound=False)
    if kind == "mp4":
        data = with_length_of(video(frames=60, gop=5), data)
    sampled = sample_video(stored(data[: len(data) * 6 // 10]), EIGHT, np.asarray)
    everything = decoded(data)
    assert 1 <= sampled.missing <= 4
    good = sampled.frames[: -sampled.missing]
    assert all(any(np.array_equal(frame, other) for other in everything.values()) for frame in good)
    assert all(np.array_equal(frame, sampled.frames[-1]) for frame in sampled.frames[-sampled.missing :])
    assert reason(data[: len(data) * 3 // 10])[0] in ("truncated", "damaged", "no-frames")


def with_length_of(plain, fragmented):
    """The plain file with its header first, as `-movflags faststart` writes it."""
    del fragmented
    moov = plain.index(b"moov") - 4
    mdat = plain.index(b"mdat") - 4
    head = plain[:mdat]
    header, shift = bytearray(plain[moov:]), len(plain) - moov
    at = header.index(b"stco") + 4
    (count,) = struct.unpack_from(">I", header, at + 4)
    for k in range(count):
        (offset,) = struct.unpack_from(">I", header, at + 8 + 4 * k)
        struct.pack_into(">I", header, at + 8 + 4 * k, offset + shift)
    return head + bytes(header) + plain[mdat:moov]


def test_a_length_of_10_hours_that_is_a_lie():
    data = with_duration(video(frames=10), 36_000)
    started = time.process_time()
    assert float(read_header(stored(data)).last) == 0.9, "the table of samples counts"
    assert sample_video(stored(data), EIGHT, np.asarray).missing == 0
    assert time.process_time() - started < 5
    webm = bytearray(video("webm", frames=10))
    at = webm.index(b"DURATION") + len(b"DURATION")
    at = webm.index(b"00:00:01", at)
    webm[at : at + 8] = b"10:00:00"
    why, message = reason(bytes(webm))
    assert why == "truncated"
    assert "7 of 8 frames are missing or damaged: of 35999.9 s the last good frame is at 0.9 s" in message
    webm[at : at + 8] = b"30:00:00"
    assert reason(bytes(webm))[0] == "too-costly"


def test_a_long_video_is_sought(monkeypatch):
    """10 hours with a keyframe a minute: 8 frames decode a few packets, not 36,000."""
    times = [1000 * k for k in range(3600)]
    data = video("matroska", frames=3600, times=times, gop=60, size=(32, 32))
    decodes = []
    work = frame_reader.FrameReader._add_work
    monkeypatch.setattr(
        frame_reader.FrameReader, "_add_work", lambda self, f: decodes.append(1) or work(self, f)
    )
    sampled = sample_video(stored(data), EIGHT, np.asarray)
    assert sampled.missing == 0
    assert len(decodes) < 8 * 70
    everything = decoded(data)
    for frame, at in zip(sampled.frames, sampled.times, strict=True):
        assert np.array_equal(frame, everything[max(t for t in everything if t <= at + 0.0005)])


def test_limits(monkeypatch):
    data = video()
    monkeypatch.setattr(container, "MAX_PIXELS", 64 * 48 - 1)
    assert reason(data)[0] in ("too-many-pixels", "damaged")
    monkeypatch.undo()
    monkeypatch.setattr(frame_reader, "MAX_WORK", 64 * 48 * 5)
    assert reason(data)[0] == "too-costly"
    monkeypatch.undo()
    monkeypatch.setattr(mp4_checks, "MAX_SAMPLES", 29)
    assert reason(data)[0] == "too-costly"
    monkeypatch.undo()
    monkeypatch.setattr(decode, "MAX_ASPECT", 1)
    assert reason(data)[0] == "too-narrow"


def test_tables_that_lie_about_their_size():
    data = video()
    at = data.index(b"stsz") + 4
    many = data[: at + 4] + struct.pack(">II", 1, 2**31) + data[at + 12 :]
    why, message = reason(many)
    assert why == "too-costly"
    assert "2147483648 samples" in message


def test_frames_in_another_file_are_not_read(tmp_path):
    """A data reference to another file: refused, and FFmpeg would not open it."""
    other = tmp_path / "other.mp4"
    other.write_bytes(video())
    data = video("mov")
    at = data.index(b"dref") + 4
    outside = bytearray(data)
    outside[at + 19] = 0  # the flag "in this file"
    why, message = reason(bytes(outside))
    assert why == "variant"
    assert "another file" in message


_WATCH = """
import ctypes, os, sys
import numpy as np
from vlm_core.errors import BadSample
from vlm_core.io.video.sources import Sampling
from vlm_core.io.video import container
from vlm_core.io.video.decode import sample_video
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init1(os.O_NONBLOCK)
assert libc.inotify_add_watch(watch, os.fsencode(sys.argv[1]), 0x20) > 0  # IN_OPEN
container.kind_of = lambda head: "MP4"  # as if the first bytes were a video's
container.check_mp4 = lambda file, size: None
for demuxer in ("concat", "hls", "dash", "sdp", "mov"):
    container.CONTAINERS = {"MP4": demuxer}
    try:
        sample_video(sys.argv[2], Sampling(frames=2), np.asarray)
    except (BadSample, ValueError) as error:
        print(demuxer, type(error).__name__)
try:
    print(os.read(watch, 4096))
except BlockingIOError:
    print("nothing was opened")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile {}\n", "#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"]
)
def test_ffmpeg_opens_nothing_else(tmp_path, text):
    """Even if a playlist were taken for a video and given to its own demuxer, no other file is opened."""
    decoy = tmp_path / "decoys" / "decoy.mp4"
    decoy.parent.mkdir()
    decoy.write_bytes(video())
    playlist = tmp_path / "list.mp4"
    playlist.write_text(text.format(decoy))
    run = subprocess.run(
        [sys.executable, "-c", _WATCH, str(decoy.parent), str(playlist)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert run.stdout.splitlines()[-1] == "nothing was opened", run.stdout


def test_without_pyav_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"reading videos needs PyAV: pip install 'vlm-core\[video\]'"):
        sample_video(stored(video.__doc__.encode()), EIGHT, np.asarray)


def test_missing_files_and_folders(tmp_path):
    for path, why in ((tmp_path / "none.mp4", "missing"), (tmp_path, "not-a-file")):
        with pytest.raises(BadSample) as error:
            sample_video(path, EIGHT, np.asarray)
        assert error.value.reason == why


def test_the_first_frame_stands_for_a_video():
    data = video()
    first = np.asarray(load_image(VideoSource(stored(data))))
    assert np.array_equal(first, sample_video(stored(data), EIGHT, np.asarray).frames[0])
    assert frame_count(stored(data), Sampling(fps=2)) == 6
