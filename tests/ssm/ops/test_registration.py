"""The operations under torch's own machinery: opcheck, compile, checkpoint, double use of a graph."""

from typing import Any

import pytest
import torch
from cases import ALL, assert_near, scan_inputs
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vlm_core.interfaces import PADDING
from vlm_ssm import MambaMixer, SSMState, add_rms_norm, boundaries_of, linear, ops
from vlm_ssm import selective_scan as scan
from vlm_ssm.torch import chunked_scan

NOT_A_LEAF = "ignore:The .grad attribute of a Tensor that is not a leaf"  # opcheck's own


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True)


def segments() -> Tensor:
    return torch.tensor([[PADDING, 0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1, 2]])


@pytest.mark.filterwarnings(NOT_A_LEAF)
@pytest.mark.parametrize("keep", [torch.ones(2, 9), None])
def test_chunked_scan(keep):
    steps = torch.rand(2, 9, 4, requires_grad=True)
    A = (-torch.rand(4, 3)).requires_grad_()
    arguments = (leaf(2, 9, 4), steps, A, leaf(2, 9, 1, 3), leaf(2, 9, 1, 3), leaf(2, 4, 3), keep)
    torch.library.opcheck(chunked_scan._forward, arguments)


@pytest.mark.filterwarnings(NOT_A_LEAF)
@pytest.mark.parametrize("complete", [True, False])
def test_numba_scan(complete):
    """With every optional argument, and with none."""
    K, N, T, E, S, G = 2, 2, 9, 6, 3, 2
    A = (-torch.rand(1, E, S)).requires_grad_()
    arguments: list[Any] = [leaf(K, N, T, E), leaf(K, N, T, E), A, leaf(K, N, T, G, S), leaf(K, N, T, G, S)]
    if complete:
        scan_order = torch.stack([torch.arange(T), torch.randperm(T)])
        reset = boundaries_of(segments()).reset
        arguments += [
            leaf(1, E),
            leaf(1, E),
            leaf(N, T, 1, E),
            leaf(K, N, E, S),
            reset,
            scan_order,
            True,
            False,
        ]
    else:
        arguments += [None, None, None, None, None, None, False, True]
    torch.library.opcheck(torch.ops.vlm_ssm.numba_scan.default, tuple(arguments))


@pytest.mark.filterwarnings(NOT_A_LEAF)
@pytest.mark.parametrize("complete", [True, False])
def test_numba_conv(complete):
    arguments: tuple[Any, ...] = (leaf(2, 9, 1, 6), leaf(1, 4, 6))
    if complete:
        scan_order = torch.stack([torch.arange(9), torch.randperm(9)])
        arguments += (leaf(1, 6), leaf(2, 3, 6), *boundaries_of(segments()), scan_order)
    else:
        arguments += (None, None, None, None, None, None)
    torch.library.opcheck(torch.ops.vlm_ssm.numba_conv.default, arguments)


@pytest.mark.filterwarnings(NOT_A_LEAF)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("added", [True, False])
def test_numba_norm(added, dtype):
    out = leaf(2, 5, 7) if added else None
    torch.library.opcheck(
        torch.ops.vlm_ssm.numba_add_norm.default, (leaf(2, 5, 7), out, leaf(7), 1e-5, dtype)
    )


def layer(x: Tensor, a: dict[str, Tensor], backend: str) -> Tensor:
    """One of everything: norm, convolution, scan."""
    summed, y = ops.add_rms_norm(x, x.sin(), a["norm"], 1e-5, use=backend)
    u = ops.conv(y.unsqueeze(2), a["weight"], a["bias"], use=backend)[0].transpose(1, 2)
    own = {n: a[n] for n in ("delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")}
    y, last = scan(u, **own, delta_softplus=True, return_last_state=True, backend=backend)
    return y.sin().sum() + last.sum() + summed.cos().sum()


@pytest.mark.parametrize("backend", ALL)
def test_compiled_equals_eager(backend):
    """The whole layer as one graph, forward and backward."""
    a = scan_inputs(2, 7, 6, 3) | {"norm": leaf(6), "weight": leaf(1, 6, 4), "bias": leaf(1, 6)}
    del a["u"]
    x = leaf(2, 7, 6)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    loss, wanted = compiled(x, a, backend), layer(x, a, backend)
    assert_near({"loss": loss}, {"loss": wanted}, 1e-6)
    grads = [torch.autograd.grad(y, [x, *a.values()]) for y in (loss, wanted)]
    for name, found, expected in zip(["x", *a], *grads, strict=True):
        assert_near({name: found}, {name: expected}, 1e-6)


