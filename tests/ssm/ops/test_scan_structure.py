"""What the selective scan keeps apart: pieces, segments, padding, channels, memory layouts."""

import pytest
import torch
from cases import ALL, FAST, TIMED, assert_near, changed, run_scan, scan_inputs

from vlm_core.interfaces import PADDING
from vlm_ssm import selective_scan
from vlm_ssm.runtime.errors import BackendError


def inputs(*sizes, **options):
    """Arguments without gradients, with steps forward in time."""
    case = changed(scan_inputs(*sizes, **options), torch.clone)
    return case | {n: case[n].abs() for n in ("delta", "delta_bias")}


def cut(arguments, start, end, **other):
    """The positions from start to end."""
    return {n: t[..., start:end] if n in TIMED and t is not None else t for n, t in arguments.items()} | other


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("at", [1, 7, 32, 39])
def test_pieces_equal_whole(backend, at):
    """Outputs and the state at the end; to the bit with numba and in the definition."""
    case = inputs(2, 70, 22, 8, 2)
    whole, last = selective_scan(**case, delta_softplus=True, return_last_state=True, backend=backend)
    state, ys = case["initial_state"], []
    for start, end in ((0, at), (at, 70)):
        piece = cut(case, start, end, initial_state=state)
        y, state = selective_scan(**piece, delta_softplus=True, return_last_state=True, backend=backend)
        ys.append(y)
    if backend != "torch":
        assert torch.equal(torch.cat(ys, -1), whole)
        assert torch.equal(state, last)
    assert_near({"y": torch.cat(ys, -1), "last": state}, {"y": whole, "last": last}, 5e-7)


@pytest.mark.parametrize("backend", ALL)
def test_segments_equal_separate_scans(backend):
    """Each segment alone; the first continues the initial state, the last leaves its own."""
    case = inputs(1, 75, 20, 4)
    numbers = torch.tensor([[5] * 3 + [2] * 33 + [9] * 39])
    packed, last = selective_scan(**case, segments=numbers, return_last_state=True, backend=backend)
    for start, end in ((0, 3), (3, 36), (36, 75)):
        own = cut(case, start, end, initial_state=case["initial_state"] if start == 0 else None)
        y, state = selective_scan(**own, return_last_state=True, backend=backend)
        torch.testing.assert_close(packed[..., start:end], y)
    torch.testing.assert_close(last, state)


@pytest.mark.parametrize("backend", ALL)
def test_padding_is_as_if_it_were_not_there(backend):
    """Rows scattered among padding give what they give side by side, whatever stands at the padding."""
    case = inputs(2, 40, 18, 8)
    places = torch.randperm(70)[:40].sort().values
    segments = torch.full((2, 70), PADDING)
    segments[:, places] = torch.tensor([0] * 13 + [1] * 27)
    wide = {n: torch.randn(*t.shape[:-1], 70) if n in TIMED else t for n, t in case.items()}
    for name in TIMED:
        wide[name][..., places] = case[name]
    found, end = selective_scan(**wide, segments=segments, return_last_state=True, backend=backend)
    close = segments[:, places]
    wanted, last = selective_scan(**case, segments=close, return_last_state=True, backend=backend)
    torch.testing.assert_close(found[..., places], wanted)
    torch.testing.assert_close(end, last)


@pytest.mark.parametrize("backend", ALL)
def test_all_padding_hands_the_state_on(backend):
    case = inputs(2, 35, 3, 8)
    nothing = torch.full((2, 35), PADDING)
    _, last = selective_scan(**case, segments=nothing, return_last_state=True, backend=backend)
    assert torch.equal(last, case["initial_state"])


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "z", "initial_state"])
def test_nan_stays_visible_and_in_its_place(backend, name, softplus):
    """It reaches everything that depends on it, and no other channel, sequence or earlier position."""
    case = inputs(2, 50, 20, 4, 2)
    at = {"A": (1, 2), "B": (1, 0, 2, 40), "initial_state": (1, 1, 2)}.get(name, (1, 1, 40))
    case[name][at] = torch.nan
    found, last = selective_scan(**case, delta_softplus=softplus, return_last_state=True, backend=backend)
    bad = torch.zeros(2, 20, 50, dtype=torch.bool)
    sequences, channels = (slice(None) if name == "A" else 1), (slice(0, 10) if name == "B" else 1)
    begin = 0 if name in ("A", "initial_state") else 40
    bad[sequences, channels, begin : 41 if name == "z" else 50] = True
    assert torch.equal(found.isnan(), bad)
    assert torch.equal(last.isnan().any(-1), bad[..., -1])


def transposed(t):
    return t.transpose(0, -1).contiguous().transpose(0, -1)


def stepped(t):
    wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), torch.nan, dtype=t.dtype)
    wide[..., 1::2] = t
    return wide[..., 1::2]


def second_of_two(t):
    """The second half of the last dimension of a wider tensor, at an odd address."""
    return torch.cat([torch.full_like(t[..., :1], torch.nan), t], -1)[..., 1:]


