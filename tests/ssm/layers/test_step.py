"""Decoding token by token: the fast step against the plain path, and when it stands aside."""

import pytest
import torch
import torch.nn.functional as F
from cases import assert_near, error
from torch import nn

from vlm_llms.mamba.mamba import MambaLM
from vlm_ssm import MambaMixer, SSMState, linear
from vlm_ssm.layers import decode

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
DTYPES = list(LIMITS)


def mixer_of(width=24, state=8, taps=4, dtype=torch.float32, **options):
    """A layer with parameters that all matter."""
    torch.manual_seed(0)
    mixer = MambaMixer(width, d_state=state, d_conv=taps, **options)
    with torch.no_grad():
        mixer.A_log += 0.3 * torch.randn_like(mixer.A_log)
        mixer.D += torch.randn_like(mixer.D)
    return mixer.to(dtype).eval()


def token_and_state(mixer, dtype=torch.float32, batch=1):
    conv = torch.randn(batch, mixer.d_conv - 1, mixer.d_inner).to(dtype)
    return torch.randn(batch, 1, mixer.in_proj.in_features).to(dtype), SSMState(
        conv, torch.randn(batch, mixer.d_inner, mixer.d_state)
    )


def named(y, state):
    return {"y": y, "conv": state.conv, "ssm": state.ssm}


def fast_and_plain(module, x, state, monkeypatch):
    """The same call on numba and on plain torch."""
    made = []
    for backend in ("numba", "torch"):
        monkeypatch.setenv("VLM_SCAN_BACKEND", backend)
        with torch.no_grad():
            made.append(module(x, state=state))
    monkeypatch.delenv("VLM_SCAN_BACKEND")
    return made


@pytest.fixture
def steps(monkeypatch):
    """Counts the calls of the fast step."""
    calls, plain = [], decode.fused_decode_step
    monkeypatch.setattr(decode, "fused_decode_step", lambda *a, **k: (calls.append(1), plain(*a, **k))[1])
    return calls


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "state", "taps", "options"), [
    (24, 1, 4, {}), (24, 8, 2, {}), (40, 16, 4, {}), (40, 20, 4, {}), (24, 64, 4, {}), (7, 3, 4, {"expand": 3}),
    (24, 8, 1, {}), (130, 16, 4, {"dt_rank": 37}), (16, 128, 3, {"expand": 1}),
])  # fmt: skip
def test_mixer(dtype, width, state, taps, options, steps, monkeypatch):
    """One layer alone: output and both states."""
    mixer = mixer_of(width, state, taps, dtype, **options)
    x, before = token_and_state(mixer, dtype)
    found, wanted = (named(*made) for made in fast_and_plain(mixer, x, before, monkeypatch))
    assert steps == [1]
    assert {n: t.dtype for n, t in found.items()} == {n: t.dtype for n, t in wanted.items()}
    assert_near(found, wanted, LIMITS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "state"), [(24, 8), (40, 20)])
def test_language_model(dtype, width, state, steps, monkeypatch):
    """A prompt, then tokens one by one: hidden states, states and logits of the whole model."""
    torch.manual_seed(0)
    model = MambaLM(width, 3, 37, d_state=state, load_tokenizer=lambda: None).to(dtype).eval()
    with torch.no_grad():
        _, before = model(torch.randn(1, 5, width).to(dtype))
        for x in torch.randn(4, 1, 1, width).to(dtype):
            (hidden, after), (wanted, other) = fast_and_plain(model, x, before, monkeypatch)
            assert_near({"hidden": hidden}, {"hidden": wanted}, LIMITS[dtype])
            for own, theirs in zip(after, other, strict=True):
                assert_near(own._asdict(), theirs._asdict(), LIMITS[dtype])
            assert error(model.logits(hidden), hidden @ model.backbone.embedding.weight.T) <= 1e-2
            before = after
    assert len(steps) == 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_bias_of_the_convolution(dtype, steps, monkeypatch):
    mixer = mixer_of(dtype=dtype)
    mixer.conv1d.bias = None
    x, before = token_and_state(mixer, dtype)
    found, wanted = (named(*made) for made in fast_and_plain(mixer, x, before, monkeypatch))
    assert_near(found, wanted, LIMITS[dtype])
    assert steps == [1]


def test_bf16_matrices_beside_fp32_vectors(monkeypatch):
    """As mixed checkpoints keep A, D and the norms."""
    mixer = mixer_of(dtype=torch.bfloat16)
    for name in ("A_log", "D"):
        setattr(mixer, name, nn.Parameter(getattr(mixer, name).float() * 1.01))
    x, before = token_and_state(mixer, torch.bfloat16)
    found, wanted = (named(*made) for made in fast_and_plain(mixer, x, before, monkeypatch))
    assert_near(found, wanted, 2e-2)


def test_states_are_not_changed_in_place(monkeypatch):
    mixer = mixer_of()
    x, before = token_and_state(mixer)
    copy = SSMState(before.conv.clone(), before.ssm.clone())
    with torch.no_grad():
        _, after = mixer(x, state=before)
    assert torch.equal(before.conv, copy.conv)
    assert torch.equal(before.ssm, copy.ssm)
    assert after.ssm.data_ptr() != before.ssm.data_ptr()


