"""The three ways of bringing a picture to the tower's size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vlm_encoders.transforms import to_pixels

MEAN = (0.5, 0.25, 0.75)


def stripes(width: int, height: int) -> Image.Image:
    """Left third red, middle green, right third blue."""
    image = Image.new("RGB", (width, height), (0, 255, 0))
    image.paste((255, 0, 0), (0, 0, width // 3, height))
    image.paste((0, 0, 255), (2 * width // 3, 0, width, height))
    return image


def test_resize_squashes() -> None:
    pixels = to_pixels(stripes(90, 30), 30, 30, "resize", MEAN)
    assert pixels[:, 15, 3].tolist() == [1, 0, 0]
    assert pixels[:, 15, 27].tolist() == [0, 0, 1]


def test_resize_is_pillows_bicubic() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    assert torch.equal(to_pixels(image, 16, 16, "resize", MEAN), torch.from_numpy(expected).permute(2, 0, 1))


@pytest.mark.parametrize("size", [(90, 30), (30, 90)])
def test_pad_keeps_everything_on_the_mean_colour(size: tuple[int, int]) -> None:
    pixels = to_pixels(stripes(*size), 30, 30, "pad", MEAN)
    torch.testing.assert_close(pixels[:, 0, 0], torch.tensor(MEAN), atol=2 / 255, rtol=0)
    assert pixels[:, 15, 15].tolist() == [0, 1, 0]
    assert (pixels[0] > 0.9).any(), "red is still there"
    assert (pixels[2] > 0.9).any(), "blue is still there"


def test_crop_keeps_the_centre() -> None:
    pixels = to_pixels(stripes(90, 30), 30, 30, "crop", MEAN)
    assert (pixels == torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)).all()


@pytest.mark.parametrize("fit", ["resize", "pad", "crop"])
@pytest.mark.parametrize("size", [(20000, 100), (1, 200), (1, 1)])
def test_extreme_shapes_stay_cheap(size: tuple[int, int], fit: str) -> None:
    """A long strip padded to its own square would take gigabytes."""
    assert to_pixels(Image.new("RGB", size), 24, 32, fit, MEAN).shape == (3, 24, 32)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16", "CMYK"])
def test_other_modes(mode: str) -> None:
    pixels = to_pixels(Image.new(mode, (9, 9)), 8, 8, "resize", MEAN)
    assert pixels.shape == (3, 8, 8)
    assert pixels.isfinite().all()
