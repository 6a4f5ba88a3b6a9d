"""`causal_conv1d` against its definition in float64: every argument, values and gradients."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from cases import FAST, assert_near

from vlm_ssm import causal_conv1d

NAMES = ("x", "weight", "bias", "initial_states")


def exact(x, weight, bias, initial_states, seq_idx, activation):
    """Window after window: y (B, D, T)."""
    (batch, width, length), taps = x.shape, weight.shape[1]
    y = torch.zeros(batch, width, length, dtype=torch.float64)
    for n, t, j in itertools.product(range(batch), range(length), range(taps)):
        source = t - j
        if source < 0:
            past = initial_states is not None and source + taps - 1 >= 0
            if past and (seq_idx is None or bool((seq_idx[n, : t + 1] == seq_idx[n, 0]).all())):
                y[n, :, t] += weight[:, taps - 1 - j] * initial_states[n, :, source]
        elif seq_idx is None or seq_idx[n, source] == seq_idx[n, t]:
            y[n, :, t] += weight[:, taps - 1 - j] * x[n, :, source]
    y = y if bias is None else y + bias[:, None]
    y = y if activation is None else F.silu(y)
    return y if seq_idx is None else torch.where((seq_idx >= 0).unsqueeze(1), y, 0.0)


def inputs(taps=4, absent=()):
    torch.manual_seed(0)
    shapes = {"x": (2, 5, 11), "weight": (5, taps), "bias": (5,), "initial_states": (2, 5, taps - 1)}
    return {n: None if n in absent else torch.randn(s).requires_grad_() for n, s in shapes.items()}


def with_gradients(y, tensors):
    given = {n: t for n, t in tensors.items() if t is not None and t.numel()}
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
    grads = torch.autograd.grad((y.double() * weights).sum(), list(given.values()))
    return {"y": y} | dict(zip(given, grads, strict=True))


SEQ_IDX = torch.tensor([[0] * 4 + [1] * 5 + [2] * 2, [3] + [0] * 10])


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("seq_idx", [None, SEQ_IDX])
@pytest.mark.parametrize("absent", [(), ("bias",), ("initial_states",)])
@pytest.mark.parametrize("taps", [1, 2, 4, 6])
def test_equals_the_definition(backend, activation, seq_idx, absent, taps):
    tensors = inputs(taps, absent)
    chosen = None if activation is None else backend
    y = causal_conv1d(**tensors, seq_idx=seq_idx, activation=activation, backend=chosen)
    double = {n: None if t is None else t.detach().double().requires_grad_() for n, t in tensors.items()}
    wanted = exact(**double, seq_idx=seq_idx, activation=activation)
    assert_near(with_gradients(y, tensors), with_gradients(wanted, double), 2e-6)


@pytest.mark.parametrize("activation", [None, "silu"])
def test_padding_inside_a_sequence(activation):
    """A negative number is padding: y is 0 there, and no window finds it."""
    seq_idx = torch.tensor([[0, 0, -1, 0, 0, -7, 1, 1, 1, -1, -1], [-1, -1, 5, 5, 5, 5, 5, 6, 6, 6, 6]])
    tensors = inputs(absent=("initial_states",))
    y = causal_conv1d(**tensors, seq_idx=seq_idx, activation=activation)
    double = {n: None if t is None else t.detach().double().requires_grad_() for n, t in tensors.items()}
    wanted = exact(**double, seq_idx=seq_idx, activation=activation)
    assert_near(with_gradients(y, tensors), with_gradients(wanted, double), 2e-6)


@pytest.mark.parametrize("cut", [1, 2, 5, 10])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_pieces_equal_the_whole(cut, activation):
    """What `return_final_states` gives is what the next call's `initial_states` take."""
    tensors = {n: t.detach() for n, t in inputs().items()}
    x, state = tensors.pop("x"), tensors.pop("initial_states")
    whole, last = causal_conv1d(
        x, **tensors, initial_states=state, return_final_states=True, activation=activation
    )
    ys, room = [], torch.empty(2, 5, 3)
    for piece in (x[..., :cut], x[..., cut:]):
        y, state = causal_conv1d(
            piece, **tensors, initial_states=state, return_final_states=True, activation=activation
        )
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys, -1), whole)
    assert torch.equal(state, last)
    assert torch.equal(last, x[..., -3:])
    _, given = causal_conv1d(x, **tensors, return_final_states=True, final_states_out=room)
    assert given is room
    assert torch.equal(room, last)


def test_bf16_keeps_its_dtype():
    tensors = {n: t.detach().bfloat16() for n, t in inputs().items()}
    for activation in (None, "silu"):
        y, last = causal_conv1d(**tensors, return_final_states=True, activation=activation)
        assert (y.dtype, last.dtype) == (torch.bfloat16, torch.bfloat16)
        wanted = exact(**{n: t.double() for n, t in tensors.items()}, seq_idx=None, activation=activation)
        assert float((y.double() - wanted).norm() / wanted.norm()) < 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "relu"}, "activation is 'relu'; possible: None, 'silu', 'swish'"),
        ({"backend": "reference"}, "backend 'reference' has no convolution without activation"),
        ({"final_states_out": torch.empty(2, 5, 3)}, "needs return_final_states=True"),
        ({"final_states_out": torch.empty(1, 5, 3), "return_final_states": True}, "final_states_out is"),
        ({"weight": torch.ones(4, 4)}, "weight \\(4, 4\\); expected \\(B, D, T\\) and \\(D, W\\)"),
        ({"bias": torch.ones(1)}, "bias is \\(1,\\), expected \\(5,\\)"),
        ({"initial_states": torch.ones(2, 5, 4)}, "initial_states is"),
        ({"seq_idx": torch.zeros(2, 10, dtype=torch.int32)}, "seq_idx is \\(2, 10\\)"),
        ({"seq_idx": torch.zeros(2, 11)}, "seq_idx is torch.float32, expected integers"),
        ({"x": torch.ones(2, 5, 0)}, "at least one position"),
    ],
)
def test_what_it_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**(inputs() | change))
