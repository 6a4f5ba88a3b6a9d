"""The backend on mamba_ssm's kernels: on stand-ins that check what reaches them, or for real."""

import importlib
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from cases import assert_near, changed, exact_scan, gradients, marks, scan_inputs, segments_of
from conv_cases import Case as Window
from conv_cases import both as both_windows
from scan_order_cases import Case as Routes

from vlm_ssm import MambaMixer, SSMState, backends, ops, selective_scan
from vlm_ssm.registration.inputs import ScanInputs
from vlm_ssm.runtime.errors import BackendError

REAL = not backends.missing("mamba_ssm")
CALLS: list[str] = []


def scan_stand_in(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    """`selective_scan_fn` by the definition; as in the kernel, no gradient comes back from the last state."""
    CALLS.append("scan")
    batch, width, length = u.shape
    assert {t.dtype for t in (u, delta, B, C, z) if t is not None} <= {u.dtype}, "one dtype for all rows"
    assert u.shape == delta.shape
    assert all(t.stride(-1) == 1 or t.shape[-1] == 1 for t in (u, delta, B, C, z) if t is not None)
    assert all(t.dtype == torch.float32 for t in (A, D, delta_bias) if t is not None)
    groups = B.shape[1]
    assert B.shape == C.shape == (batch, groups, A.shape[1], length)
    assert width % groups == 0
    rows = [None if t is None else t.float() for t in (u, delta, A, B, C, D, z, delta_bias)]
    y, last = exact_scan(*rows, softplus=delta_softplus)
    return (y.to(u.dtype), last.detach()) if return_last_state else y.to(u.dtype)


def conv_stand_in(x, weight, bias=None, seq_idx=None, initial_states=None, activation=None):
    CALLS.append("conv")
    assert activation == "silu"
    assert seq_idx is None
    assert x.shape[1] % 8 == 0
    assert 2 <= weight.shape[1] <= 4
    assert x.stride(1) == 1, "channels last"
    past = x.new_zeros(len(x), x.shape[1], weight.shape[1] - 1) if initial_states is None else initial_states
    assert past.dtype == x.dtype == weight.dtype
    assert past.stride(1) == 1 or initial_states is None
    return F.silu(F.conv1d(torch.cat([past, x], -1), weight.unsqueeze(1), bias, groups=x.shape[1]))


def conv_update_stand_in(x, conv_state, weight, bias=None, activation=None):
    CALLS.append("conv update")
    assert x.ndim == 2
    assert conv_state.shape == (*x.shape, weight.shape[1] - 1)
    y = conv_stand_in(x.unsqueeze(-1), weight, bias, None, conv_state.mT.contiguous().mT, activation)
    conv_state.copy_(torch.cat([conv_state, x.unsqueeze(-1)], -1)[..., 1:])
    return y.squeeze(-1)


def state_stand_in(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    CALLS.append("state update")
    assert x.ndim == B.ndim == C.ndim == 2
    rows = [None if t is None else t.float().unsqueeze(-1) for t in (x, dt, B, C, z)]
    u, step, b, c, gate = rows
    y, last = exact_scan(u, step, A, b, c, D, gate, dt_bias, state.clone(), softplus=dt_softplus)
    state.copy_(last)
    return y.squeeze(-1).to(x.dtype)


def module(name, **members):
    made = ModuleType(name)
    made.__dict__.update(members)
    return made


STAND_INS = [
    module("selective_scan_cuda"),
    module("causal_conv1d_cuda"),
    module("mamba_ssm"),
    module("mamba_ssm.ops"),
    module("mamba_ssm.ops.triton"),
    module("mamba_ssm.ops.selective_scan_interface", selective_scan_fn=scan_stand_in),
    module("mamba_ssm.ops.triton.selective_state_update", selective_state_update=state_stand_in),
    module("causal_conv1d", causal_conv1d_fn=conv_stand_in, causal_conv1d_update=conv_update_stand_in),
]


@pytest.fixture(autouse=True)
def _backend(monkeypatch):
    """Everything on the GPU, or the backend on its stand-ins as if there were one."""
    CALLS.clear()
    if REAL:
        with torch.device("cuda"):
            yield
        return
    for stand_in in STAND_INS:
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    name = "vlm_ssm.mamba_ssm"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(backends._AVAILABLE, "mamba_ssm", importlib.import_module(name))
    monkeypatch.setattr(backends, "missing", lambda name: None)
    monkeypatch.setattr(backends, "_runs_on", lambda name, device: True)
    yield
    sys.modules.pop(name, None)


def run(case, segments=None):
    """Outputs, the last state, and gradients of the outputs alone, of the backend and of the definition."""
    made = []
    double = {n: t if t is None else t.detach().double().requires_grad_() for n, t in case.items()}
    options = {"segments": segments}
    for arguments, (y, last) in (
        (
            case,
            selective_scan(
                **case, **options, delta_softplus=True, return_last_state=True, backend="mamba_ssm"
            ),
        ),
        (double, exact_scan(**double, **options, softplus=True)),
    ):
        live, _ = marks(segments, y)
        y = torch.where(live.to(y.device)[:, None], y, 0)
        made.append({"y": y, "last": last.detach()} | gradients([y], arguments))
    return made


@pytest.mark.parametrize("absent", [(), ("initial_state",), ("z", "D", "delta_bias")])
@pytest.mark.parametrize("kind", ["none", "any"])
@pytest.mark.parametrize("groups", [1, 2])
def test_scan(absent, kind, groups):
    """With and without what the kernel lacks: initial state, segments, padding."""
    case = scan_inputs(2, 23, 6, 4, groups, absent=absent)
    assert_near(*run(case, segments_of(kind, 2, 23)), 2e-5)
    assert REAL or CALLS == ["scan"]


def test_bf16_rows_reach_the_kernel_as_they_are():
    case = scan_inputs(2, 30, 8, 4, dtype=torch.bfloat16, absent=("initial_state",))
    found, wanted = run(case)
    assert found["y"].dtype == torch.bfloat16
    assert_near(found, wanted, 2e-2)


def test_a_gradient_of_the_last_state_is_refused():
    case = scan_inputs(1, 5, 4, 2)
    _, last = selective_scan(**case, return_last_state=True, backend="mamba_ssm")
    with pytest.raises(BackendError, match="no gradient of the last state"):
        last.sum().backward()


def test_what_never_decays_is_not_forgotten_by_force():
    """It would stay, unseen."""
    case = changed(scan_inputs(1, 5, 4, 2), torch.clone)
    case["A"][1, 1] = 0
    if REAL:
        pytest.skip("the device stops, and with it this process")
    with pytest.raises(BackendError, match="A >= 0"):
        selective_scan(**case, segments=torch.tensor([[0, 0, 1, 1, 1]]), backend="mamba_ssm")


@pytest.mark.parametrize("case", [
    Routes(2, False, False, gated=True, length=11, width=4), Routes(3, True, True, gated=True, length=11, width=4),
    Routes(2, False, True, gated=False, length=11, width=4), Routes(1, False, False, gated=True, length=11, width=4),
])  # fmt: skip
def test_directions(case):
    """Directions as sequences, or as groups of channels."""
    tensors, scan_order, _ = case.build()
    made = []
    for use in ("mamba_ssm", "torch"):
        y, last = ops.scan(
            ScanInputs(**tensors, scan_order=scan_order, softplus=True, keep_directions=case.keep_directions),
            use=use,
        )
        made.append({"y": y, "last": last.detach()} | gradients([y], tensors))
    assert_near(*made, 2e-5)


@pytest.mark.parametrize("case", [
    Window(2, 9, 8, 4), Window(2, 9, 8, 4, state=True), Window(1, 3, 16, 3, state=True), Window(2, 7, 8, 2, K=3),
    Window(2, 7, 8, 3, K=2, own_rows=True, own_weights=True), Window(2, 7, 8, 4, K=2, own_weights=True),
    Window(2, 9, 8, 4, state=True, segmented=True), Window(2, 9, 5, 4), Window(1, 4, 8, 1),
])  # fmt: skip
def test_conv(case):
    """Also what goes to plain torch."""
    assert_near(*both_windows("mamba_ssm", *case.build()), 5e-6)
    kernel = case.width % 8 == 0 and case.taps > 1 and not case.segmented
    assert REAL or len(CALLS) == kernel


def test_one_token(monkeypatch):
    """Both updates; states before are left alone."""
    mixer = MambaMixer(4, d_state=3).eval()
    before = SSMState(torch.randn(2, 3, 8), torch.randn(2, 8, 3))
    kept, x, made = SSMState(*(t.clone() for t in before)), torch.randn(2, 1, 4), []
    for backend in ("mamba_ssm", "torch"):
        monkeypatch.setenv("VLM_SCAN_BACKEND", backend)
        with torch.no_grad():
            y, after = mixer(x, state=before)
        made.append({"y": y} | after._asdict())
    assert_near(*made, 2e-6)
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))
    assert REAL or CALLS == ["conv update", "conv", "state update"]
