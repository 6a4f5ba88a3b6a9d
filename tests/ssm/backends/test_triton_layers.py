"""Layers and models on Triton's kernels: one token, a recorded token, everything at once."""

from functools import partial

import pytest
import torch
from cases import assert_near, gradients
from mixer_cases import Case, run
from triton_here import CUDA, place

from vlm_core.generation.sampling import TokenSampler
from vlm_llms.mamba.mamba import MambaLM
from vlm_ssm import MambaMixer, SSMState, ops

__all__ = ["place"]


def layer(dtype=torch.float32, taps=4):
    """With parameters that all matter."""
    torch.manual_seed(0)
    mixer = MambaMixer(6, d_state=3, d_conv=taps, dt_rank=2)
    with torch.no_grad():
        mixer.A_log += 0.3 * torch.randn_like(mixer.A_log)
        mixer.D += torch.randn_like(mixer.D)
    return mixer.to(dtype).eval()


def through(module, backend, x, state, monkeypatch):
    monkeypatch.setenv("VLM_SCAN_BACKEND", backend)
    with torch.no_grad():
        return module(x, state=state)


@pytest.mark.parametrize("taps", [4, 2, 1])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2)])
def test_one_token_of_a_layer(taps, dtype, limit, monkeypatch):
    """Three sequences at once: output, and both states after it; those before are left alone."""
    mixer, x = layer(dtype, taps), torch.randn(3, 1, 6).to(dtype)
    before = SSMState(torch.randn(3, taps - 1, 12).to(dtype), torch.randn(3, 12, 3))
    kept = SSMState(*(t.clone() for t in before))
    made = [through(mixer, backend, x, before, monkeypatch) for backend in ("triton", "torch")]
    found, wanted = ({"y": y} | after._asdict() for y, after in made)
    assert {n: t.dtype for n, t in found.items()} == {n: t.dtype for n, t in wanted.items()}
    assert_near(found, wanted, limit)
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))


def test_tokens_of_a_model_continue_a_prompt(monkeypatch):
    """Prompt whole against prompt and then tokens one by one."""
    torch.manual_seed(0)
    model = MambaLM(6, 2, 11, d_state=2, load_tokenizer=lambda: None).eval()
    x = torch.randn(2, 4, 6)
    whole, end = through(model, "torch", x, None, monkeypatch)
    _, state = through(model, "triton", x[:, :2], None, monkeypatch)
    for t in (2, 3):
        hidden, state = through(model, "triton", x[:, t : t + 1], state, monkeypatch)
    assert_near({"hidden": hidden}, {"hidden": whole[:, 3:]}, 1e-5)
    for own, theirs in zip(state, end, strict=True):
        assert_near(own._asdict(), theirs._asdict(), 1e-5)


def test_tokens_of_a_graph_equal_the_others(monkeypatch):
    """Ids, logits and states of each step and of the one before it; the state given is left alone."""
    from vlm_llms.mamba.cuda_graph import CudaGraphDecoder

    torch.manual_seed(0)
    model = MambaLM(6, 2, 11, d_state=2, load_tokenizer=lambda: None).eval()
    if not CUDA:
        plain = lambda self: [partial(self._run, last) for last in (0, 1)]  # noqa: E731
        monkeypatch.setattr(CudaGraphDecoder, "_capture", plain)
    _, state = through(model, "torch", torch.randn(2, 3, 6), None, monkeypatch)
    kept, wanted, sampler = state.clone(), state, TokenSampler(0.0, 1.0, 9)
    monkeypatch.setenv("VLM_SCAN_BACKEND", "triton")
    with torch.no_grad():
        decoder = model._graph_decoder(model._plain_mixers(), 2, sampler)
        ids, before, after = torch.randint(9, (2,)), None, state
        decoder.start(state, ids, torch.Generator(ids.device))
        for _ in range(3):
            found, logits, after = decoder.step()(), decoder.logits(ahead=False), decoder.state(ahead=False)
            assert before is None or torch.equal(decoder.logits(ahead=True), before)
            hidden, following = through(model, "torch", model.embed(ids.unsqueeze(1)), wanted, monkeypatch)
            near = model.logits(hidden[:, -1])
            near[:, 9:] = -torch.inf
            assert_near({"logits": logits[:, :9]}, {"logits": near[:, :9]}, 1e-5)
            assert logits[:, 9:].isneginf().all()
            for own, theirs in zip(decoder.state(ahead=True), wanted, strict=True):
                assert_near(own._asdict(), theirs._asdict(), 1e-5)
            before, wanted, ids = logits, following, near.argmax(-1)
            assert found == ids.tolist()
    for own, theirs, old, same in zip(after, wanted, state, kept, strict=True):
        assert_near(own._asdict(), theirs._asdict(), 1e-5)
        assert torch.equal(old.conv, same.conv)
        assert torch.equal(old.ssm, same.ssm)


@pytest.mark.parametrize("norm", [False, True])
def test_layer_as_one_operation(norm, monkeypatch):
    """Against separate operations: outputs and every gradient, with segments and a state to continue."""
    monkeypatch.setenv("VLM_SCAN_BACKEND", "triton")
    case = Case(2, 9, taps=3, segmented=True, state=True, norm=norm, width=6)
    found, wanted = (run(case, case.layer(), fused) for fused in (True, False))
    assert_near(found, wanted, 1e-5)


def test_layer_of_everything(monkeypatch):
    """Norm, convolution, scan under autograd, packed; and the same with checkpointing."""
    mixer, x = layer(), torch.randn(1, 6, 6, requires_grad=True)
    numbers = torch.tensor([[0, 0, 0, 1, 1, 1]])
    inputs = {"x": x} | dict(mixer.named_parameters())
    made = []
    for backend in ("triton", "torch"):
        monkeypatch.setenv("VLM_SCAN_BACKEND", backend)
        residual, normal = ops.add_rms_norm(x, x.sin(), torch.ones(6), 1e-5)
        y, state = mixer(normal, numbers)
        made.append({"y": y, "residual": residual} | gradients([y, residual, *state], inputs))
    assert_near(made[0], made[1], 1e-5)
