"""Conformance tests of connectors. Subclass in one line:

class TestMine(ConnectorSuite):
    config = MyConfig(...)
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.interfaces import Connector, parameter_count
from vlm_core.model_folder.weights import empty_parameters, load_part_weights, save_part, to_dtype
from vlm_core.testing import frozen_modules


def _refusal(connector: Connector, h: int, w: int) -> str | None:
    """The connector's error message for this grid; None if the grid is supported."""
    try:
        connector.num_tokens(h, w)
    except UserError as error:
        return str(error)
    return None


class ConnectorSuite:
    """The contract of `Connector` as tests, at small widths."""

    config: ClassVar[Any] = None
    d_in: ClassVar[int] = 12
    d_out: ClassVar[int] = 16
    tolerance: ClassVar[float] = 1e-5
    """Largest absolute difference between an image alone and in a batch, in fp32."""

    @pytest.fixture(scope="class")
    @classmethod
    def built(cls) -> Connector:
        torch.manual_seed(0)
        return cls.config.build(cls.d_in, cls.d_out)

    @pytest.fixture
    def connector(self, built: Connector) -> Connector:
        """A copy that the test may change."""
        return copy.deepcopy(built).eval()

    def features(self, n: int = 3, h: int = 4, w: int = 6) -> Tensor:
        """A random patch grid (n, h, w, d_in)."""
        return torch.randn(n, h, w, self.d_in, generator=torch.Generator().manual_seed(1))

    @pytest.mark.parametrize(("h", "w"), [(1, 1), (4, 4), (4, 6), (7, 3)])
    def test_num_tokens_agrees_with_forward(self, connector: Connector, h: int, w: int) -> None:
        """`num_tokens` and `forward` may both refuse a grid with `UserError`, but not 4×6."""
        features, refusal = self.features(2, h, w), _refusal(connector, h, w)
        if refusal is None:
            out = connector(features)
            assert out.shape == (2, connector.num_tokens(h, w), self.d_out)
            assert out.isfinite().all()
        else:
            assert (h, w) != (4, 6), refusal
            with pytest.raises(UserError, match=re.escape(refusal)):
                connector(features)

    @pytest.mark.parametrize(("h", "w"), [(4, 6), (8, 4)])
    def test_token_grid_holds_every_token(self, connector: Connector, h: int, w: int) -> None:
        """`token_grid` is None, or has as many rows and columns as there are tokens."""
        if _refusal(connector, h, w) is None and (grid := connector.token_grid(h, w)) is not None:
            rows, columns = grid
            assert rows * columns == connector.num_tokens(h, w)

    def test_each_image_alone_equals_the_batch(self, connector: Connector) -> None:
        features = self.features()
        with torch.no_grad():
            batch = connector(features)
            alone = torch.cat([connector(one[None]) for one in features])
        torch.testing.assert_close(alone, batch, atol=self.tolerance, rtol=0)

    def test_gradient_reaches_every_parameter_and_the_input(self, connector: Connector) -> None:
        features = self.features().requires_grad_()
        connector(features).square().mean().backward()
        without = [name for name, p in connector.named_parameters() if p.requires_grad and p.grad is None]
        assert not without, f"no gradient reaches {without}"
        assert features.grad is not None
        assert (features.grad.abs().sum(-1) > 0).all(), "a patch has no influence"

    def test_evaluation_mode_changes_nothing(self, connector: Connector) -> None:
        frozen_modules.check_evaluation(connector, lambda: connector(self.features()))

    def test_training_mode_writes_running_statistics_at_most(self, connector: Connector) -> None:
        frozen_modules.check_training(connector, lambda: connector(self.features()))

    def test_frozen_module_ignores_training_mode(self, connector: Connector) -> None:
        frozen_modules.check_frozen(connector, lambda: connector(self.features()))

    def test_bfloat16_is_finite_and_close(self, connector: Connector) -> None:
        with torch.no_grad():
            exact = connector(self.features())
            to_dtype(connector, torch.bfloat16)
            rounded = connector(self.features().bfloat16())
        assert rounded.dtype == torch.bfloat16
        assert torch.cosine_similarity(rounded.float().flatten(), exact.flatten(), dim=0) > 0.98

    def test_saved_and_built_again(self, connector: Connector, tmp_path: Path) -> None:
        save_part(connector, tmp_path / "connector.safetensors")
        with empty_parameters():
            again = self.config.build(self.d_in, self.d_out).eval()
        load_part_weights(again, tmp_path / "connector.safetensors")
        with torch.no_grad():
            assert torch.equal(again(self.features()), connector(self.features()))

    def test_shapes_on_the_meta_device(self, connector: Connector) -> None:
        with torch.device("meta"):
            meta = self.config.build(self.d_in, self.d_out)
            out = meta(torch.zeros(1, 4, 6, self.d_in))
        assert out.shape == (1, connector.num_tokens(4, 6), self.d_out)
        assert parameter_count(meta) == parameter_count(connector)
