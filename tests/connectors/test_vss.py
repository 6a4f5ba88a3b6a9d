"""The connectors against the paper's text, one direction at a time, and their sizes."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import assert_near
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call

from vlm_connectors import scans
from vlm_connectors.configs import MLPConfig, VSSL2Config, VSSMLPConfig
from vlm_connectors.vss import VSS, tables
from vlm_core.interfaces import parameter_count
from vlm_ssm import MambaMixer

SCANS = {"bsm": scans.bsm, "csm": scans.csm}


def layer_of(vss: VSS, k: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Direction k's whole Mamba layer, put together from what the module shares; gradients arrive there."""
    if vss.parameters_of == "full":
        return lambda x: vss.mixers[k](x)[0]
    state = dict(vss.mixers[0].named_parameters())
    if vss.parameters_of == "ssm" and k:
        state |= dict(vss.ssms[k - 1].named_parameters())
    layer = MambaMixer(vss.mixers[0].in_proj.in_features, vss.mixers[0].d_state)
    return lambda x: functional_call(layer, state, x)[0]


def naive(vss: VSS, v: torch.Tensor) -> torch.Tensor:
    """Unfold, run the layer, fold back, for each direction in turn; then merge."""
    n, h, w, d = v.shape
    outs = []
    for k, order in enumerate(vss.scan(h, w)):
        walked = torch.stack([v.reshape(n, h * w, d)[:, p] for p in order], dim=1)
        out = layer_of(vss, k)(walked)
        back = torch.empty_like(out)
        for step, p in enumerate(order):
            back[:, p] = out[:, step]
        outs.append(back)
    merged = sum(outs) / (len(outs) if vss.merge == "mean" else 1)
    return merged.reshape(n, h, w, d)


@pytest.fixture(params=["torch", "numba"])
def _backend(request, monkeypatch):
    monkeypatch.setenv("VLM_SCAN_BACKEND", request.param)


@pytest.mark.usefixtures("_backend")
@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("parameters", ["shared", "ssm", "full"])
@pytest.mark.parametrize("merge", ["sum", "mean"])
def test_one_call_for_all_directions_equals_a_loop(scan, parameters, merge):
    """Outputs, and the gradients of the input and of every parameter."""
    torch.manual_seed(0)
    vss = VSS(8, SCANS[scan], parameters=parameters, merge=merge, d_state=4)
    v = torch.randn(2, 3, 5, 8, requires_grad=True)
    weights, inputs = torch.randn(2, 3, 5, 8), {"v": v} | dict(vss.named_parameters())
    torch.testing.assert_close(vss(v), naive(vss, v))
    found = torch.autograd.grad((vss(v) * weights).sum(), list(inputs.values()))
    wanted = torch.autograd.grad((naive(vss, v) * weights).sum(), list(inputs.values()))
    for name, a, b in zip(inputs, found, wanted, strict=True):
        assert_near({name: a}, {name: b}, 1e-5)


def test_joint_projections_of_frozen_hooked_and_strided():
    """Directions with whole layers: a frozen one, an input in another memory layout, a hooked projection."""
    torch.manual_seed(0)
    vss = VSS(8, scans.csm, parameters="full", d_state=4)
    vss.mixers[2].requires_grad_(False)
    v = torch.randn(8, 2, 3, 5).permute(1, 2, 3, 0).requires_grad_()
    inputs = [v, *(p for p in vss.parameters() if p.requires_grad)]
    wanted = torch.autograd.grad(naive(vss, v).square().sum(), inputs)
    for a, b in zip(torch.autograd.grad(vss(v).square().sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    calls = []
    vss.mixers[1].out_proj.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(vss(v), naive(vss, v))
    assert len(calls) == 2  # once in each


@given(h=st.integers(1, 9), w=st.integers(1, 9))
def test_every_direction_visits_every_patch_once(h, w):
    for scan in SCANS.values():
        for order in tables(scan, h, w):
            assert torch.equal(order.sort().values, torch.arange(h * w))


def test_scan_orders_of_a_small_grid():
    """0 1 2 / 3 4 5: rows and back; columns and back."""
    assert scans.bsm(2, 3) == [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]
    assert scans.csm(2, 3) == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]


def test_a_mechanism_that_skips_a_patch_is_refused():
    with pytest.raises(ValueError, match="permutations of range"):
        tables(lambda h, w: [[0] * (h * w)], 2, 2)


def test_equation_5():
    """V_out = MLP(Norm(VSS(V) + V))."""
    connector, v = VSSMLPConfig(d_state=4).build(8, 12), torch.randn(2, 3, 4, 8)
    scanned = naive(connector.vss, v)
    wanted = connector.mlp[2](F.gelu(connector.mlp[0](connector.norm(scanned + v))))
    torch.testing.assert_close(connector(v), wanted.flatten(1, 2))


def test_equation_6_takes_its_skip_before_the_gelu():
    """V' = Linear(V); V_out = Linear(Norm(VSS(GELU(V')) + V'))."""
    connector, v = VSSL2Config(d_state=4, scan="csm").build(8, 12), torch.randn(2, 3, 4, 8)
    projected = connector.project(v)
    wanted = connector.out(connector.norm(naive(connector.vss, F.gelu(projected)) + projected))
    torch.testing.assert_close(connector(v), wanted.flatten(1, 2))


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (MLPConfig(), 9.51),
        (VSSMLPConfig(), 17.93),
        (VSSL2Config(), 50.75),
        (VSSL2Config(parameters="ssm"), 52.67),
        (VSSL2Config(parameters="ssm", scan="csm"), 56.51),
        (VSSL2Config(parameters="full"), 92.00),
        (VSSL2Config(parameters="full", scan="csm"), 174.48),
    ],
    ids=lambda value: value.label() if hasattr(value, "label") else str(value),
)
def test_sizes_at_the_papers_widths(config, millions):
    """SigLIP-SO400M's 1152 to Mamba-2.8B's 2560."""
    with torch.device("meta"):
        count = parameter_count(config.build(1152, 2560))
    assert round(count / 1e6, 2) == millions
