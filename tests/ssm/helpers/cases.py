"""Random arguments, definitions in float64 written without the library's code, and errors against them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_core.interfaces import PADDING
from vlm_ssm import backends, selective_scan

ALL = [
    name
    for name in backends.BACKENDS
    if name in ("reference", "torch") or name == backends.default(torch.device("cpu"))
]
FAST = [name for name in ALL if name != "reference"]
TIMED = ("u", "delta", "B", "C", "z")
OPTIONAL = ("D", "z", "delta_bias", "initial_state")
Arguments = dict[str, Any]


def scan_inputs(
    batch: int,
    length: int,
    width: int,
    state: int,
    groups: int = 1,
    *,
    seed: int = 0,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
    absent: Iterable[str] = (),
) -> Arguments:
    """Random arguments of `selective_scan` by name, all requiring gradients; those in `absent` are None."""
    torch.manual_seed(seed)
    shapes = {
        "u": (batch, width, length),
        "delta": (batch, width, length),
        "A": (width, state),
        "B": (batch, groups, state, length),
        "C": (batch, groups, state, length),
        "D": (width,),
        "z": (batch, width, length),
        "delta_bias": (width,),
        "initial_state": (batch, width, state),
    }
    tensors = {name: torch.randn(shape) * scale for name, shape in shapes.items()}
    tensors["A"] = -tensors["A"].exp()
    cast = {n: t.to(dtype) if n in TIMED else t for n, t in tensors.items()}
    return {n: None if n in absent else t.requires_grad_() for n, t in cast.items()}


def changed(arguments: Arguments, change: Any) -> Arguments:
    """Each tensor through `change`, without gradients."""
    return {n: None if t is None else change(t.detach()) for n, t in arguments.items()}


def exact_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    softplus: bool = False,
    segments: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence in the arguments' own precision; padding takes part in nothing and has y = 0."""
    dt = delta if delta_bias is None else delta + delta_bias[:, None]
    dt = F.softplus(dt, threshold=60) if softplus else dt
    inputs, outputs = by_channel(B, u).unbind(-1), by_channel(C, u).unbind(-1)
    h = torch.zeros_like(u[..., :1] * A) if initial_state is None else initial_state
    ys, live, begins = [], *(m[:, None, None] for m in marks(segments, u))
    for t, (step, x) in enumerate(zip(dt.unbind(-1), u.unbind(-1), strict=True)):
        past = torch.where(begins[..., t], 0.0, h)
        new = torch.exp(step[..., None] * A) * past + (step * x)[..., None] * inputs[t]
        h = torch.where(live[..., t], new, h)
        ys.append((h * outputs[t]).sum(-1))
    y = torch.stack(ys, -1)
    y = y if D is None else y + D[:, None] * u
    y = y if z is None else y * F.silu(z)
    return torch.where(live[:, 0], y, 0.0), h


