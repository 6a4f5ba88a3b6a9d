"""Frames have the colours that were encoded, whatever YUV matrix and range a video has."""

import io

import numpy as np
import pytest
from videos import av

from vlm_core.io.video.decode import rgb_image, sample_video
from vlm_core.io.video.sources import Sampling, StoredImage

WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""The shares of red and blue in the luma, by H.273's number of the matrix; 2 is "not stated"."""
COLOURS = (255, 0, 0), (0, 200, 0), (30, 60, 200), (255, 255, 255), (0, 0, 0)
LIMITED, FULL = 1, 2


def yuv(rgb, matrix, colour_range, bits):
    """The definition in ITU-R BT.601, BT.709 and BT.2020, for `bits` a sample."""
    red, green, blue = (x / 255 for x in rgb)
    of_red, of_blue = WEIGHTS[matrix]
    y = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    u, v = (blue - y) / (2 - 2 * of_blue), (red - y) / (2 - 2 * of_red)
    most, middle, one = 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 8)
    if colour_range == FULL:
        return [min(most, round(x)) for x in (y * most, u * most + middle, v * most + middle)]
    return [round(x * one) for x in (219 * y + 16, 224 * u + 128, 224 * v + 128)]


def flat_frame(form, rgb, matrix, colour_range):
    """A frame of one colour; a matrix of 2 is BT.601, not stated."""
    frame, bits = av.VideoFrame(64, 64, form), 10 if form.endswith("10le") else 8
    for plane, value in zip(
        frame.planes, yuv(rgb, 5 if matrix == 2 else matrix, colour_range, bits), strict=True
    ):
        samples = np.uint8 if bits == 8 else np.uint16
        plane.update(np.full(plane.buffer_size // samples().itemsize, value, samples).tobytes())
    frame.colorspace, frame.color_range = matrix, colour_range
    return frame


@pytest.mark.parametrize("form", ["yuv420p", "yuv444p", "yuv420p10le", "yuvj420p"])
@pytest.mark.parametrize("matrix", [2, *WEIGHTS])
def test_matrix_and_range(form, matrix):
    for colour_range in [FULL] if "j" in form else [LIMITED, FULL]:
        for rgb in COLOURS:
            shown = rgb_image(flat_frame(form, rgb, matrix, colour_range)).getpixel((32, 32))
            assert np.abs(np.subtract(shown, rgb)).max() <= 4, (rgb, shown)


@pytest.mark.parametrize(("codec", "container"), [("libx264", "mp4"), ("libvpx-vp9", "webm")])
@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
def test_a_file_that_states_them(codec, container, matrix, colour_range):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, colour_range
        output.mux(stream.encode(flat_frame("yuv420p", (0, 200, 0), matrix, colour_range)))
        output.mux(stream.encode())
    source = StoredImage("green", file.getvalue)
    (shown,) = sample_video(source, Sampling(frames=1), np.asarray).frames
    assert np.abs(shown[32, 32].astype(int) - (0, 200, 0)).max() <= 4, shown[32, 32]


@pytest.mark.parametrize("form", ["rgb24", "bgr0", "gbrp", "gbrp10le", "gray", "gray10le"])
@pytest.mark.parametrize("colour_range", [0, LIMITED, FULL])
def test_what_has_no_matrix(form, colour_range):
    rgb = (128, 128, 128) if form.startswith("gray") else (30, 60, 200)
    frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), rgb, np.uint8), format="rgb24")
    frame = frame if form == "rgb24" else frame.reformat(format=form)
    frame.color_range = colour_range
    assert np.abs(np.subtract(rgb_image(frame).getpixel((32, 32)), rgb)).max() <= 1
