"""A Mamba layer as one operation under torch: autograd, what is saved, compilation, checkpointing, FSDP2."""

import pytest
import torch
from cases import assert_near
from mixer_cases import Case, as_one_operation
from torch import nn
from torch.utils.checkpoint import checkpoint

from vlm_core.interfaces import PADDING
from vlm_ssm import add_norm_mix, boundaries_of
from vlm_ssm.fused import inputs as fused_inputs
from vlm_ssm.fused import op
from vlm_ssm.layers import fused_mixer
from vlm_ssm.numba import ops as numba_ops
from vlm_ssm.numba.kernels.scan_forward import CHUNK

NOT_A_LEAF = "ignore:The .grad attribute of a Tensor that is not a leaf"  # opcheck's own


@pytest.mark.parametrize(
    "name", ["x", "in_proj", "conv", "x_proj", "dt_bias", "A_log", "out_proj", "norm", "ssm_state"]
)
def test_gradient_of_one_input_alone(name):
    """Frozen weights: nothing is computed for them, and the others' gradients stay."""
    fields = tensors()
    everything = op.mixer(fields)
    (wanted,) = torch.autograd.grad(everything.y.sin().sum(), getattr(fields, name))
    alone = fields._replace(
        **{n: t.detach() for n, t in fields._asdict().items() if n != name and isinstance(t, torch.Tensor)}
    )
    (found,) = torch.autograd.grad(op.mixer(alone).y.sin().sum(), getattr(alone, name))
    assert_near({name: found}, {name: wanted}, 1e-6)


def tensors(backend="numba"):
    """Inputs of the operation, all with gradients."""
    E, M, S, R, T = 12, 6, 3, 2, 9
    torch.manual_seed(0)
    shapes = {
        "x": (2, T, M),
        "out": (2, T, M),
        "norm": (M,),
        "in_proj": (2 * E, M),
        "in_bias": (2 * E,),
        "conv": (E, 1, 4),
        "conv_bias": (E,),
        "x_proj": (R + 2 * S, E),
        "dt_proj": (E, R),
        "dt_bias": (E,),
        "A_log": (E, S),
        "D": (E,),
        "out_proj": (M, E),
        "out_bias": (M,),
        "conv_state": (2, 3, E),
        "ssm_state": (2, E, S),
    }
    given = {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}
    segments = torch.tensor([[PADDING, 0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1, 2]])
    flags = boundaries_of(segments)._asdict()
    return fused_inputs.MixerInputs(**given, **flags, eps=1e-5, dtype=torch.float32, backend=backend)


@pytest.mark.filterwarnings(NOT_A_LEAF)
@pytest.mark.parametrize("complete", [True, False])
def test_opcheck(complete):
    fields = tensors()
    if not complete:
        absent = (
            "out",
            "norm",
            "in_bias",
            "conv_bias",
            "out_bias",
            "conv_state",
            "ssm_state",
            *fields._fields[16:19],
        )
        fields = fields._replace(**dict.fromkeys(absent))
    torch.library.opcheck(torch.ops.vlm_ssm.mixer.default, tuple(fields))


@pytest.mark.parametrize("again", [False, True])
def test_nothing_else_is_saved(again, monkeypatch):
    """Of a block: the residual, its scale, in_proj's output, and what the scan needs; no copies of weights.

    What isn't computed again, too.
    """
    monkeypatch.setattr(numba_ops, "COMPUTES_AGAIN", again)
    case = Case(2, 64, norm=True)
    layer, norm, saved = case.layer(), nn.RMSNorm(10), {}
    weights = {p.untyped_storage()._cdata for p in (*layer.parameters(), *norm.parameters())}

    def pack(t):
        if t.untyped_storage()._cdata not in weights:
            saved[t.untyped_storage()._cdata] = t
        return t

    x, out = torch.randn(2, 64, 10, requires_grad=True), torch.randn(2, 64, 10).bfloat16()
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
    with torch.autocast("cpu", dtype=torch.bfloat16), hooks:
        summed, y, _ = add_norm_mix(x, out, norm, 1e-5, layer)
    rows, E, S = 2 * 64, layer.d_inner, layer.d_state
    blocks = -(-E // 16) * 16
    wanted = {
        "summed": rows * 10 * 4,
        "scale": rows * 4,
        "xz": rows * 2 * E * 2,
        "acc": rows * E * 4,
        "starts": 2 * (64 // CHUNK) * blocks * S * 4,
    }
    if not again:
        wanted |= {"u": rows * E * 2, "dt": rows * E * 2, "gated": rows * E * 2}
        wanted["projected"] = rows * (layer.dt_rank + 2 * S) * 2
    sizes = [t.untyped_storage().nbytes() for t in saved.values()]
    assert sorted(n for n in sizes if n) == sorted(wanted.values())
    assert summed.dtype == torch.float32
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("norm", [True, False])
def test_compiled_equals_eager(norm):
    case = Case(2, 7)
    layer, rms, x = case.layer(), nn.RMSNorm(10), torch.randn(2, 7, 10, requires_grad=True)

    def function(x):
        y = add_norm_mix(x, x.sin(), rms, 1e-5, layer)[1] if norm else layer(x)[0]
        return y.sin().sum()

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    inputs = [x, *layer.parameters()]
    wanted, found = (torch.autograd.grad(f(x), inputs) for f in (function, compiled))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_equals_the_other(reentrant):
    layer, x = Case(2, 9).layer(), torch.randn(2, 9, 10, requires_grad=True)
    inputs = [x, *layer.parameters()]
    layer(x)[0].sin().sum().backward()
    wanted = [t.grad for t in inputs]
    for t in inputs:
        t.grad = None
    checkpoint(layer, x, use_reentrant=reentrant)[0].sin().sum().backward()
    assert all(torch.equal(t.grad, w) for t, w in zip(inputs, wanted, strict=True))


def test_a_graph_can_be_walked_twice():
    layer, x = Case(2, 9).layer(), torch.randn(2, 9, 10, requires_grad=True)
    y = layer(x)[0].sin().sum()
    first, second = (torch.autograd.grad(y, [x, *layer.parameters()], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_without_gradients_nothing_is_kept():
    layer, x = Case(2, 9).layer(), torch.randn(2, 9, 10)
    with torch.no_grad(), as_one_operation(True):
        fused = layer(x)
    with torch.no_grad(), as_one_operation(False):
        wanted = layer(x)
    torch.testing.assert_close(fused[0], wanted[0])
    assert not fused[0].requires_grad


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="no gloo on this system")
@pytest.mark.parametrize("checkpointed", [False, True])
def test_fsdp2_units_run_as_one_operation(checkpointed, monkeypatch):
    """Outside of a unit's passes its parameters are DTensors, inside plain; also while it is computed again."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    calls = []
    monkeypatch.setattr(fused_mixer, "mixer", lambda inputs: calls.append(inputs) or op.mixer(inputs))
    layer, x = Case(2, 9).layer(), torch.randn(2, 9, 10)
    layer(x)[0].sin().sum().backward()
    wanted = {name: p.grad for name, p in layer.named_parameters()}
    layer.zero_grad()
    sharded = fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
    y = checkpoint(sharded, x, use_reentrant=False)[0] if checkpointed else sharded(x)[0]
    y.sin().sum().backward()
    assert len(calls) == (3 if checkpointed else 2)
    for name, p in sharded.named_parameters():
        torch.testing.assert_close(p.grad.full_tensor(), wanted[name])
