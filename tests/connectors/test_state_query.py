"""state-query against a naive definition: a whole Mamba layer along each direction in turn."""

import pytest
import torch
from cases import assert_near
from torch.func import functional_call

from vlm_connectors import scans
from vlm_connectors.reducer_configs import StateQueryConfig
from vlm_connectors.reducers import sincos
from vlm_connectors.state_query import MAP, StateQuery, cells, with_queries
from vlm_core.diagnose.costs.trace import measure
from vlm_core.errors import UserError
from vlm_core.interfaces import parameter_count
from vlm_ssm import MambaMixer

SCANS = {"bsm": scans.bsm, "csm": scans.csm}


def layer_of(connector: StateQuery, k: int):
    """Direction k's whole Mamba layer, gate and all; gradients arrive at the connector's parameters."""
    ssm = connector.ssms[k if len(connector.ssms) > 1 else 0]
    state = dict(ssm.named_parameters()) | {
        "in_proj.weight": torch.cat([connector.in_proj.weight, connector.gate.weight]),
        "out_proj.weight": connector.out_proj.weight,
    }
    layer = MambaMixer(connector.query.shape[1], ssm.d_state, ssm.d_conv)
    return lambda x: functional_call(layer, state, x)[0]


def naive(connector: StateQuery, v: torch.Tensor) -> torch.Tensor:
    n, h, w, _ = v.shape
    q, m = connector.query.shape
    patches = connector.norm_patch(connector.project(v.reshape(n, h * w, -1))) + sincos(h, w, m, MAP)
    query = connector.norm_query(connector.query) + sincos(*cells(q), m, MAP)
    tokens = [*patches.unbind(1), *(one.expand(n, -1) for one in query)]
    read = [query[i].expand(n, -1) for i in range(q)]
    for k, order in enumerate(with_queries(connector.scan, h, w, q, connector.placement)):
        y = layer_of(connector, k)(torch.stack([tokens[t] for t in order], 1))
        read = [r + y[:, order.index(h * w + i)] for i, r in enumerate(read)]
    return connector.out(connector.norm(torch.stack(read, 1)))


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"scan": "csm", "parameters": "ssm"},
        {"placement": "end", "queries": 5},
        {"scan": "csm", "placement": "end", "parameters": "ssm", "queries": 1},
        {"queries": 40},  # more queries than patches
    ],
    ids=str,
)
def test_equals_a_loop_over_directions(backend, keys, monkeypatch):
    """Outputs, and the gradients of the input and of every parameter."""
    monkeypatch.setenv("VLM_SCAN_BACKEND", backend)
    torch.manual_seed(0)
    connector = StateQueryConfig(**({"queries": 6, "d_state": 4} | keys)).build(6, 16)
    v = torch.randn(2, 3, 5, 6, requires_grad=True)
    weights, inputs = torch.randn(2, len(connector.query), 16), {"v": v} | dict(connector.named_parameters())
    torch.testing.assert_close(connector(v), naive(connector, v))
    with torch.no_grad():
        torch.testing.assert_close(connector(v), naive(connector, v))
    found = torch.autograd.grad((connector(v) * weights).sum(), list(inputs.values()))
    wanted = torch.autograd.grad((naive(connector, v) * weights).sum(), list(inputs.values()))
    for name, a, b in zip(inputs, found, wanted, strict=True):
        assert_near({name: a}, {name: b}, 1e-5)


def test_places_of_the_queries():
    """2 × 2 cells on 4 × 4 patches have the centres 5, 7, 13 and 15; a query follows its patch both ways."""
    forward, reverse = with_queries(scans.bsm, 4, 4, 4, "spread")
    assert forward == [0, 1, 2, 3, 4, 5, 16, 6, 7, 17, 8, 9, 10, 11, 12, 13, 18, 14, 15, 19]
    assert reverse == [15, 19, 14, 13, 18, 12, 11, 10, 9, 8, 7, 17, 6, 5, 16, 4, 3, 2, 1, 0]
    assert with_queries(scans.bsm, 1, 2, 3, "end") == [[0, 1, 2, 3, 4], [1, 0, 2, 3, 4]]
    assert with_queries(scans.bsm, 1, 1, 4, "spread") == [[0, 1, 2, 3, 4]] * 2
    assert [cells(n) for n in (1, 2, 5, 6, 12, 16)] == [(1, 1), (1, 2), (1, 5), (2, 3), (3, 4), (4, 4)]


@pytest.mark.parametrize("placement", ["spread", "end"])
@pytest.mark.parametrize("scan", SCANS)
def test_every_query_sees_every_patch(scan, placement):
    connector = StateQueryConfig(queries=4, scan=scan, placement=placement, d_state=4).build(6, 16).double()
    v = torch.randn(1, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    for query in range(4):
        (gradient,) = torch.autograd.grad(connector(v)[0, query].square().sum(), v)
        assert (gradient.abs().sum(-1) > 0).all()


def test_queries_at_the_end_read_one_state():
    """Of two directions and two states each channel of 12 outputs holds four numbers; spread queries hold more."""
    torch.manual_seed(0)
    beyond = {}
    for placement in ("end", "spread"):
        keys = {"queries": 12, "placement": placement, "d_state": 2, "d_conv": 1}
        connector, read = StateQueryConfig(**keys).build(6, 16), []
        connector.out_proj.register_forward_pre_hook(lambda _, inputs, read=read: read.append(inputs[0]))
        connector(torch.randn(30, 4, 4, 6))
        centred = (read[0] - read[0].mean(0)).double()  # (images, queries, channels)
        values = torch.linalg.svdvals(centred.permute(2, 0, 1))
        beyond[placement] = (values[:, 4] / values[:, 0]).max()  # the fifth of each channel
    assert beyond["end"] < 1e-4 < 1e-2 < beyond["spread"]


def test_a_hooked_projection_is_called():
    connector, calls = StateQueryConfig(queries=2, d_state=4).build(6, 16), []
    for name in ("in_proj", "gate", "out_proj"):
        connector.get_submodule(name).register_forward_hook(lambda *_: calls.append(1))
    connector(torch.randn(1, 2, 3, 6))
    assert len(calls) == 4  # in_proj once for the patches and once for the queries


def test_flops_by_hand():
    """Products for patches plus queries in front of the scan, for queries after it; per image."""
    d_in, m, e, s, patches, q = 6, 16, 32, 4, 15, 4
    connector = StateQueryConfig(queries=q, d_state=s).build(d_in, m)
    tokens, directions, rank = patches + q, 2, 1
    front = patches * d_in * m + tokens * m * e
    low = directions * tokens * e * (rank + 2 * s) + directions * tokens * rank * e
    behind = q * (m * e + e * m + m * m)
    scanned = 7 * directions * tokens * e * s
    cost = measure(connector, lambda: connector(torch.randn(1, 3, 5, d_in)))
    assert cost.forward == 2 * (front + low + behind) + scanned


def test_size():
    """SigLIP-SO400M's 1152 to Mamba-2.8B's 2560, 16 queries: less than vss-l2's 50.75 million plus the queries."""
    with torch.device("meta"):
        connector = StateQueryConfig().build(1152, 2560)
    assert round(parameter_count(connector) / 1e6, 2) == 50.81


def test_widths_without_room_for_positions_are_refused():
    with pytest.raises(UserError, match="width 18 must be a multiple of 4"):
        StateQueryConfig().build(6, 18)
