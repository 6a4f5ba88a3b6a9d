"""One token on the CUDA kernels, against Triton's step and float64."""

import pytest
import torch

from vlm_ssm import MambaMixer, backends, cast_parameters

if backends.missing("cuda"):
    pytest.skip("the kernels need a CUDA device", allow_module_level=True)

from vlm_ssm.cuda.decoding import matvec, stack_step
from vlm_ssm.cuda.decoding import step as decode
from vlm_ssm.mamba_layer import MambaStack
from vlm_ssm.triton import decode as triton_decode

BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def _on_the_gpu():
    with torch.device("cuda"), torch.no_grad():
        torch.manual_seed(0)
        yield


def far(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def test_products_have_the_same_bits_in_any_batch():
    x, weight = torch.randn(16, 2560).to(BF16), torch.randn(5000, 2560).to(BF16)
    whole = matvec.linear(x, weight)
    assert all(torch.equal(matvec.linear(x[:n], weight), whole[:n]) for n in range(1, 16))


@pytest.mark.parametrize("vectors", [1, 2, 3, 8, 16])
@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (200, 5120), (5000, 72), (4099, 2568), (96, 20000)])
def test_products(rows, columns, vectors):
    """Any number of rows; columns beyond what a lane holds at once."""
    x, weight = torch.randn(vectors, columns).to(BF16), torch.randn(rows, columns).to(BF16)
    y = matvec.linear(x, weight)
    assert far(y, x.double() @ weight.double().T) < 2.5e-3
    assert torch.equal(y, matvec.linear(x, weight))


def test_products_that_are_not_covered():
    x, weight = torch.randn(17, 16).to(BF16), torch.randn(8, 16).to(BF16)
    assert matvec.linear(x, weight) is None
    assert matvec.linear(x[:1].float(), weight) is None
    assert matvec.linear(x[:1, 1:9], weight[:, 1:9]) is None


def inputs(batch, width, rank, taps=4, *, layers=3, alone=False):
    """Embeddings, random layers, and states of them."""
    mixers = [MambaMixer(width, 16, taps, dt_rank=rank).eval() for _ in range(layers)]
    for mixer in mixers:
        mixer.A_log += 0.3 * torch.randn_like(mixer.A_log)
        mixer.D += torch.randn_like(mixer.D)
        cast_parameters(mixer, BF16)
    E = mixers[0].d_inner
    conv, ssm = torch.randn(layers, batch, taps - 1, E).to(BF16), torch.randn(layers, batch, E, 16)
    norms = [None] if alone else list((1 + 0.1 * torch.randn(layers, width)).to(BF16))
    stack = MambaStack(mixers, norms, None if alone else norms[0], 1e-5)
    return torch.randn(batch, 1, width).to(BF16), stack, (conv, ssm)


GPU = stack_step.gpu_of(0)
one_launch = pytest.mark.skipif(
    GPU is None or GPU.blocks < 100 or GPU.shared < 200 * 1024,
    reason="needs compute capability 9.0, 100 multiprocessors and their shared memory",
)


@pytest.mark.parametrize(("width", "rank"), [(64, 8), (768, 48), (2560, 160)])
def test_a_sequence_has_the_same_bits_in_any_batch(width, rank):
    """Also from run to run: blocks that wait for each other and copies that run ahead leave no choice."""
    x, stack, states = inputs(16, width, rank, layers=9)

    def step(count):
        conv, ssm = (state[:, :count].contiguous() for state in states)
        return decode.fused_decode_step(x[:count], stack, conv.unbind(), ssm.unbind())

    whole = step(16)
    for count in (1, 2, 7, 8, 9, 15, *[16] * 30, *[8] * 30):
        y, conv, ssm = step(count)
        assert torch.equal(y, whole[0][:count])
        assert torch.equal(conv, whole[1][:, :count])
        assert torch.equal(ssm, whole[2][:, :count])


@one_launch
@pytest.mark.parametrize("batch", [1, 8, 9, 16])
@pytest.mark.parametrize(
    ("width", "rank", "taps"), [(768, 48, 4), (1536, 96, 3), (2048, 128, 2), (2560, 160, 4)]
)
def test_one_launch_for_all_layers_equals_one_a_product(batch, width, rank, taps, monkeypatch):
    """Sizes that are not in `VERIFIED` as well: who runs this on a GPU may add them. Several tokens, in place."""
    x, stack, states = inputs(batch, width, rank, taps, layers=9)
    others = [state.clone() for state in states]
    for _ in range(3):
        monkeypatch.setattr(stack_step, "VERIFIED", {(width, 2 * width, rank, taps, GPU.blocks)})
        assert stack_step.why_not_covered(x, stack) is None
        y, *_ = decode.fused_decode_step(x, stack, states[0].unbind(), states[1].unbind(), states)
        monkeypatch.setattr(stack_step, "VERIFIED", set())
        wanted, *_ = decode.fused_decode_step(x, stack, others[0].unbind(), others[1].unbind(), tuple(others))
        for a, b in zip((y, *states), (wanted, *others), strict=True):
            assert far(a, b) < 5e-3


@one_launch
@pytest.mark.parametrize("where", ["x", "weight", "state"])
def test_numbers_that_are_no_numbers_hold_nothing_up(where):
    """NaN with all bits set, which stands for what is not written yet between the blocks."""
    x, stack, (conv, ssm) = inputs(2, 2560, 160)
    target = {"x": x, "weight": stack.mixers[1].in_proj.weight, "state": conv}[where]
    target.view(torch.int16).flatten()[:16] = -1
    y, *_ = decode.fused_decode_step(x, stack, conv.unbind(), ssm.unbind())
    assert y.isnan().any()


@pytest.mark.parametrize("batch", [1, 3, 8, 13, 16, 17])
@pytest.mark.parametrize(
    ("width", "rank", "taps", "alone"),
    [
        (64, 8, 4, False),
        (72, 40, 3, False),
        (768, 48, 4, False),
        (2048, 128, 2, False),
        (2560, 160, 4, False),
        (64, 16, 4, True),
    ],
)
def test_a_token_equals_that_of_triton(batch, width, rank, taps, alone):
    """Output, states, in place as well; from run to run bit by bit."""
    x, stack, (conv, ssm) = inputs(batch, width, rank, taps, layers=1 if alone else 3, alone=alone)
    assert (decode.why_not_covered(x, stack) is None) == (batch <= 16)
    arguments = (x, stack, conv.unbind(), ssm.unbind())
    wanted, found = triton_decode.fused_decode_step(*arguments), decode.fused_decode_step(*arguments)
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert far(a, b) < 1e-2
    assert far(found[2][0], wanted[2][0]) < 5e-3
    assert torch.equal(found[1][:, :, :-1], conv[:, :, 1:])
    again = decode.fused_decode_step(*arguments, (conv, ssm))
    assert all(torch.equal(a, b) for a, b in zip(again, found, strict=True))
    assert torch.equal(ssm, found[2])
