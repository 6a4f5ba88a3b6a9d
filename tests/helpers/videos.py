"""Tiny videos that a test makes with PyAV: numbered frames, at regular or given times."""

import io
import struct
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av")  # the extra `video`

CODECS = {
    "mp4": "libx264",
    "mov": "mpeg4",
    "webm": "libvpx-vp9",
    "matroska": "libx264",
    "avi": "mpeg4",
    "mpegts": "libx264",
    "mpeg": "mpeg2video",
}
"""FFmpeg's names of the containers, and a codec for each."""
FASTSTART = {"movflags": "empty_moov+default_base_moof"}
_ONE = 1 << 16
MATRICES = {
    "90": (0, _ONE, 0, -_ONE, 0, 0, 0, 0, 1 << 30),
    "180": (-_ONE, 0, 0, 0, -_ONE, 0, 0, 0, 1 << 30),
    "270": (0, -_ONE, 0, _ONE, 0, 0, 0, 0, 1 << 30),
    "mirrored": (-_ONE, 0, 0, 0, _ONE, 0, 0, 0, 1 << 30),
    "45": (46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30),
}
"""Display matrices by the degrees that they turn clockwise."""


def picture(number, size=(64, 48)):
    """RGB (height, width, 3) in which every frame differs: a square that moves over noise, redder with time."""
    width, height = size
    image = np.random.default_rng(number).integers(0, 60, (height, width, 3), dtype=np.uint8)
    image[..., 0] += number * 5 % 150
    x = number * 3 % (width - 16)
    image[8:24, x : x + 16] = (250, 250, 40)
    return image


def video(
    container="mp4",
    codec=None,
    frames=30,
    rate=10,
    size=(64, 48),
    times=None,
    gop=10,
    sound=False,
    options=None,
    codec_options=None,
):
    """The bytes of a video with `frames` numbered frames; `times` are theirs in milliseconds, else regular."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec or CODECS[container], rate=rate, options=codec_options or {})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = gop
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        tone = _sound(output) if sound else ()
        output.start_encoding()
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        for packet in tone:
            output.mux(packet)
    return file.getvalue()


def sound_only(container="mp4"):
    """A file with one second of silence and no video."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        for packet in _sound(output):
            output.mux(packet)
    return file.getvalue()


def _sound(output):
    stream = output.add_stream("aac" if output.format.name != "webm" else "libopus", rate=48000)
    stream.layout = "mono"

    def packets():
        for k in range(47):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, k * 1024
            yield stream.encode(frame)
        yield stream.encode()

    return packets()


def turned(data, matrix):
    """An MP4 file with another display matrix of its first track."""
    at = data.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    return data[:at] + struct.pack(">9i", *matrix) + data[at + 36 :]


def with_duration(data, seconds):
    """An MP4 file whose header lies about its length; its frames keep their times."""

    def put(data, box, offset, value):
        at = data.index(box) + 4 + offset
        return data[:at] + struct.pack(">I", value) + data[at + 4 :]

    for box in (b"mvhd", b"mdhd"):
        (scale,) = struct.unpack_from(">I", data, data.index(box) + 4 + 12)
        data = put(data, box, 16, seconds * scale)
    return put(data, b"elst", 8, seconds * 1000)


def trimmed(data, seconds, length):
    """An MP4 file of which an edit list shows `length` seconds from `seconds` on; frames before are decoded, unseen."""
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 4 + 12)[0]
    at = data.index(b"elst") + 4 + 8
    begin = struct.unpack_from(">i", data, at + 4)[0] + round(seconds * scale)
    return data[:at] + struct.pack(">Ii", round(length * 1000), begin) + data[at + 8 :]


def decoded(data):
    """{time: RGB array} of all frames, decoded one after the other by PyAV alone."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        tick = stream.time_base or Fraction(1)
        return {frame.pts * tick: frame.to_ndarray(format="rgb24") for frame in container.decode(stream)}
