"""One documented outcome for every kind of file."""

import errno
import os
import pickle
import tracemalloc
import zlib
from contextlib import suppress
from functools import partial
from random import Random

import pytest
from PIL import Image

from vlm_core.errors import BadSample, UserError
from vlm_core.io import files
from vlm_core.io.images import (
    StoredImage,
    decode_image,
    each_image,
    image_bytes,
    image_name,
    load_image,
)


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "LA", "RGBA", "I;16"])
@pytest.mark.parametrize("form", ["png", "jpg", "webp", "gif", "tiff"])
def test_every_mode_becomes_rgb(tmp_path, mode, form):
    image = Image.new("L", (6, 4), 200)
    image = Image.new("I;16", (6, 4), 200 * 257) if mode == "I;16" else image.convert(mode)
    if mode == "I;16" and form not in ("png", "tiff"):
        pytest.skip("no format for 16 bits")
    try:
        path = save(tmp_path / f"x.{form}", image)
    except (OSError, ValueError):
        pytest.skip(f"Pillow writes no {mode} {form}")
    loaded = load_image(path)
    assert loaded.mode == "RGB"
    assert loaded.size == (6, 4)
    if mode != "1":
        assert all(abs(c - 200) < 12 for c in loaded.getpixel((2, 2))), "the grey level is kept"


def test_transparency_is_laid_on_white(tmp_path):
    path = save(tmp_path / "x.png", Image.new("RGBA", (3, 3), (255, 0, 0, 0)))
    assert load_image(path).getpixel((1, 1)) == (255, 255, 255)


def test_exif_turns_the_picture_upright(tmp_path):
    image = Image.new("RGB", (4, 2), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    path = save(tmp_path / "x.jpg", image, exif=exif.tobytes())
    assert load_image(path).size == (2, 4)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (2, 2), c) for c in ("red", "blue")]
    path = save(tmp_path / "x.gif", frames[0], save_all=True, append_images=frames[1:])
    assert load_image(path).getpixel((0, 0)) == (255, 0, 0)


def broken(path, kind):
    if kind == "strip":
        return save(path, Image.new("1", (20000, 2)))
    if kind == "bomb":
        return save(path, Image.new("1", (9000, 9000)))
    if kind == "great bomb":
        return save(path, Image.new("1", (20000, 20000)))
    if kind == "float":
        return save(path, Image.new("F", (4, 4), 0.5), format="tiff")
    if kind == "truncated":
        Image.effect_noise((64, 64), 50).save(path)
        path.write_bytes(path.read_bytes()[:-700])
    elif kind == "no width":
        Image.new("L", (4, 4)).save(path)
        data = bytearray(path.read_bytes())
        data[16:20] = bytes(4)
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        path.write_bytes(data)
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "huge file":
        with path.open("wb") as file:
            file.truncate(2**40)
    elif kind != "missing":
        path.write_bytes({"html": b"<html>404</html>", "empty": b"", "svg": b"<svg/>"}[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "reason", "message"),
    [
        ("missing", "missing", "no such file"),
        ("html", "not-an-image", "not an image"),
        ("empty", "empty", "an empty file"),
        ("svg", "not-an-image", "not an image"),
        ("truncated", "damaged", "cannot decode"),
        ("folder", "not-a-file", "a folder"),
        ("fifo", "not-a-file", "a FIFO"),
        ("device", "not-a-file", "a device"),
        ("huge file", "too-large", "at most 268435456 are read"),
        ("no width", "not-an-image", "not an image"),
        ("strip", "too-narrow", "20000×2 pixels; more than 200:1"),
        ("bomb", "too-many-pixels", "at most 64 megapixels"),
        ("great bomb", "too-many-pixels", "exceeds limit"),
        ("float", "no-range", "no defined white"),
    ],
)
def test_bad_files_are_named(tmp_path, kind, reason, message):
    """Every one is refused before a pixel is decoded or a byte of a device is read."""
    path = broken(tmp_path / "x.png", kind)
    tracemalloc.start()
    with pytest.raises(BadSample, match=message) as caught:
        load_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert "x.png" in str(caught.value)
    assert caught.value.reason == reason
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.reason, str(again)) == (reason, str(caught.value))


@pytest.mark.parametrize("flips", range(8))
def test_flipped_bytes_give_a_picture_or_a_bad_sample(tmp_path, flips):
    """Whatever a decoder raises on hostile bytes, it arrives as `BadSample` and nothing else."""
    for form in ("png", "jpg", "gif", "tiff", "webp", "bmp"):
        path = save(tmp_path / f"x.{form}", Image.effect_noise((24, 16), 50).convert("RGB"))
        random, data = Random(flips), bytearray(path.read_bytes())
        for _ in range(flips + 1):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        with suppress(BadSample):
            assert decode_image(bytes(data), form).mode == "RGB"


def test_big_endian_16_bits_are_rescaled_too(tmp_path):
    path = save(tmp_path / "x.tiff", Image.new("I;16B", (2, 2), 200 * 257))
    assert load_image(path).getpixel((0, 0)) == (200, 200, 200)


def test_a_storage_that_stumbles_is_tried_again_and_one_that_fails_is_no_bad_sample(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", Image.new("L", (2, 2)))
    read, failures = files._read, [errno.EIO, errno.ESTALE]

    def stumbling(name, *limit):
        if failures:
            raise OSError(failures.pop(), "stumbled")
        return read(name, *limit)

    monkeypatch.setattr(files, "_read", stumbling)
    monkeypatch.setattr(files, "RETRY_DELAYS", (0.0, 0.0))
    with files.io_retries() as retried:
        assert load_image(path).size == (2, 2)
        failures += [errno.EIO] * 3
        with pytest.raises(UserError, match=r"the storage fails: stumbled \(3 attempts\)") as caught:
            load_image(path)
    assert not isinstance(caught.value, BadSample)
    assert retried == [str(path)] * 4, "each failed attempt is counted, apart from what is damaged"


def test_an_image_without_a_file_is_read_like_one_that_has(tmp_path):
    path = save(tmp_path / "x.png", Image.new("RGB", (300, 200), "red"))
    stored = StoredImage("shard 3, picture 7", partial(bytes, path.read_bytes()))
    again = pickle.loads(pickle.dumps(stored))
    assert {stored, again} == {stored}
    assert image_bytes(stored) == image_bytes(path) == again.read()
    assert (image_name(stored), image_name(path)) == ("shard 3, picture 7", str(path))
    assert load_image(again).tobytes() == load_image(path).tobytes()
    with pytest.raises(BadSample, match="shard 3: not an image"):
        load_image(StoredImage("shard 3", partial(bytes, b"<html>")))


@pytest.mark.parametrize(
    "error", [TimeoutError("slow"), ConnectionResetError("gone"), OSError(errno.ESTALE, "stale")]
)
def test_what_may_pass_is_tried_again(error, monkeypatch):
    monkeypatch.setattr(files, "RETRY_DELAYS", (0.0,))
    attempts = iter([error, None])

    def read():
        if failure := next(attempts):
            raise failure
        return b"here"

    assert files.with_retries("x", read) == b"here"
    with pytest.raises(ZeroDivisionError):
        files.with_retries("x", lambda: 1 // 0)


def test_an_image_that_a_row_repeats_is_read_once():
    read = []
    assert each_image("abab", lambda name: read.append(name) or name.upper()) == ["A", "B", "A", "B"]
    assert read == ["a", "b"]