def test_turned_states(monkeypatch):
    """States with gaps, as parts of something larger."""
    mixer = mixer_of()
    x, before = token_and_state(mixer)
    turned = SSMState(*(t.mT.contiguous().mT for t in before))
    with torch.no_grad():
        (y, after), (wanted, other) = mixer(x, state=turned), mixer(x, state=before)
    assert torch.equal(y, wanted)
    assert torch.equal(after.ssm, other.ssm)
    assert torch.equal(after.conv, other.conv)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_states_of_another_dtype(dtype, monkeypatch):
    """A state that someone cast is read as what it is."""
    mixer = mixer_of()
    x, before = token_and_state(mixer)
    cast = SSMState(before.conv.to(dtype), before.ssm.to(dtype))
    found, wanted = (named(*made) for made in fast_and_plain(mixer, x, cast, monkeypatch))
    assert_near(found, wanted, 1e-5)


class Adapter(nn.Module):
    """A low-rank addition around a linear layer, as LoRA wraps it."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.low = inner, nn.Linear(inner.in_features, 2, bias=False)
        self.high = nn.Linear(2, inner.out_features, bias=False)

    def forward(self, x):
        return self.inner(x) + self.high(self.low(x))


class Louder(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def subclassed(module):
    module.__class__ = Louder


def hooked(module):
    module.register_forward_hook(lambda _, __, y: 2 * y)


def pre_hooked(module):
    module.register_forward_pre_hook(lambda _, args: (2 * args[0],))


def replaced(module):
    """As accelerate and others wrap a module: a `forward` of the instance."""
    plain = module.forward
    module.forward = lambda x: 2 * plain(x)


def parametrised(module):
    nn.utils.parametrizations.weight_norm(module)


def biased(module):
    module.bias = nn.Parameter(torch.randn(module.out_features))


CHANGES = [subclassed, hooked, pre_hooked, replaced, parametrised, biased]


@pytest.mark.parametrize("name", ["in_proj", "x_proj", "out_proj"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_projection_is_not_bypassed(name, change, monkeypatch):
    mixer = mixer_of()
    change(getattr(mixer, name))
    x, before = token_and_state(mixer)
    found, wanted = (named(*made) for made in fast_and_plain(mixer, x, before, monkeypatch))
    assert_near(found, wanted, 1e-5)


@pytest.mark.parametrize("name", ["in_proj", "x_proj", "out_proj"])
def test_an_adapter_is_not_bypassed(name, monkeypatch):
    mixer = mixer_of()
    setattr(mixer, name, Adapter(getattr(mixer, name)))
    x, before = torch.randn(1, 1, 24), token_and_state(mixer_of())[1]
    found, wanted = (named(*made) for made in fast_and_plain(mixer, x, before, monkeypatch))
    assert_near(found, wanted, 1e-5)


@pytest.mark.parametrize("name", ["conv1d", "dt_proj"])
def test_a_parametrised_part_is_not_bypassed(name, monkeypatch):
    """Its weight is computed at each access, and no parameter of its own."""
    mixer = mixer_of()
    parametrised(getattr(mixer, name))
    x, before = token_and_state(mixer)
    found, wanted = (named(*made) for made in fast_and_plain(mixer, x, before, monkeypatch))
    assert_near(found, wanted, 1e-5)


class Negative(MambaMixer):
    def forward(self, x, segments=None, state=None):
        y, after = super().forward(x, segments, state)
        return -y, after


def negative(block):
    block.mixer.__class__ = Negative


def hooked_block(block):
    block.register_forward_hook(lambda _, __, made: (made[0], 2 * made[1], made[2]))


def hooked_mixer(block):
    block.mixer.register_forward_hook(lambda _, __, made: (2 * made[0], made[1]))


def replaced_mixer(block):
    plain = block.mixer.forward
    block.mixer.forward = lambda *a, **k: (2 * (made := plain(*a, **k))[0], made[1])


@pytest.mark.parametrize("change", [negative, hooked_block, hooked_mixer, replaced_mixer])
def test_a_changed_block_is_not_bypassed(change, monkeypatch):
    torch.manual_seed(0)
    model = MambaLM(24, 2, 37, load_tokenizer=lambda: None).eval()
    with torch.no_grad():
        _, before = model(torch.randn(1, 5, 24))
    change(model.backbone.layers[0])
    made = fast_and_plain(model, torch.randn(1, 1, 24), before, monkeypatch)
    assert_near({"y": made[0][0]}, {"y": made[1][0]}, 1e-5)


def test_gradients_and_autocast_take_the_plain_path(steps):
    mixer = mixer_of()
    x, before = token_and_state(mixer)
    y, _ = mixer(x, state=before)
    assert y.requires_grad
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixer(x, state=before)
    many = SSMState(*(torch.cat([t] * (decode.MOST_ROWS + 1)) for t in before))
    with torch.no_grad():
        mixer(torch.cat([x] * (decode.MOST_ROWS + 1)), state=many)
        mixer(torch.cat([x, x], dim=1), state=before)
    assert steps == []


def row_of(state, b):
    return SSMState(state.conv[b : b + 1], state.ssm[b : b + 1])


BATCHES = [2, 3, 4, 5, 7, 8, 13, decode.MOST_ROWS]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "state", "taps", "options"), [
    (24, 8, 4, {}), (7, 3, 4, {"expand": 3}), (24, 20, 1, {}), (130, 16, 2, {"dt_rank": 37}),
])  # fmt: skip
def test_a_batch(dtype, width, state, taps, options, steps, monkeypatch):
    """Equal to the plain path, and each row to the bit what it is alone, for every number of rows."""
    mixer = mixer_of(width, state, taps, dtype, **options)
    for batch in BATCHES:
        x, before = token_and_state(mixer, dtype, batch)
        steps.clear()
        (y, after), (wanted, other) = fast_and_plain(mixer, x, before, monkeypatch)
        assert steps == [1]
        assert_near(named(y, after), named(wanted, other), LIMITS[dtype])
        for b in range(batch):
            with torch.no_grad():
                alone, state_alone = mixer(x[b : b + 1], state=row_of(before, b))
            assert torch.equal(alone[0], y[b])
            assert torch.equal(state_alone.conv[0], after.conv[b])
            assert torch.equal(state_alone.ssm[0], after.ssm[b])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_through_a_language_model(dtype, steps):
    """Hidden states and logits of each row to the bit, and what one row holds does not reach another."""
    torch.manual_seed(0)
    model = MambaLM(40, 3, 37, load_tokenizer=lambda: None).to(dtype).eval()
    with torch.no_grad():
        _, before = model(torch.randn(8, 5, 40).to(dtype))
        x = torch.randn(8, 1, 40).to(dtype)
        hidden, _ = model(x, state=before)
        logits = model.logits(hidden)
        for b in range(8):
            alone, _ = model(x[b : b + 1], state=type(before)(row_of(s, b) for s in before))
            assert torch.equal(alone[0], hidden[b])
            assert torch.equal(model.logits(alone)[0], logits[b])
        x[3] = torch.nan
        spoiled, _ = model(x, state=before)
        clean = [b for b in range(8) if b != 3]
        assert spoiled[3].isnan().all()
        assert torch.equal(spoiled[clean], hidden[clean])
    assert len(steps) == 10


def test_the_number_of_threads_does_not_change_a_batch():
    mixer = mixer_of(130, 16, dtype=torch.bfloat16)
    x, before = token_and_state(mixer, torch.bfloat16, 6)
    threads, made = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            with torch.no_grad():
                made.append(mixer(x, state=before))
    finally:
        torch.set_num_threads(threads)
    for y, state in made[1:]:
        assert torch.equal(y, made[0][0])
        assert torch.equal(state.ssm, made[0][1].ssm)


def test_states_of_another_batch_are_refused():
    """Kernels read memory by address."""
    mixer = mixer_of()
    (x, _), (_, before) = token_and_state(mixer, batch=3), token_and_state(mixer, batch=2)
    with torch.no_grad(), pytest.raises(ValueError, match=r"3 sequences, but states of \[2\]"):
        mixer(x, state=before)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-6), (torch.bfloat16, 6e-3)])
@pytest.mark.parametrize("rows", [1, 5, 32, 37])
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, decode.MOST_ROWS, decode.MOST_ROWS + 1])
def test_linear_equals_torch(dtype, limit, rows, batch):
    """Every width from 1 to 130 ends somewhere in the kernel's loops."""
    for width in [*range(1, 40), 63, 64, 65, 95, 127, 128, 129, 130, 256, 300]:
        x, weight = torch.randn(batch, 1, width).to(dtype), torch.randn(rows, width).to(dtype)
        with torch.no_grad():
            y = linear(x, weight)
            if batch <= decode.MOST_ROWS:
                assert torch.equal(y, torch.cat([linear(row, weight) for row in x.split(1)]))
        wanted = F.linear(x.double(), weight.double())
        bound = (x.double().norm() * weight.double().norm()).item()  # rows may cancel
        assert y.shape == wanted.shape
        assert y.dtype == dtype
        assert float((y.double() - wanted).norm()) <= max(limit * float(wanted.norm()), 1e-7 * bound)


@pytest.mark.parametrize("shape", [(8,), (1, 8), (1, 1, 1, 8), (3, 8), (2, 1, 8), (0, 8)])
def test_linear_of_any_leading_dimensions(shape):
    x, weight = torch.randn(shape), torch.randn(37, 8)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))
        turned = torch.randn(8, 37).T
        torch.testing.assert_close(linear(x, turned), F.linear(x, turned))


def test_linear_refuses_what_torch_refuses():
    """A matrix of another width."""
    for weight in (torch.randn(37, 16), torch.randn(37, 4), torch.randn(37)):
        with torch.no_grad(), pytest.raises((RuntimeError, ValueError)):
            linear(torch.randn(1, 1, 8), weight)


def test_linear_keeps_gradients():
    x, weight = torch.randn(1, 1, 8), torch.randn(37, 8, requires_grad=True)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x[0].expand(37, 8))
