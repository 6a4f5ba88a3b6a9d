"""Conformance tests of vision encoders. Subclass in one line:

    class TestMine(EncoderSuite):
        config = MyConfig(...)

If the config needs files, override `make_config(tmp_path_factory)`. Use a tiny encoder: it is built several times, with
random weights. It may have no parameters.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vlm_core.errors import UserError
from vlm_core.interfaces import Connector, Encoder
from vlm_core.model import VLM
from vlm_core.model_folder.weights import empty_parameters, load_part_weights, save_part, to_dtype
from vlm_core.plugins.config import NO_WEIGHTS, EncoderConfig
from vlm_core.testing import damaged_assets, frozen_modules, untrusted_files
from vlm_core.views.image_processor import check_tiles, image_processor
from vlm_core.views.image_views import ImageViews
from vlm_core.views.rule import ViewRule


class _Flatten(Connector):
    """One token per patch, unchanged, so that `VLM.encode_images` runs without a real connector."""

    def num_tokens(self, h: int, w: int) -> int:
        return h * w

    def token_grid(self, h: int, w: int) -> tuple[int, int]:
        return h, w

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(1, 2)


def _encode(encoder: Encoder, pixels: Tensor) -> Tensor:
    """The features of the encoder inside a `VLM`."""
    return VLM(encoder, _Flatten(), cast(Any, nn.Identity())).encode_images(pixels)


def _noise(height: int, width: int) -> Image.Image:
    values = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(2))
    return Image.fromarray(values.to(torch.uint8).numpy())


def _pixels(image: Image.Image) -> Tensor:
    """The pixels (3, height, width) of an RGB image in [0, 1], as they are."""
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return values.view(image.height, image.width, 3).permute(2, 0, 1).float().div(255)


class EncoderSuite:
    """The contract of `Encoder` as tests."""

    config: ClassVar[Any] = None
    tolerance: ClassVar[float] = 1e-5
    """Largest absolute difference between an image alone and in a batch, in fp32."""

    @classmethod
    def make_config(cls, tmp_path_factory: pytest.TempPathFactory) -> EncoderConfig:
        """The config under test; override it where the config needs files."""
        return cls.config

    @pytest.fixture(scope="class")
    @classmethod
    def encoder_config(cls, tmp_path_factory: pytest.TempPathFactory) -> EncoderConfig:
        return cls.make_config(tmp_path_factory)

    @pytest.fixture(scope="class")
    @classmethod
    def built(cls, encoder_config: EncoderConfig) -> Encoder:
        torch.manual_seed(0)
        return encoder_config.build(weights=False)

    @pytest.fixture
    def encoder(self, built: Encoder) -> Encoder:
        """A copy that the test may change, in evaluation mode."""
        return copy.deepcopy(built).eval()

    @pytest.fixture
    def pixels(self, encoder: Encoder) -> Tensor:
        """Three random images (3, 3, height, width)."""
        return torch.rand(3, 3, *encoder.image_size, generator=torch.Generator().manual_seed(1))

    @pytest.mark.parametrize("mode", ["RGB", "L"])
    @pytest.mark.parametrize("size", [(61, 23), (23, 61), (7, 7)], ids=["landscape", "portrait", "small"])
    def test_transform(self, built: Encoder, size: tuple[int, int], mode: str) -> None:
        """Images of any shape become float32 (3, height, width) in [0, 1]."""
        image = Image.linear_gradient("L").resize(size).convert(mode)
        pixels = built.transform(image)
        assert pixels.dtype == torch.float32
        assert pixels.shape == (3, *built.image_size)
        assert pixels.min() >= 0
        assert pixels.max() <= 1
        assert pixels.max() > pixels.min(), "the image has become constant"

    def test_transform_is_deterministic(self, built: Encoder) -> None:
        image = Image.radial_gradient("L").convert("RGB")
        assert torch.equal(built.transform(image), built.transform(image.copy()))

    def test_tiles_meet_without_a_gap(self, encoder: Encoder) -> None:
        """The four tiles of an image of twice `image_size` have its pixels, and the overview comes first.

        An encoder that changes a tile, by cropping it, is refused in a spec with `views`.
        """
        height, width = encoder.image_size
        image = _noise(2 * height, 2 * width)
        if not torch.equal(encoder.transform(_noise(height, width)), _pixels(_noise(height, width))):
            with pytest.raises(UserError, match=r"views\.tiles"):
                check_tiles(encoder)
            return
        check_tiles(encoder)
        views = image_processor(encoder, _Flatten(), ViewRule(((2, 2),), rows=True))(image)
        assert isinstance(views, ImageViews)
        assert views.pixels is not None
        assert torch.equal(views.pixels[0], encoder.transform(image))
        tiles = views.pixels[1:].view(2, 2, 3, height, width).permute(2, 0, 3, 1, 4)
        assert torch.equal(tiles.reshape(3, 2 * height, 2 * width), _pixels(image))
        assert views.order is not None
        assert len(views.order) == 5 * _Flatten().num_tokens(*encoder.grid(height, width))

    def test_frames_of_a_video(self, encoder: Encoder) -> None:
        """Frames of another shape than `image_size` are the views of a video, each encoded as if it were alone."""
        height, width = encoder.image_size
        whole = _noise(height, 3 * width)
        frames = [whole.crop((x, 0, x + 2 * width, height)) for x in (0, width // 2, width)]
        video = ImageViews(torch.stack([encoder.transform(frame) for frame in frames]))
        assert video.pixels is not None
        assert video.pixels.shape == (3, 3, height, width)
        model = VLM(encoder, _Flatten(), cast(Any, nn.Identity()))
        assert model.image_tokens(video) == 3 * model.video_processor.tokens
        with torch.no_grad():
            together = _encode(encoder, video.pixels)
            alone = torch.cat([_encode(encoder, view[None]) for view in video.pixels])
        torch.testing.assert_close(together, alone, atol=self.tolerance, rtol=0)

    def test_forward_agrees_with_dim_and_grid(self, encoder: Encoder, pixels: Tensor) -> None:
        features = encoder(pixels)
        assert features.shape == (3, *encoder.grid(*encoder.image_size), encoder.dim)
        assert features.isfinite().all()

    def test_each_image_alone_equals_the_batch(self, encoder: Encoder, pixels: Tensor) -> None:
        with torch.no_grad():
            batch = encoder(pixels)
            alone = torch.cat([encoder(image[None]) for image in pixels])
        torch.testing.assert_close(alone, batch, atol=self.tolerance, rtol=0)

    def test_features_depend_on_the_image(self, encoder: Encoder, pixels: Tensor) -> None:
        with torch.no_grad():
            first, second, _ = encoder(pixels)
        assert not torch.equal(first, second)

    def test_gradient_reaches_every_parameter(self, encoder: Encoder, pixels: Tensor) -> None:
        """Layers after the chosen one must be removed, or they would count as trainable parameters."""
        encoder.requires_grad_(True)
        if not any(True for _ in encoder.parameters()):
            return
        _encode(encoder, pixels).square().mean().backward()
        without = [name for name, p in encoder.named_parameters() if p.grad is None]
        assert not without, f"no gradient reaches {without}"
        assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())

    def test_frozen_encoder_records_no_gradient(self, encoder: Encoder, pixels: Tensor) -> None:
        encoder.requires_grad_(False)
        assert not _encode(encoder, pixels).requires_grad

    def test_evaluation_mode_changes_nothing(self, encoder: Encoder, pixels: Tensor) -> None:
        frozen_modules.check_evaluation(encoder, lambda: encoder(pixels))

    def test_training_mode_writes_no_buffer(self, encoder: Encoder, pixels: Tensor) -> None:
        """Running statistics of an encoder are never updated."""
        frozen_modules.check_training(encoder, lambda: encoder(pixels))

    def test_frozen_module_ignores_training_mode(self, encoder: Encoder, pixels: Tensor) -> None:
        frozen_modules.check_frozen(encoder, lambda: encoder(pixels))

    def test_bfloat16_is_finite(self, encoder: Encoder, pixels: Tensor) -> None:
        """In bf16, with float32 pixels as `transform` returns them, the features are about the same."""
        with torch.no_grad():
            exact = encoder(pixels)
            to_dtype(encoder, torch.bfloat16)
            features = encoder(pixels)
        if any(True for _ in encoder.parameters()):
            assert features.dtype == torch.bfloat16
        assert features.isfinite().all()
        assert torch.cosine_similarity(features.float().flatten(), exact.flatten(), dim=0) > 0.98

    def test_saved_and_built_again(
        self, encoder: Encoder, encoder_config: EncoderConfig, pixels: Tensor, tmp_path: Path
    ) -> None:
        """The saved weights and small files give the same encoder."""
        encoder.save_assets(tmp_path / "assets")
        save_part(encoder, tmp_path / "encoder.safetensors")
        with empty_parameters():
            again = encoder_config.build(weights=False, assets=tmp_path / "assets").eval()
        load_part_weights(again, tmp_path / "encoder.safetensors")
        assert (again.dim, again.image_size) == (encoder.dim, encoder.image_size)
        with torch.no_grad():
            assert torch.equal(again(pixels), encoder(pixels))

    def test_saved_files_are_sufficient(
        self, encoder: Encoder, encoder_config: EncoderConfig, tmp_path: Path
    ) -> None:
        """Building from saved files uses no network and runs no code that was added to them."""
        encoder.save_assets(tmp_path)
        untrusted_files.check_saved(tmp_path, lambda: encoder_config.build(weights=False, assets=tmp_path))

    def test_damaged_files_are_user_errors(
        self, encoder: Encoder, encoder_config: EncoderConfig, tmp_path: Path
    ) -> None:
        """With a damaged file the encoder is built or raises `UserError`."""
        encoder.save_assets(tmp_path)
        with torch.device("meta"):
            damaged_assets.check(lambda: encoder_config.build(weights=False, assets=tmp_path), tmp_path)

    def test_preprocessing_is_saved(
        self, encoder: Encoder, encoder_config: EncoderConfig, tmp_path: Path
    ) -> None:
        """An encoder that reports its preprocessing reports the same from its saved files, including sources."""
        if (facts := encoder.preprocessing) is not None:
            encoder.save_assets(tmp_path)
            assert encoder_config.build(weights=False, assets=tmp_path).preprocessing == facts
            assert facts.image_size == encoder.image_size
            assert all(value > 0 for value in facts.std)
            assert all(source for _, _, source in facts.rows())

    def test_weights_source_is_true(self, encoder: Encoder, encoder_config: EncoderConfig) -> None:
        """Random weights depend on the seed; an encoder without weights has no parameters."""
        source = encoder_config.weights_source()
        if source is not None and source.random:
            torch.manual_seed(1)
            pairs = zip(encoder.parameters(), encoder_config.build(weights=False).parameters(), strict=True)
            assert any(not torch.equal(a, b) for a, b in pairs), "the weights are not random"
        if source == NO_WEIGHTS:
            assert not list(encoder.parameters())

    def test_shapes_on_the_meta_device(self, encoder: Encoder, encoder_config: EncoderConfig) -> None:
        """`vlm-assemble --check` builds and runs the encoder without memory for weights."""
        with torch.device("meta"):
            meta = encoder_config.build(weights=False)
            features = meta(torch.zeros(1, 3, *meta.image_size))
        assert all(p.is_meta for p in meta.parameters())
        assert (meta.dim, meta.image_size) == (encoder.dim, encoder.image_size)
        assert features.shape == (1, *meta.grid(*meta.image_size), meta.dim)
        assert sum(p.numel() for p in meta.parameters()) == sum(p.numel() for p in encoder.parameters())
