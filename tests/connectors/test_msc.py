"""ML-Mamba's scan connector against transformers' Mamba-2, one direction at a time."""

import pytest
import torch
import torch.nn.functional as F

from vlm_connectors import scans
from vlm_connectors.configs import MSCConfig
from vlm_connectors.msc import Mamba2Scan
from vlm_ssm.reference import recurrence

DIM = 16
PER_DIRECTION = ("conv1d.weight", "conv1d.bias", "dt_bias", "A_log", "D")


def forward_only(h, w):
    """A single direction: rows from the top left."""
    return [list(range(h * w))]


SCANS = {"one": forward_only, "bsm": scans.bsm, "csm": scans.csm}


def mamba2_of_transformers(scan: Mamba2Scan, k: int):
    """Their whole layer with the parameters of direction k -> its output before out_proj, (N, T, E)."""
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=DIM,
        state_size=8,
        head_dim=8,
        num_heads=4,
        n_groups=1,
        expand=2,
        conv_kernel=4,
        num_hidden_layers=1,
        layer_norm_epsilon=1e-5,
        use_bias=False,
        use_conv_bias=True,
        chunk_size=4,
    )
    theirs, ssm = Mamba2Mixer(config, layer_idx=0).eval(), scan.ssms[k]
    state = {name: ssm.get_parameter(name) for name in PER_DIRECTION}
    state |= {"in_proj.weight": scan.in_proj.weight, "norm.weight": scan.norm.weight}
    theirs.load_state_dict(state | {"out_proj.weight": scan.out_proj.weight})
    return theirs


def random_scan(scan) -> Mamba2Scan:
    """Every parameter away from a value, such as D = 1, that would hide a mistake."""
    torch.manual_seed(0)
    layer = Mamba2Scan(DIM, scan, d_state=8, head_dim=8)
    for parameter in (layer.norm.weight, *(ssm.D for ssm in layer.ssms)):
        torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return layer


@pytest.fixture(params=["torch", "numba"])
def _backend(request, monkeypatch):
    monkeypatch.setenv("VLM_SCAN_BACKEND", request.param)


@pytest.mark.usefixtures("_backend")
@pytest.mark.parametrize("name", SCANS)
def test_each_direction_is_a_mamba_2_layer_of_transformers(name):
    """Their out_proj is linear, so the mean of their outputs is the output of the mean."""
    scan, v = random_scan(SCANS[name]), torch.randn(2, 3, 5, DIM)
    wanted = []
    for k, order in enumerate(SCANS[name](3, 5)):
        with torch.no_grad():
            walked = mamba2_of_transformers(scan, k)(v.flatten(1, 2)[:, order])
        wanted.append(walked[:, torch.tensor(order).argsort()])
    found = scan(v).flatten(1, 2)
    torch.testing.assert_close(found, torch.stack(wanted).mean(0), atol=2e-6, rtol=1e-5)


def naive(scan: Mamba2Scan, v: torch.Tensor) -> torch.Tensor:
    """Direction after direction, head after head, by the definition's loop."""
    n, h, w, _ = v.shape
    z, x, dt = scan.in_proj(v.flatten(1, 2)).split(scan.sizes, -1)
    outs = []
    for ssm, order in zip(scan.ssms, scan.scan(h, w), strict=True):
        u = F.silu(ssm.conv1d(x[:, order].mT)[..., : h * w].mT)
        step, heads = F.softplus(dt[:, order] + ssm.dt_bias), []
        u, b, c = u.split([scan.sizes[0], 8, 8], -1)
        for head, a in enumerate(-ssm.A_log.exp()):
            part = u[..., 8 * head : 8 * head + 8]
            args = (
                part,
                step[..., head, None].expand_as(part),
                a.expand(8, 8),
                b.unsqueeze(2),
                c.unsqueeze(2),
            )
            y, _ = recurrence(*args, v.new_zeros(n, 8, 8), None)
            heads.append(y + ssm.D[head] * part)
        y = torch.cat(heads, -1)[:, torch.tensor(order).argsort()] * F.silu(z)
        outs.append(y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scan.norm.weight)
    return scan.out_proj(sum(outs) / len(outs)).unflatten(1, (h, w))


@pytest.mark.usefixtures("_backend")
@pytest.mark.parametrize("name", ["bsm", "csm"])
def test_all_directions_at_once_equal_a_loop_gradients_included(name):
    scan, v = random_scan(SCANS[name]), torch.randn(2, 2, 3, DIM, requires_grad=True)
    inputs, weights = {"v": v} | dict(scan.named_parameters()), torch.randn(2, 2, 3, DIM)
    found = torch.autograd.grad((scan(v) * weights).sum(), list(inputs.values()))
    wanted = torch.autograd.grad((naive(scan, v) * weights).sum(), list(inputs.values()))
    for name, a, b in zip(inputs, found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("swiglu", [True, False])
def test_the_whole_connector(swiglu):
    """Linear–GELU; h + scan(h), h + SwiGLU(LayerNorm(h)), as often as there are blocks; LayerNorm; MLP."""
    connector = MSCConfig(d_state=8, head_dim=8, swiglu=swiglu).build(12, DIM)
    v = torch.randn(2, 3, 4, 12)
    h = F.gelu(connector.project(v))
    for block in connector.blocks:
        h = h + block.mixer(h)
        if swiglu:
            norm, gated = block.mlp
            x = norm(h)
            h = h + gated.w3(F.silu(gated.w1(x)) * gated.w2(x))
    a, b, c = connector.mlp[::2]
    wanted = c(F.gelu(b(F.gelu(a(connector.norm(h))))))
    torch.testing.assert_close(connector(v), wanted.flatten(1, 2))
    assert a.out_features == 4 * DIM