def by_channel(m: Tensor, u: Tensor) -> Tensor:
    """B or C as (E, S), (B, S, T) or (B, G, S, T) -> (B, E, S, T)."""
    if m.ndim == 2:
        return m[None, :, :, None].expand(len(u), -1, -1, u.shape[2])
    m = m[:, None] if m.ndim == 3 else m
    return m.repeat_interleave(u.shape[1] // m.shape[1], 1)


def marks(segments: Tensor | None, u: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T) each: which positions are no padding, and which of them begin a segment, but for the first."""
    live = torch.ones(u.shape[0], u.shape[-1], dtype=torch.bool)
    begins = torch.zeros_like(live)
    if segments is None:
        return live, begins
    for n, row in enumerate(segments.tolist()):
        latest = None
        for t, number in enumerate(row):
            live[n, t] = number != PADDING
            begins[n, t] = live[n, t] and latest is not None and number != latest
            latest = latest if number == PADDING else number
    return live, begins


def scan_loss(y: Tensor, last: Tensor, segments: Tensor | None) -> Tensor:
    """Depends on every live output and every state, each with a weight of its own."""
    live, _ = marks(segments, y)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y) * live[:, None]
    return (y.double() * weights).sum() + last.double().sin().sum()


def results(y: Tensor, last: Tensor, arguments: Arguments, segments: Tensor | None) -> dict[str, Tensor]:
    """Live outputs, the last state and the gradient of everything given, by name."""
    tensors = {n: t for n, t in arguments.items() if t is not None}
    grads = torch.autograd.grad(scan_loss(y, last, segments), list(tensors.values()))
    live, _ = marks(segments, y)
    values = {"y": torch.where(live[:, None], y, 0), "last": last}
    return values | {f"grad {n}": g for n, g in zip(tensors, grads, strict=True)}


def run_scan(
    backend: str | None, arguments: Arguments, softplus: bool = True, segments: Tensor | None = None
) -> dict[str, Tensor]:
    """`results` of a backend."""
    y, last = selective_scan(
        **arguments, delta_softplus=softplus, segments=segments, return_last_state=True, backend=backend
    )
    return results(y, last, arguments, segments)


def run_exact(
    arguments: Arguments, softplus: bool = True, segments: Tensor | None = None
) -> dict[str, Tensor]:
    """`results` of the definition in float64."""
    double = {n: t if t is None else t.detach().double().requires_grad_() for n, t in arguments.items()}
    return results(*exact_scan(**double, softplus=softplus, segments=segments), double, segments)


def error(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 error; what should be exactly 0 counts absolutely."""
    actual, expected = actual.detach().double(), expected.detach().double()
    norm = float(expected.norm())
    return float((actual - expected).norm()) / (norm or 1.0)


def sum_error(actual: Tensor, expected: Tensor, terms: Tensor) -> float:
    """`error` of a sum, whose terms stand along the first dimension of `terms`.

    Where they cancel to less than a twentieth of their sizes, it is measured against that.
    """
    actual, expected, sizes = (t.detach().double() for t in (actual, expected, terms.abs().sum(0)))
    scale = max(float(expected.norm()), float(sizes.norm()) / 20)
    return float((actual - expected).norm()) / (scale or 1.0)


def errors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    assert actual.keys() == expected.keys()
    for name, t in actual.items():
        assert t.shape == expected[name].shape, name
    return {name: error(t, expected[name]) for name, t in actual.items()}


def assert_near(actual: dict[str, Tensor], expected: dict[str, Tensor], limit: float, what: str = "") -> None:
    """Every entry within a relative error."""
    far = {n: e for n, e in errors(actual, expected).items() if not e <= limit}
    assert not far, f"{what}: {far}"


def assert_as_near(
    actual: dict[str, Tensor],
    expected: dict[str, Tensor],
    others: dict[str, float],
    limit: float,
    what: str = "",
) -> None:
    """Within the limit, or, where the inputs don't allow it, within four times the error of `others`.

    Gradients are sums that may cancel, by luck more in one order than in the other: they get room, those of a few
    numbers most. What is below fp32's range counts as 0.
    """
    far = {}
    for name, t in expected.items():
        slack = 1 if name in ("y", "last") else 4
        most = slack * max((1 if t.numel() >= 32 else 5) * limit, 4 * others[name])
        distance, norm = float((actual[name] - t).detach().norm()), float(t.detach().norm())
        if not distance <= most * norm + 1e-30:
            far[name] = (distance / (norm or 1.0), most)
    assert not far, f"{what}: {far}"


def gradients(outputs: Sequence[Tensor], inputs: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Gradients of a weighted sum of all outputs with respect to the inputs that are there, by name."""
    loss = torch.zeros((), dtype=torch.float64)
    for y in outputs:
        loss = loss + (y.double() * torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)).sum()
    tensors = {n: t for n, t in inputs.items() if t is not None}
    loss = loss + sum(
        (0 * t.double()).sum() for t in tensors.values()
    )  # outputs that are all padding depend on nothing
    grads = torch.autograd.grad(loss, list(tensors.values()))
    return {f"grad {n}": g for n, g in zip(tensors, grads, strict=True)}


def segments_of(kind, batch, length):
    """Runs of one number without padding, or numbers and padding in any order."""
    if kind == "none":
        return None
    numbers = torch.randint(0, 3, (batch, length))
    if kind == "runs":
        return numbers.sort(1).values
    return torch.where(torch.rand(batch, length) < 0.3, PADDING, numbers)
