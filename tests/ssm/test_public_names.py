"""vlm_ssm as a library of its own: signatures of mamba_ssm and causal_conv1d, state dicts, no import of vlm_*."""

import ast
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

import vlm_ssm
from vlm_ssm import Mamba, MambaMixer, causal_conv1d, selective_scan

PACKAGES = Path(__file__).parents[2] / "packages"
SOURCES = PACKAGES / "vlm-ssm" / "src" / "vlm_ssm"


def positional(function):
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [name for name, p in inspect.signature(function).parameters.items() if p.kind is kind]


def test_arguments_stand_where_mamba_ssm_and_causal_conv1d_have_them():
    assert positional(selective_scan) == [
        "u",
        "delta",
        "A",
        "B",
        "C",
        "D",
        "z",
        "delta_bias",
        "delta_softplus",
        "return_last_state",
    ]
    assert positional(causal_conv1d) == [
        "x",
        "weight",
        "bias",
        "seq_idx",
        "initial_states",
        "return_final_states",
        "final_states_out",
        "activation",
    ]
    assert positional(Mamba.forward) == ["self", "hidden_states", "inference_params"]
    names = list(inspect.signature(Mamba).parameters)
    assert names == [
        "d_model", "d_state", "d_conv", "expand", "dt_rank", "dt_min", "dt_max", "dt_init", "dt_scale",
        "dt_init_floor", "conv_bias", "bias", "use_fast_path", "layer_idx", "device", "dtype",
    ]  # fmt: skip


def state_dict_of_mamba_ssm(width, state, taps, rank, conv_bias=True, bias=False):
    """Names and shapes of `mamba_ssm.Mamba(d_model=width, …).state_dict()`, with random values."""
    inner = 2 * width
    shapes = {
        "A_log": (inner, state),
        "D": (inner,),
        "in_proj.weight": (2 * inner, width),
        "conv1d.weight": (inner, 1, taps),
        "x_proj.weight": (rank + 2 * state, inner),
        "dt_proj.weight": (inner, rank),
        "dt_proj.bias": (inner,),
        "out_proj.weight": (width, inner),
    }
    shapes |= {"conv1d.bias": (inner,)} if conv_bias else {}
    shapes |= {"in_proj.bias": (2 * inner,), "out_proj.bias": (width,)} if bias else {}
    return {name: torch.randn(shape) * 0.1 for name, shape in shapes.items()}


def naive(p, x):
    """mamba_ssm's slow path, step by step."""
    inner, z = nn.functional.linear(x, p["in_proj.weight"], p.get("in_proj.bias")).chunk(2, -1)
    taps, (width, states) = p["conv1d.weight"].shape[2], p["A_log"].shape
    padded = nn.functional.pad(inner.mT, (taps - 1, 0))
    u = nn.functional.silu(
        nn.functional.conv1d(padded, p["conv1d.weight"], p.get("conv1d.bias"), groups=width)
    ).mT
    low = u @ p["x_proj.weight"].T
    dt, B, C = low.split([low.shape[-1] - 2 * states, states, states], -1)
    dt = nn.functional.softplus(dt @ p["dt_proj.weight"].T + p["dt_proj.bias"])
    h, ys = torch.zeros(len(x), width, states), []
    for t in range(x.shape[1]):
        decay = torch.exp(-dt[:, t, :, None] * p["A_log"].exp())
        h = decay * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None]
        ys.append((h * C[:, t, None]).sum(-1) + p["D"] * u[:, t])
    y = torch.stack(ys, 1) * nn.functional.silu(z)
    return nn.functional.linear(y, p["out_proj.weight"], p.get("out_proj.bias"))


@pytest.mark.parametrize(("conv_bias", "bias"), [(True, False), (False, True)])
def test_state_dicts_of_mamba_ssm_load(conv_bias, bias):
    torch.manual_seed(0)
    layer = Mamba(12, d_state=5, d_conv=3, dt_rank=2, conv_bias=conv_bias, bias=bias, layer_idx=4)
    weights = state_dict_of_mamba_ssm(12, 5, 3, 2, conv_bias, bias)
    layer.load_state_dict(weights)
    x = torch.randn(2, 9, 12)
    y = layer(x)
    assert layer.layer_idx == 4
    torch.testing.assert_close(y, naive(weights, x), atol=1e-5, rtol=1e-4)
    y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_mamba_and_the_mixer_share_their_parameters():
    torch.manual_seed(0)
    layer, mixer, x = Mamba(16), MambaMixer(16), torch.randn(1, 7, 16)
    mixer.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), mixer(x)[0])


def test_arguments_of_mamba_are_honoured():
    layer = Mamba(
        16, dt_min=0.5, dt_max=0.6, dt_init="constant", dt_scale=3.0, device="meta", dtype=torch.bfloat16
    )
    assert layer.in_proj.weight.device.type == "meta"
    layer = Mamba(16, dt_min=0.5, dt_max=0.6, dt_init="constant", dt_scale=3.0, dtype=torch.bfloat16)
    dt = nn.functional.softplus(layer.dt_proj.bias)
    assert dt.min() > 0.499
    assert dt.max() < 0.601
    assert torch.equal(layer.dt_proj.weight, torch.full_like(layer.dt_proj.weight, 3.0))
    kept = {n for n, p in layer.named_parameters() if p.dtype == torch.float32}
    assert kept == {"A_log", "D", "dt_proj.bias"}
    assert layer(torch.randn(1, 3, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_what_mamba_refuses():
    with pytest.raises(ValueError, match="dt_init is 'zeros'"):
        Mamba(8, dt_init="zeros")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="VLM_SCAN_BACKEND=torch"):
        Mamba(8, use_fast_path=False)
    with pytest.raises(ValueError, match="no inference cache: MambaMixer"):
        Mamba(8)(torch.zeros(1, 1, 8), inference_params=object())  # pyright: ignore[reportArgumentType]


def test_everything_exported_is_there():
    assert all(hasattr(vlm_ssm, name) for name in vlm_ssm.__all__)
    assert {"selective_scan", "causal_conv1d", "Mamba", "add_rms_norm"} <= set(vlm_ssm.__all__)


def imported(source):
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, source
            yield node.module or ""


def test_it_imports_no_other_package_of_ours():
    sources = sorted(SOURCES.rglob("*.py"))
    assert len(sources) > 30
    ours = {path.name for path in PACKAGES.glob("*/src/*") if path.is_dir()} - {"vlm_ssm"}
    found = {(s.name, name) for s in sources for name in imported(s) if name.split(".")[0] in ours}
    assert not found


def test_the_copied_module_is_the_same():
    """vlm-ssm stands alone, so it carries a copy of this one module of vlm-core."""
    original = PACKAGES / "vlm-core" / "src" / "vlm_core" / "io" / "private_folder.py"
    assert (SOURCES / "runtime" / "private_folder.py").read_bytes() == original.read_bytes()
