"""The connectors against the paper's text, one direction at a time, and their sizes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vlm_connectors import scans
from vlm_connectors.configs import MLPConfig, VSSL2Config, VSSMLPConfig
from vlm_connectors.vss import VSS, tables
from vlm_core.interfaces import parameter_count
from vlm_core.ssm import MambaMixer

SCANS = {"bsm": scans.bsm, "csm": scans.csm}


def layer_of(vss: VSS, k: int) -> MambaMixer:
    """Direction k's whole Mamba layer, put together from what the module shares."""
    if vss.parameters_of == "full":
        return vss.mixers[k]
    layer = MambaMixer(vss.mixers[0].in_proj.in_features, vss.mixers[0].d_state)
    layer.load_state_dict(vss.mixers[0].state_dict())
    if vss.parameters_of == "ssm" and k:
        layer.load_state_dict(vss.ssms[k - 1].state_dict(), strict=False)
    return layer


def naive(vss: VSS, v: torch.Tensor) -> torch.Tensor:
    """Unfold, run the layer, fold back, for each direction in turn; then merge."""
    n, h, w, d = v.shape
    outs = []
    for k, route in enumerate(vss.scan(h, w)):
        walked = torch.stack([v.reshape(n, h * w, d)[:, p] for p in route], dim=1)
        out, _ = layer_of(vss, k)(walked)
        back = torch.empty_like(out)
        for step, p in enumerate(route):
            back[:, p] = out[:, step]
        outs.append(back)
    merged = sum(outs) / (len(outs) if vss.merge == "mean" else 1)
    return merged.reshape(n, h, w, d)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("parameters", ["shared", "ssm", "full"])
@pytest.mark.parametrize("merge", ["sum", "mean"])
def test_one_call_for_all_directions_equals_a_loop(scan, parameters, merge):
    torch.manual_seed(0)
    vss = VSS(8, SCANS[scan], parameters=parameters, merge=merge, d_state=4)
    v = torch.randn(2, 3, 5, 8, requires_grad=True)
    weights = torch.randn(2, 3, 5, 8)
    torch.testing.assert_close(vss(v), naive(vss, v))
    (found,) = torch.autograd.grad((vss(v) * weights).sum(), v)
    (wanted,) = torch.autograd.grad((naive(vss, v) * weights).sum(), v)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_parameter_gradients_of_full_equal_the_loop():
    """`full` uses its own layers in the naive loop, too, so gradients of every parameter can be compared."""
    torch.manual_seed(0)
    vss, v = VSS(8, scans.csm, parameters="full", d_state=4), torch.randn(2, 3, 4, 8)
    found = torch.autograd.grad(vss(v).sin().sum(), list(vss.parameters()))
    wanted = torch.autograd.grad(naive(vss, v).sin().sum(), list(vss.parameters()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@given(h=st.integers(1, 9), w=st.integers(1, 9))
def test_every_direction_visits_every_patch_once(h, w):
    for scan in SCANS.values():
        routes, inverse = tables(scan, h, w)
        for route, back in zip(routes, inverse, strict=True):
            assert torch.equal(route[back], torch.arange(h * w))


def test_routes_of_a_small_grid():
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
