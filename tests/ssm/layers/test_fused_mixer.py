"""A Mamba layer as one operation: against the separate operations, and when it can't be one."""

import copy
import random

import pytest
import torch
from cases import ALL, assert_near, error
from mixer_cases import Case, as_one_operation, run
from torch import nn

from vlm_ssm import Mamba, MambaMixer, SSMState, add_norm_mix
from vlm_ssm.fused import op
from vlm_ssm.layers import fused_mixer
from vlm_ssm.layers.fused_mixer import why_not_fused
from vlm_ssm.numba import ops as numba_ops

CASES = [
    Case(2, 9),
    Case(2, 9, norm=True, segmented=True, state=True),
    Case(1, 1, state=True, biases=True),
    Case(3, 70, taps=3, norm=True, conv_bias=False),
    Case(2, 2, taps=4, state=True, segmented=True),
    Case(2, 33, taps=2, biases=True, norm=True, state=True),
    Case(2, 5, taps=1, norm=True),
]


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_separate_operations(case, backend, monkeypatch):
    """Outputs, states and every gradient."""
    monkeypatch.setenv("VLM_SCAN_BACKEND", backend)
    found, wanted = (run(case, case.layer(), fused) for fused in (True, False))
    assert_near(found, wanted, 2e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_kept_equals_what_is_computed_again(case, monkeypatch):
    found = run(case, case.layer(), True)
    monkeypatch.setattr(numba_ops, "COMPUTES_AGAIN", True)
    assert_near(found, run(case, case.layer(), True), 1e-6)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_under_autocast(case, backend, monkeypatch):
    """Products in bf16 from fp32 weights, as far from fp32 as the separate operations; gradients are fp32."""
    monkeypatch.setenv("VLM_SCAN_BACKEND", backend)
    exact = run(case, case.layer(), False)
    found, wanted = (run(case, case.layer(), fused, autocast=True) for fused in (True, False))
    for name, t in wanted.items():
        assert found[name].dtype == t.dtype, name
        assert (
            error(found[name], t) <= 1e-6
            or error(found[name], exact[name]) <= 1.2 * error(t, exact[name]) + 4e-3
        ), name


def test_inputs_of_any_strides_and_dtypes():
    """Kernels read by address what lies in one piece."""
    layer, norm, results = Case(2, 9).layer(), nn.RMSNorm(10), []
    with torch.no_grad():
        layer.in_proj.weight.set_(layer.in_proj.weight.t().contiguous().t())
        norm.weight.set_(torch.rand(20)[::2])
    x, out = torch.randn(9, 2, 10).transpose(0, 1).double(), torch.randn(2, 10, 9).mT.half()
    for fused in (True, False):
        with as_one_operation(fused):
            summed, y, _ = add_norm_mix(x, out, norm, 1e-5, layer)
        results.append({"summed": summed, "y": y, "grad": torch.autograd.grad(y.sum(), norm.weight)[0]})
    assert_near(*results, 1e-6)


def test_bf16_weights_have_bf16_gradients():
    case, results = Case(2, 9, norm=True), []
    for fused in (True, False):
        layer, norm = case.layer().bfloat16(), nn.RMSNorm(10, dtype=torch.bfloat16)
        x, out = torch.randn(2, 9, 10).cos(), torch.ones(2, 9, 10, dtype=torch.bfloat16)
        with as_one_operation(fused):
            _, y, _ = add_norm_mix(torch.ones_like(x), out, norm, 1e-5, layer)
        y.float().square().sum().backward()
        results.append({n: p.grad for n, p in layer.named_parameters()})
        assert all(g.dtype == torch.bfloat16 for g in results[-1].values())
    assert_near(*results, 2e-2)


@pytest.mark.parametrize("seed", range(8))
def test_any_shape(seed):
    draw = random.Random(seed)
    flags = {name: draw.random() < 0.5 for name in ("segmented", "state", "conv_bias", "biases", "norm")}
    case = Case(draw.randint(1, 3), draw.choice([1, 2, 3, 15, 16, 17, 40]), draw.choice([2, 3, 4]), **flags)
    found, wanted = (run(case, case.layer(), fused) for fused in (True, False))
    assert_near(found, wanted, 3e-6, str(case))


def test_the_same_bits_every_time():
    case = Case(2, 70, norm=True, segmented=True, state=True)
    first, second = (run(case, case.layer(), True, autocast=True) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["in_proj", "conv1d", "x_proj", "dt_proj", "out_proj"])
def test_what_cannot_be_fused_says_why(name, capsys):
    layer = MambaMixer(8)
    assert why_not_fused(layer, torch.float32) is None
    layer.get_submodule(name).register_forward_hook(lambda *_: None)
    assert why_not_fused(layer, torch.float32) == f"{name} has hooks"
    fused_mixer._report.cache_clear()
    for _ in range(2):
        layer(torch.randn(1, 3, 8))
    assert capsys.readouterr().err.count(f"{name} has hooks") == 1


def test_more_reasons():
    def reason(change, dtype=torch.float32):
        layer = MambaMixer(8)
        change(layer)
        return why_not_fused(layer, dtype)

    class Quantised(nn.Linear):
        pass

    wrapped = torch.nn.utils.parametrizations.weight_norm
    assert "Quantised" in str(reason(lambda m: setattr(m, "out_proj", Quantised(16, 8))))
    assert "in_proj" in str(reason(lambda m: wrapped(m.in_proj)))
    assert "float16" in str(reason(lambda m: None, torch.float16))
    assert "x_proj has a bias" in str(reason(lambda m: setattr(m, "x_proj", nn.Linear(16, 33))))
    assert "A_log" in str(reason(lambda m: delattr(m, "A_log")))


def test_other_shapes_are_refused():
    layer, x = MambaMixer(8, d_state=4), torch.randn(2, 5, 8)
    with pytest.raises(ValueError, match="state"):
        layer(x, None, SSMState(torch.zeros(1, 3, 16), torch.zeros(2, 16, 4)))
    with pytest.raises(ValueError, match="segments"):
        layer(x, torch.zeros(2, 4, dtype=torch.int64))
    layer.x_proj = nn.Linear(16, 7, bias=False)
    with pytest.raises(ValueError, match=r"x_proj\.weight"):
        layer(x)


def test_mamba_runs_as_one_operation(monkeypatch):
    """`Mamba`, with all biases, too."""
    calls = []
    monkeypatch.setattr(fused_mixer, "mixer", lambda inputs: calls.append(inputs) or op.mixer(inputs))
    layer = Mamba(8, bias=True, conv_bias=False)
    wanted = copy.deepcopy(layer)
    with as_one_operation(False):
        expected = wanted(torch.ones(1, 4, 8))
    torch.testing.assert_close(layer(torch.ones(1, 4, 8)), expected)
    assert len(calls) == 1
