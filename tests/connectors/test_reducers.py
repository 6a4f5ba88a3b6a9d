"""pixel-shuffle, ldpv2 and resampler against the libraries and formulas that they come from."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from vlm_connectors.reducer_configs import (
    LDPv2Config,
    PixelShuffleConfig,
    ResamplerConfig,
    StateQueryConfig,
)
from vlm_connectors.reducers import sincos
from vlm_core.diagnose.model_summary import summarize
from vlm_core.errors import UserError
from vlm_core.spec.spec import Spec


def test_pixel_shuffle_equals_internvl_of_transformers():
    """Order of the neighbours, norm and MLP, on copied weights and a grid that is no square."""
    from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLMultiModalProjector

    config = SimpleNamespace(
        vision_config=SimpleNamespace(hidden_size=12),
        text_config=SimpleNamespace(hidden_size=16),
        downsample_ratio=0.5,
        projector_hidden_act="gelu",
    )
    theirs, ours = InternVLMultiModalProjector(config), PixelShuffleConfig().build(12, 16)
    for mine, other in (
        (ours.norm, theirs.layer_norm),
        (ours.mlp[0], theirs.linear_1),
        (ours.mlp[2], theirs.linear_2),
    ):
        torch.nn.init.normal_(other.bias)
        mine.load_state_dict(other.state_dict())
    features = torch.randn(2, 4, 6, 12)
    shuffled = InternVLModel.pixel_shuffle(None, features, 0.5)
    torch.testing.assert_close(ours(features), theirs(shuffled).flatten(1, 2))


def test_pixel_shuffle_of_nemotron():
    """RMSNorm, squared ReLU, a hidden width and no biases, from the formula."""
    ours = PixelShuffleConfig(hidden=20, norm="rmsnorm", activation="relu2", bias=False).build(3, 5)
    v = torch.randn(1, 2, 2, 3)
    token = torch.cat([v[0, 0, 0], v[0, 0, 1], v[0, 1, 0], v[0, 1, 1]])
    normed = token / (token.square().mean() + 1e-5).sqrt()
    wanted = ours.mlp[2].weight @ (ours.mlp[0].weight @ normed).clamp(min=0).square()
    torch.testing.assert_close(ours(v), wanted[None, None])
    assert not [name for name, _ in ours.named_parameters() if name.endswith("bias")]


def test_ldpv2_averages_windows_that_cover_every_patch():
    """27×27 to 14×14 as Cobra: token (i, j) is the mean of rows ⌊27i/14⌋ to ⌈27(i+1)/14⌉ and columns alike."""
    ours, v = LDPv2Config(grid=14).build(6, 8), torch.randn(2, 27, 27, 6)
    mapped = ours.mlp[2](F.gelu(ours.mlp[0](v)))
    ends = [(27 * i // 14, -(-27 * (i + 1) // 14)) for i in range(14)]
    pooled = torch.stack(
        [torch.stack([mapped[:, a:b, c:d].mean((1, 2)) for c, d in ends], 1) for a, b in ends], 1
    )
    padded = F.pad(pooled, (0, 0, 1, 1, 1, 1))
    kernel = ours.position.weight.squeeze(1)  # (M, 3, 3)
    around = sum(padded[:, y : y + 14, x : x + 14] * kernel[:, y, x] for y in range(3) for x in range(3))
    bias = ours.position.get_parameter("bias")
    torch.testing.assert_close(ours(v), (pooled + around + bias).flatten(1, 2))


@pytest.mark.parametrize(("h", "w"), [(3, 3), (7, 3), (1, 5)])
def test_places_are_those_of_a_map_laid_over_any_grid(h, w):
    """Row-major patches, column first: sines, then cosines, of the centre at 10000^(-j / (dim/4))."""
    found = sincos(h, w, 16, 3)
    for i in range(h):
        for j in range(w):
            wanted = []
            for place in ((j + 0.5) * 3 / w - 0.5, (i + 0.5) * 3 / h - 0.5):
                angles = [place / 10_000 ** (n / 4) for n in range(4)]
                wanted += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            torch.testing.assert_close(found[i * w + j], torch.tensor(wanted))


def test_resampler_attends_head_by_head():
    """Softmax of query times key over all patches, positions on both but not on the values."""
    ours, v = ResamplerConfig(grid=2, head_dim=8).build(6, 16), torch.randn(2, 3, 5, 6)
    torch.nn.init.normal_(ours.attention.in_proj_bias)
    torch.nn.init.normal_(ours.query)
    x = ours.norm_patch(ours.project(v.flatten(1, 2)))
    q = ours.norm_query(ours.query) + sincos(2, 2, 16, 2)
    weights, biases = ours.attention.in_proj_weight.chunk(3), ours.attention.in_proj_bias.chunk(3)
    q, k, val = (
        F.linear(t, a, b) for t, a, b in zip((q, x + sincos(3, 5, 16, 2), x), weights, biases, strict=True)
    )
    heads = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        scores = q[:, part] @ k[..., part].mT / 8**0.5
        heads.append(scores.softmax(-1) @ val[..., part])
    wanted = ours.out(ours.norm(ours.attention.out_proj(torch.cat(heads, -1))))
    torch.testing.assert_close(ours(v), wanted)


@pytest.mark.parametrize(
    ("connector", "message"),
    [
        (
            {"type": "pixel-shuffle"},
            "joins 2×2 patches, which doesn't divide a grid of 3×3: choose another factor",
        ),
        (
            {"type": "ldpv2"},
            "pools to 12×12 tokens, more than a grid of 3×3 patches has; set connector.grid to",
        ),
        ({"type": "resampler"}, "width 16 must be a multiple of 4 and of connector.head_dim, which is 128"),
        ({"type": "msc"}, "head_dim 64 doesn't divide the inner width 32, which is expand 2 times"),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused_when_the_spec_is_checked(tiny_spec, connector, message):
    """No patch is dropped in silence: a 3×3 grid is an error before any weight is touched."""
    spec = tiny_spec | {"encoder": tiny_spec["encoder"] | {"image_size": 48}, "connector": connector}
    with pytest.raises(UserError, match=message):
        summarize(Spec.model_validate(spec))


@pytest.mark.parametrize("config", [ResamplerConfig(grid=2, head_dim=8), StateQueryConfig(queries=4)])
def test_position_encodings_are_made_once(config, monkeypatch):
    """A copy from the host in every forward pass would make it wait, and could be part of no CUDA graph."""
    connector, features = config.build(8, 16).eval(), torch.randn(2, 3, 5, 8)
    expected = connector(features)

    def again(*_):
        raise AssertionError("made again")

    monkeypatch.setattr("vlm_connectors.reducers.sincos", again)
    assert torch.equal(connector(features), expected)
    with pytest.raises(AssertionError, match="made again"):
        connector.double()(features.double())