@pytest.mark.parametrize("backend", ALL)
def test_checkpoint_gives_the_same_gradients(backend, monkeypatch):
    monkeypatch.setenv("VLM_SCAN_BACKEND", backend)
    mixer, x = MambaMixer(12, d_state=5), leaf(2, 9, 12)
    numbers, inputs = segments(), [x, *mixer.parameters()]
    plain, _ = mixer(x, numbers)
    again, _ = checkpoint(mixer, x, numbers, use_reentrant=False)
    assert torch.equal(plain, again)
    wanted, found = (torch.autograd.grad(y.sin().sum(), inputs) for y in (plain, again))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("backend", ALL)
def test_a_graph_can_be_walked_twice(backend):
    """Saved tensors are not changed by the backward pass."""
    a = scan_inputs(2, 40, 18, 8)
    y = scan(**a, delta_softplus=True, backend=backend).sin().sum()
    first = torch.autograd.grad(y, list(a.values()), retain_graph=True)
    second = torch.autograd.grad(y, list(a.values()))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


ONCE = {
    "norm": lambda x: ops.add_rms_norm(x, None, torch.ones(6), 1e-5, use="numba")[1],
    "conv": lambda x: ops.conv(x.unsqueeze(2), torch.ones(1, 6, 4), use="numba"),
    "scan": lambda x: scan(
        x.mT, x.mT, -torch.ones(6, 2), torch.ones(2, 2, 9), torch.ones(2, 2, 9), backend="numba"
    ),
    "mixer": MambaMixer(6),
}


@pytest.mark.parametrize("loss", [Tensor.sum, lambda y: y.sin().sum()], ids=["sum", "sine"])
@pytest.mark.parametrize("op", ONCE.values(), ids=ONCE)
def test_a_gradient_of_a_gradient_is_refused(op, loss):
    """Kernels would leave out a term, also where the gradient that arrives depends on nothing, as that of a sum."""
    x = leaf(2, 9, 6)
    y = op(x)
    (grad,) = torch.autograd.grad(loss(y if isinstance(y, Tensor) else y[0]), x, create_graph=True)
    with pytest.raises(RuntimeError, match="a gradient of a gradient"):
        torch.autograd.grad((grad * x).sum(), x)


def test_a_first_gradient_may_be_recorded():
    """`create_graph` changes nothing in it, activation checkpointing included."""
    mixer, x = MambaMixer(6), leaf(2, 9, 6)
    for y in (mixer(x)[0], checkpoint(mixer, x, use_reentrant=False)[0]):  # pyright: ignore
        plain, recorded = (
            torch.autograd.grad(y.sin().sum(), x, retain_graph=True, create_graph=record)[0]
            for record in (False, True)
        )
        assert torch.equal(plain, recorded)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("name", ["u", "A", "z", "initial_state"])
def test_gradient_of_one_argument_alone(backend, name):
    """The others need none."""
    case = scan_inputs(2, 40, 18, 8)
    alone = {n: t if n == name else t.detach() for n, t in case.items()}
    ys = [scan(**a, delta_softplus=True, backend=backend).sin().sum() for a in (case, alone)]
    wanted, found = (torch.autograd.grad(y, case[name])[0] for y in ys)
    assert_near({name: found}, {name: wanted}, 1e-6)


def test_the_norm_is_exported():
    """`vlm_ssm.add_rms_norm` is the operation itself."""
    assert add_rms_norm is ops.add_rms_norm


def test_the_default_dtype_does_not_matter():
    """Scripts that set it to float64 get the same numbers; inner buffers are fp32 all the same."""
    x, weight, matrix = torch.randn(3, 20), torch.rand(20), torch.randn(37, 20)
    mixer = MambaMixer(20).eval()
    state = mixer(x[None])[1]

    def run() -> list[Tensor]:
        with torch.no_grad():
            y, after = mixer(x[None, :1], state=SSMState(*(t.detach() for t in state)))
            return [*add_rms_norm(x, None, weight, 1e-5), linear(x[:1], matrix), y, *after]

    wanted = run()
    torch.set_default_dtype(torch.float64)
    try:
        found = run()
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
