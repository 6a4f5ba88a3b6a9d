"""Decoding token by token: sub-modules that are hooked, wrapped or replaced are called, not bypassed."""

import pytest
import torch
from cases import assert_near
from decode_cases import fast_and_plain, mixer_of, named, token_and_state
from torch import nn

from vlm_llms.mamba.mamba import MambaLM
from vlm_ssm import MambaMixer


class Adapter(nn.Module):
    """A low-rank addition around a linear layer, as LoRA wraps it."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.low = inner, nn.Linear(inner.in_features, 2, bias=False)
        self.high = nn.Linear(2, inner.out_features, bias=False)

    def forward(self, x):
        return self.inner(x) + self.high(self.low(x))


class Louder(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def subclassed(module):
    module.__class__ = Louder


def hooked(module):
    module.register_forward_hook(lambda _, __, y: 2 * y)


def pre_hooked(module):
    module.register_forward_pre_hook(lambda _, args: (2 * args[0],))


def replaced(module):
    """As accelerate and others wrap a module: a `forward` of the instance."""
    plain = module.forward
    module.forward = lambda x: 2 * plain(x)


def parametrised(module):
    nn.utils.parametrizations.weight_norm(module)


def biased(module):
    module.bias = nn.Parameter(torch.randn(module.out_features))


CHANGES = [subclassed, hooked, pre_hooked, replaced, parametrised, biased]


@pytest.mark.parametrize("name", ["in_proj", "x_proj", "out_proj"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_projection_is_not_bypassed(name, change, monkeypatch):
    mixer = mixer_of()
    change(getattr(mixer, name))
    x, before = token_and_state(mixer)
    found, wanted = (named(*made) for made in fast_and_plain(mixer, x, before, monkeypatch))
    assert_near(found, wanted, 1e-5)


@pytest.mark.parametrize("name", ["in_proj", "x_proj", "out_proj"])
def test_an_adapter_is_not_bypassed(name, monkeypatch):
    mixer = mixer_of()
    setattr(mixer, name, Adapter(getattr(mixer, name)))
    x, before = torch.randn(1, 1, 24), token_and_state(mixer_of())[1]
    found, wanted = (named(*made) for made in fast_and_plain(mixer, x, before, monkeypatch))
    assert_near(found, wanted, 1e-5)


@pytest.mark.parametrize("name", ["conv1d", "dt_proj"])
def test_a_parametrised_part_is_not_bypassed(name, monkeypatch):
    """Its weight is computed at each access, and no parameter of its own."""
    mixer = mixer_of()
    parametrised(getattr(mixer, name))
    x, before = token_and_state(mixer)
    found, wanted = (named(*made) for made in fast_and_plain(mixer, x, before, monkeypatch))
    assert_near(found, wanted, 1e-5)


class Negative(MambaMixer):
    def forward(self, x, segments=None, state=None):
        y, after = super().forward(x, segments, state)
        return -y, after


def negative(block):
    block.mixer.__class__ = Negative


def hooked_block(block):
    block.register_forward_hook(lambda _, __, made: (made[0], 2 * made[1], made[2]))


def hooked_mixer(block):
    block.mixer.register_forward_hook(lambda _, __, made: (2 * made[0], made[1]))


def replaced_mixer(block):
    plain = block.mixer.forward
    block.mixer.forward = lambda *a, **k: (2 * (made := plain(*a, **k))[0], made[1])


@pytest.mark.parametrize("change", [negative, hooked_block, hooked_mixer, replaced_mixer])
def test_a_changed_block_is_not_bypassed(change, monkeypatch):
    torch.manual_seed(0)
    model = MambaLM(24, 2, 37, load_tokenizer=lambda: None).eval()
    with torch.no_grad():
        _, before = model(torch.randn(1, 5, 24))
    change(model.backbone.layers[0])
    made = fast_and_plain(model, torch.randn(1, 1, 24), before, monkeypatch)
    assert_near({"y": made[0][0]}, {"y": made[1][0]}, 1e-5)