def channels_last(t):
    """As the layers give it: channels next to each other, in a part of a wider row."""
    if t.ndim < 3:
        return t
    return torch.cat([t, t], dim=1).movedim(1, -1).contiguous().movedim(-1, 1)[:, : t.shape[1]]


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("layout", [transposed, stepped, second_of_two, channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_layouts_do_not_matter(backend, layout, dtype):
    """Outputs and gradients of tensors with gaps and turned dimensions equal those of dense ones."""
    case = scan_inputs(3, 35, 18, 8, 2, dtype=dtype)
    turned = {n: layout(t.detach()).requires_grad_() for n, t in case.items()}
    assert all(torch.equal(turned[n], t) for n, t in case.items())
    assert_near(run_scan(backend, turned), run_scan(backend, case), 1e-6)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_expanded_tensors(backend, dim):
    """A stride of 0 along any dimension equals the copied-out tensor; gradients arrive at the small one."""
    full = inputs(2, 35, 18, 8)
    small = {n: t.narrow(min(dim, t.ndim - 1), 0, 1).clone().requires_grad_() for n, t in full.items()}
    spread = {n: t.expand(full[n].shape) for n, t in small.items()}
    copied = {n: t.clone() for n, t in spread.items()}
    found, wanted = (selective_scan(**a, delta_softplus=True, backend=backend) for a in (spread, copied))
    assert_near({"y": found}, {"y": wanted}, 1e-6)
    grads = [torch.autograd.grad(y.sin().sum(), list(small.values())) for y in (found, wanted)]
    for name, a, b in zip(small, *grads, strict=True):
        assert_near({name: a}, {name: b}, 1e-6)


@pytest.mark.parametrize("backend", ALL)
def test_expanded_gradient(backend):
    """`y.sum()` hands back a gradient with strides of 0."""
    case = scan_inputs(2, 35, 18, 8)
    given = list(case.values())
    y = selective_scan(**case, delta_softplus=True, backend=backend)
    found = torch.autograd.grad(y.sum(), given, retain_graph=True)
    wanted = torch.autograd.grad(y, given, torch.ones_like(y))
    for name, a, b in zip(case, found, wanted, strict=True):
        assert_near({name: a}, {name: b}, 1e-6)


@pytest.mark.parametrize("backend", ALL)
def test_empty_batch(backend):
    y = selective_scan(**inputs(0, 5, 3, 4), backend=backend)
    assert y.shape == (0, 3, 5)


WRONG = {
    "delta": (2, 6, 5), "A": (6, 4), "B": (2, 1, 4, 9), "C": (2, 1, 8, 5), "D": (3,), "z": (2, 6, 4),
    "delta_bias": (4,), "initial_state": (2, 6, 3), "segments": (2, 5),
}  # fmt: skip


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(("b", "c"), [(4, 4), (2, 3)])
def test_groups_that_do_not_fit_are_refused(backend, b, c):
    """The width is no multiple of the groups, or B and C have different ones."""
    case = inputs(2, 9, 6, 8) | {"B": torch.randn(2, b, 8, 9), "C": torch.randn(2, c, 8, 9)}
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        selective_scan(**case, backend=backend)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("name", WRONG)
def test_misshapen_arguments_are_refused(backend, name):
    """A size that doesn't fit raises; memory that isn't the tensor's is never read."""
    case = inputs(2, 9, 6, 8)
    wrong = torch.zeros(WRONG[name], dtype=torch.long if name == "segments" else torch.float32)
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        selective_scan(**(case | {name: wrong}), backend=backend)


def test_refusals(monkeypatch):
    """No positions, an unknown backend by argument and by environment."""
    case = inputs(1, 3, 2, 2)
    for backend in ALL:
        with pytest.raises(ValueError, match="T = 0"):
            selective_scan(**cut(case, 0, 0), backend=backend)
    with pytest.raises(BackendError, match=r"'refrence'.*did you mean 'reference'"):
        selective_scan(**case, backend="refrence")
    monkeypatch.setenv("VLM_SCAN_BACKEND", "none")
    with pytest.raises(BackendError, match="possible: reference, torch, numba, cuda, triton, mamba_ssm"):
        selective_scan(**case)


@pytest.mark.parametrize("name", FAST)
def test_backend_by_environment(monkeypatch, name):
    """The variable decides where no argument does."""
    from vlm_ssm import backends

    monkeypatch.setenv("VLM_SCAN_BACKEND", name)
    assert backends.chosen(torch.device("cpu")) == name
    assert backends.chosen(torch.device("cpu"), "reference") == "reference"
    monkeypatch.delenv("VLM_SCAN_BACKEND")
    assert backends.chosen(torch.device("cpu")) == "numba"
    assert backends.chosen(torch.device("meta")) == "torch"


def test_numba_is_refused_off_the_cpu(monkeypatch):
    """But shapes are worked out on the meta device whatever is asked for."""
    from vlm_ssm import backends

    with pytest.raises(BackendError, match="'numba' runs on the CPU"):
        backends.chosen(torch.device("cuda"), "numba")
    case = {n: t.to("meta") for n, t in scan_inputs(2, 9, 6, 8).items()}
    assert selective_scan(**case, backend="numba").shape == (2, 6, 9)
