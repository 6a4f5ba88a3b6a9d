"""The three ways of bringing a picture to the tower's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlm_core.errors import UserError
from vlm_core.io.images import load_image
from vlm_encoders.towers.transforms import Resizing, to_pixels

MEAN = (0.5, 0.25, 0.75)


def stripes(width: int, height: int) -> Image.Image:
    """Left third red, middle green, right third blue."""
    image = Image.new("RGB", (width, height), (0, 255, 0))
    image.paste((255, 0, 0), (0, 0, width // 3, height))
    image.paste((0, 0, 255), (2 * width // 3, 0, width, height))
    return image


def test_resize_squashes() -> None:
    pixels = to_pixels(stripes(90, 30), 30, 30, Resizing("resize"), MEAN)
    assert pixels[:, 15, 3].tolist() == [1, 0, 0]
    assert pixels[:, 15, 27].tolist() == [0, 0, 1]


def test_resize_is_pillows_bicubic() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    assert torch.equal(
        to_pixels(image, 16, 16, Resizing("resize"), MEAN), torch.from_numpy(expected).permute(2, 0, 1)
    )


@pytest.mark.parametrize("size", [(90, 30), (30, 90)])
def test_pad_keeps_everything_on_the_mean_colour(size: tuple[int, int]) -> None:
    pixels = to_pixels(stripes(*size), 30, 30, Resizing("pad"), MEAN)
    torch.testing.assert_close(pixels[:, 0, 0], torch.tensor(MEAN), atol=2 / 255, rtol=0)
    assert pixels[:, 15, 15].tolist() == [0, 1, 0]
    assert (pixels[0] > 0.9).any(), "red is still there"
    assert (pixels[2] > 0.9).any(), "blue is still there"


def test_crop_keeps_the_centre() -> None:
    pixels = to_pixels(stripes(90, 30), 30, 30, Resizing("crop"), MEAN)
    assert (pixels == torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)).all()


@pytest.mark.parametrize("resize_mode", ["resize", "pad", "crop"])
@pytest.mark.parametrize("size", [(20000, 100), (1, 200), (1, 1)])
def test_extreme_shapes_stay_cheap(size: tuple[int, int], resize_mode: str) -> None:
    """A long strip padded to its own square would take gigabytes."""
    assert to_pixels(Image.new("RGB", size), 24, 32, Resizing(resize_mode), MEAN).shape == (3, 24, 32)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16", "CMYK"])
def test_other_modes(mode: str) -> None:
    pixels = to_pixels(Image.new(mode, (9, 9)), 8, 8, Resizing("resize"), MEAN)
    assert pixels.shape == (3, 8, 8)
    assert pixels.isfinite().all()


@pytest.mark.parametrize("name", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_filters_are_pillows(name: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((16, 16), Image.Resampling[name.upper()]), dtype=np.float32) / 255
    found = to_pixels(image, 16, 16, Resizing("resize", name), MEAN)
    assert torch.equal(found, torch.from_numpy(expected).permute(2, 0, 1))


def test_unknown_filter() -> None:
    with pytest.raises(
        UserError, match=r"interpolation 'random' is none of Pillow's filters \(nearest, .*name one"
    ):
        Resizing("resize", "random")


def test_pad_is_llavas(tmp_path: Path) -> None:
    """A square of the mean colour, each channel rounded down, the picture in its middle, then one resize."""
    image = stripes(90, 31)
    canvas = np.empty((90, 90, 3), dtype=np.uint8)
    canvas[:] = [int(value * 255) for value in MEAN]
    canvas[29:60] = np.asarray(image)
    expected = Image.fromarray(canvas).resize((30, 30), Image.Resampling.BICUBIC)
    found = to_pixels(image, 30, 30, Resizing("pad"), MEAN)
    assert torch.equal((found * 255).round().byte().permute(1, 2, 0), torch.from_numpy(np.array(expected)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once_by_load_image(orientation: int, tmp_path: Path) -> None:
    """A photograph turned by its EXIF tag and the upright picture give the same pixels."""
    upright = stripes(60, 40)
    upright.paste("black", (0, 0, 20, 10))
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    turned = upright.transpose(Image.Transpose(inverse[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "a.png", exif=exif)
    found, expected = (
        to_pixels(i, 24, 24, Resizing("pad"), MEAN) for i in (load_image(tmp_path / "a.png"), upright)
    )
    assert torch.equal(found, expected)
    as_it_lies = to_pixels(Image.open(tmp_path / "a.png"), 24, 24, Resizing("pad"), MEAN)
    assert torch.equal(as_it_lies, expected) == (orientation == 1)
