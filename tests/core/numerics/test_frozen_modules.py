"""What is frozen stays in evaluation mode through every `train()`, and copies of buffers take what a pass writes."""

import copy

import pytest
import torch
from torch import nn

from vlm_core.errors import UserError
from vlm_core.interfaces import Connector, Encoder
from vlm_core.numerics.frozen_modules import BufferCopies, mark_added, running_statistics
from vlm_core.runtime import env_vars


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(self.linear(x)))


class Blocks(Connector):
    def __init__(self):
        super().__init__()
        self.blocks, self.drop = nn.ModuleList([Block(), Block()]), nn.Dropout(0.5)

    def num_tokens(self, h, w):
        return h * w

    def forward(self, features):
        for block in self.blocks:
            features = block(features)
        return self.drop(features)


class Tower(Encoder):
    dim, image_size = 4, (1, 4)

    def transform(self, image):
        raise NotImplementedError

    def grid(self, height, width):
        return height, width

    def __init__(self):
        super().__init__()
        self.block, self.plain = Block(), nn.BatchNorm1d(4, affine=False)

    def forward(self, pixel_values):
        return self.plain(self.block(pixel_values))


def trains(module):
    return {name for name, m in module.named_modules() if m.training}


def test_modules_go_with_their_parameters_and_dropout_with_the_module_around_it():
    part = Blocks()
    part.train()
    assert len(trains(part)) == 1 + 1 + 2 * 4 + 1
    part.blocks[0].requires_grad_(False)
    part.blocks[1].norm.requires_grad_(False)
    nn.ModuleList([part]).train()  # whoever calls it
    assert trains(part) == {"", "blocks", "blocks.1", "blocks.1.linear", "blocks.1.drop", "drop"}
    part.requires_grad_(False).train()
    assert trains(part) == set()
    mark_added(part.blocks[0].linear.requires_grad_(True))  # an adapter trains, and nothing around it
    part.train()
    assert trains(part) == {"blocks.0.linear"}


def test_statistics_of_an_encoder_are_never_trained():
    tower = Tower()
    for module in (tower, nn.ModuleList([tower])):
        module.train()
        assert trains(tower) == {"", "block", "block.linear", "block.drop"}
    assert running_statistics(tower.plain).keys() == {"running_mean", "running_var"}
    assert running_statistics(nn.BatchNorm1d(4, track_running_stats=False)) == {}
    assert running_statistics(nn.InstanceNorm1d(4, track_running_stats=True))


def test_copies_take_what_is_written_and_the_gradient_is_that_without_them():
    torch.manual_seed(0)
    part, x = Blocks(), torch.randn(5, 4)
    part.drop.p = part.blocks[0].drop.p = part.blocks[1].drop.p = 0.0
    twin, before = copy.deepcopy(part), copy.deepcopy(part.state_dict())
    with BufferCopies(part):
        loss = part(x).square().sum()
        assert int(part.blocks[0].norm.num_batches_tracked) == 1
    loss.backward()
    twin(x).square().sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in part.state_dict().items())
    for mine, plain in zip(part.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine.grad, plain.grad)


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1", True),
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "0", False),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16", True),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT", False),
        ("TIMM_USE_NAFLEXVIT", "true", True),
    ],
)
def test_a_variable_that_would_change_the_numbers_is_refused_by_name(monkeypatch, name, value, refused):
    monkeypatch.setenv(name, value)
    if not refused:
        return env_vars.refuse_overrides()
    with pytest.raises(UserError, match=f"{name}={value} "):
        env_vars.refuse_overrides()
