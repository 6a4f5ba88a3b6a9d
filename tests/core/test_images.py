"""One documented outcome for every kind of file."""

import pytest
from PIL import Image

from vlm_core.errors import UserError
from vlm_core.images import load_image


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


def broken(tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "missing":
        return path
    if kind == "strip":
        return save(path, Image.new("1", (20000, 2)))
    if kind == "bomb":
        return save(path, Image.new("1", (9000, 9000)))
    if kind == "truncated":
        Image.effect_noise((64, 64), 50).save(path)
        path.write_bytes(path.read_bytes()[:-700])
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes({"html": b"<html>404</html>", "empty": b"", "svg": b"<svg/>"}[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such image file"), ("html", "not an image"), ("empty", "not an image"),
        ("svg", "not an image"), ("truncated", "cannot decode"), ("folder", "cannot decode"),
        ("strip", "20000×2 pixels; more than 200:1"), ("bomb", "at most 64 megapixels"),
    ],
)  # fmt: skip
def test_bad_files_are_named(tmp_path, kind, message):
    with pytest.raises(UserError, match=message) as caught:
        load_image(broken(tmp_path, kind))
    assert "x.png" in str(caught.value)
