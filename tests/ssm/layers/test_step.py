"""Decoding token by token: the fast step against the plain path, and when it stands aside."""

import pytest
import torch
from cases import assert_near, error
from decode_cases import DTYPES, LIMITS, fast_and_plain, mixer_of, named, token_and_state
from torch import nn

from vlm_llms.mamba.mamba import MambaLM
from vlm_llms.mamba.state import buffers_of
from vlm_ssm import SSMState
from vlm_ssm.layers import decode


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
@pytest.mark.parametrize("rows", [1, 3])
def test_the_next_states_may_take_the_memory_of_the_states(dtype, rows):
    """The first rows of a larger memory: to the bit as without, and the other rows are left alone."""
    torch.manual_seed(0)
    model = MambaLM(24, 3, 37, d_state=8, load_tokenizer=lambda: None).to(dtype).eval()
    with torch.inference_mode():
        _, state = model(torch.randn(rows + 2, 5, 24).to(dtype))
        memory, x = [t.clone() for t in buffers_of(state)], torch.randn(rows, 1, 24).to(dtype)
        stack, first = model._stack(model._plain_mixers()), tuple(t[:, :rows] for t in memory)
        convs, ssms = (t.clone().unbind(0) for t in first)
        wanted = decode.fused_decode_step(x, stack, convs, ssms)
        found = decode.fused_decode_step(x, stack, first[0].unbind(0), first[1].unbind(0), first)
    assert all(map(torch.equal, found, wanted))
    assert all(map(torch.equal, first, wanted[1:]))
    assert not any(map(torch.equal, first, (torch.stack(convs), torch.stack(ssms))))
    assert all(
        torch.equal(t[:, rows:], old[:, rows:]) for t, old in zip(memory, buffers_of(state), strict=True)
    )


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
