"""Concatenated images cut into images, however their bytes arrive, and streams that are none."""

import io
import logging
import os
import threading
import time

import pytest
from PIL import Image

from vlm_core.errors import BadSample, UserError
from vlm_core.io.frames import image_stream
from vlm_core.io.frames.image_stream import ImageStream
from vlm_core.io.frames.pipe import pipe_frames


def encoded(form, level=0, progressive=False, restart_marker_blocks=0, compress_level=-1):
    """The file of a small grey gradient, `level` brighter; the other options are Pillow's for JPEG or PNG."""
    gradient = Image.radial_gradient("L").resize((40, 30)).point(lambda v: min(255, v + level))
    options = {
        "JPEG": {"progressive": progressive, "restart_marker_blocks": restart_marker_blocks},
        "PNG": {"compress_level": compress_level},
    }
    file = io.BytesIO()
    gradient.convert("RGB").save(file, form, **options[form])
    return file.getvalue()


def with_thumbnail():
    """A JPEG whose EXIF holds another JPEG, end marker and all."""
    inner, outer = encoded("JPEG", 90), encoded("JPEG", 10)
    body = b"Exif\0\0" + inner
    return outer[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + outer[2:]


IMAGES = [
    encoded("JPEG"),
    encoded("PNG", 20),
    encoded("JPEG", 30, progressive=True),
    with_thumbnail(),
    encoded("JPEG", 50, restart_marker_blocks=1),
    encoded("PNG", 60, compress_level=0),
]


def cut(data, size):
    """The images of a stream that arrives in pieces."""
    pieces = iter([data[i : i + size] for i in range(0, len(data), size)])
    return list(ImageStream(lambda: next(pieces, b"")))


@pytest.mark.parametrize("size", [1, 2, 7, 100, 10**6])
def test_images_are_cut_where_they_end(size):
    assert cut(b"".join(IMAGES), size) == IMAGES


def test_headers_between_images_are_left_out():
    """Multipart MJPEG, as cameras serve it."""
    head = b"\r\n--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\n"
    assert cut(head + head.join(IMAGES) + b"\r\n--frame--\r\n", 50) == IMAGES


def test_an_empty_stream_has_no_images():
    assert cut(b"", 1) == []


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("kept", [9, 40, -1])
def test_an_end_in_the_middle_of_a_frame_is_told_after_the_frames_before(form, kept):
    last, images = encoded(form)[:kept], []
    stream = ImageStream(iter([IMAGES[0] + IMAGES[1] + last, b""]).__next__)
    with pytest.raises(UserError, match=f"ended in the middle of frame 3, after {len(last)} of its bytes"):
        images.extend(stream)
    assert images == [] or images == IMAGES[:2]
    assert stream.frames == 2


def test_a_frame_that_is_cut_short_costs_that_frame_alone():
    broken = IMAGES[0][:-20]
    assert cut(IMAGES[2] + broken + IMAGES[3], 64) == [IMAGES[2], broken, IMAGES[3]]


def test_a_frame_that_is_cut_inside_a_header_costs_two_at_most():
    images = cut(IMAGES[2] + IMAGES[0][:180] + IMAGES[3] + IMAGES[4], 64)
    assert (images[0], images[-1]) == (IMAGES[2], IMAGES[4])


def test_a_png_with_a_damaged_length_costs_that_frame_alone():
    broken = bytearray(IMAGES[1])
    broken[8:12] = b"\xff\xff\xff\xff"
    images = cut(IMAGES[0] + bytes(broken) + IMAGES[2], 64)
    assert (images[0], images[-1]) == (IMAGES[0], IMAGES[2])


@pytest.mark.parametrize("data", [b"\0" * 2**21, b"\0\0\0 ftypisom" + b"\1" * 2**21])
def test_what_is_no_stream_of_images_ends_soon(data):
    pieces = iter([data[i : i + 2**16] for i in range(0, len(data), 2**16)])
    with pytest.raises(UserError, match="no JPEG or PNG image in 1 MiB after frame 0; expected concatenated"):
        list(ImageStream(lambda: next(pieces)))
    assert next(pieces), "the rest is not read"


def test_a_short_stream_without_images():
    with pytest.raises(UserError, match=r"^no JPEG or PNG image in the stream$"):
        cut(b"hello", 2)


@pytest.mark.parametrize("begin", [IMAGES[0][:-300], b"\x89PNG\r\n\x1a\n\0\0\0\4abcd"])
def test_a_frame_is_bounded(monkeypatch, begin):
    monkeypatch.setattr(image_stream, "MAX_FRAME", 10_000)
    endless = iter([begin, *[b"\0" * 1000] * 100])
    with pytest.raises(UserError, match=r"more than|in the middle|no JPEG"):
        list(ImageStream(lambda: next(endless, b"")))
    assert len(list(endless)) > 80 or begin.startswith(b"\x89")


@pytest.fixture
def pipe():
    """A descriptor to read from, and what writes to it."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as file:
        yield reading, file
    os.close(reading)


def test_frames_of_a_pipe_have_the_times_of_a_rate(pipe):
    reading, file = pipe
    threading.Thread(target=lambda: (file.write(b"".join(IMAGES)), file.close())).start()
    source = pipe_frames(reading, rate=4)
    frames = list(source.items)
    assert [time for time, _ in frames] == [0, 0.25, 0.5, 0.75, 1, 1.25]
    assert not source.live
    assert all(source.load(data).size == (40, 30) for _, data in frames)


def test_without_a_rate_times_are_those_of_arrival(pipe):
    reading, file = pipe

    def write():
        for pause, image in zip([0.2, 0.3, 0.3], IMAGES, strict=False):
            time.sleep(pause)
            file.write(image)
        file.close()

    threading.Thread(target=write).start()
    source = pipe_frames(reading)
    times = [time for time, _ in source.items]
    assert source.live
    assert times[0] == 0
    assert 0.2 < times[1] < times[2] < 5


def test_a_stall_is_told_once_and_its_end(pipe, caplog):
    reading, file = pipe

    def write():
        file.write(IMAGES[0] + IMAGES[1][:50])
        time.sleep(0.8)
        file.write(IMAGES[1][50:])
        file.close()

    threading.Thread(target=write).start()
    with caplog.at_level(logging.INFO, logger="vlm_core"):
        assert [data for _, data in pipe_frames(reading, stall=0.2).items] == IMAGES[:2]
    assert [r.getMessage() for r in caplog.records] == [
        "standard input: no data for 0.2 s, in the middle of frame 2",
        "standard input: data comes again",
    ]


def test_a_closed_source_ends_while_it_waits(pipe):
    reading, file = pipe
    file.write(IMAGES[0])
    source = pipe_frames(reading)
    next(source.items)
    threading.Timer(0.2, source.close).start()
    assert list(source.items) == []


def test_a_damaged_frame_is_named():
    source = pipe_frames(0)
    with pytest.raises(BadSample, match="a frame of the stream: cannot decode this image"):
        source.load(IMAGES[0][:-200])
