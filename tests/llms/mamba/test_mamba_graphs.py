"""Prefill padded to a few lengths, decoders kept between answers; with a GPU, graphs against plain calls."""

import copy
from itertools import pairwise

import pytest
import torch

from vlm_core.generation.sampling import GenerationConfig, TokenSampler
from vlm_core.interfaces import PADDING
from vlm_core.numerics.cuda_graphs import CudaGraphs
from vlm_llms.mamba import mamba
from vlm_llms.mamba.buckets import bucket, padded_to_bucket
from vlm_llms.mamba.cuda_graph import IdleDecoders
from vlm_llms.mamba.mamba import MambaLM

CUDA = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not CUDA, reason="a CUDA graph needs a CUDA device")


def test_few_lengths_that_are_little_longer():
    lengths = range(1, 5000)
    rounded = [bucket(n) for n in lengths]
    assert all(n <= r < n + max(32, n / 8) for n, r in zip(lengths, rounded, strict=True))
    assert all(r <= 1.07 * n for n, r in zip(lengths, rounded, strict=True) if n >= 512)
    assert all(a <= b for a, b in pairwise(rounded))
    assert len(set(rounded)) < 80
    assert (bucket(793), bucket(800), bucket(801)) == (800, 800, 832)


def test_padding_stands_in_front():
    x, segments = torch.randn(2, 37, 3), torch.zeros(2, 37, dtype=torch.long)
    segments[1, :5] = PADDING
    longer, numbers = padded_to_bucket(x, segments)
    assert longer.shape == (2, 64, 3)
    assert torch.equal(longer[:, -37:], x)
    assert torch.equal(numbers[:, -37:], segments)
    assert (numbers[:, :-37] == PADDING).all()
    assert (padded_to_bucket(x, None)[1][:, -37:] == 0).all()


def model(dtype=torch.float32, width=16, device="cpu"):
    torch.manual_seed(0)
    with torch.device(device):
        return MambaLM(width, 3, 96, dtype=dtype, load_tokenizer=lambda: None).eval()


@torch.no_grad()
@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("uneven", [False, True])
def test_a_prefill_padded_to_a_bucket_equals_one_that_is_not(continued, uneven, monkeypatch):
    """Logits and states, of two sequences, one of which is shorter, from nothing and from an earlier turn."""
    llm, x = model(), torch.randn(2, 45, 16)
    segments = torch.zeros(2, 45, dtype=torch.long)
    segments[1, : 7 * uneven] = PADDING
    segments = segments if uneven else None
    state = llm(torch.randn(2, 9, 16))[1] if continued else None
    wanted, after = llm.prefill(x, segments=segments, state=state)
    monkeypatch.setattr(mamba, "usable", lambda *_: True)
    lengths, forward = [], llm.forward
    monkeypatch.setattr(
        type(llm), "forward", lambda self, x, **options: lengths.append(x.shape[1]) or forward(x, **options)
    )
    logits, state = llm.prefill(x, segments=segments, state=state)
    assert lengths == [64]
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-6)
    for own, theirs in zip(state, after, strict=True):
        torch.testing.assert_close(own.ssm, theirs.ssm, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(own.conv, theirs.conv, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_next_state_padded_to_a_bucket_equals_one_that_is_not(monkeypatch):
    """The state after two frames of 45 positions."""
    llm, frames = model(), torch.randn(2, 1, 45, 16)
    wanted = llm(frames.view(1, 90, 16))[1]
    monkeypatch.setattr(mamba, "usable", lambda *_: True)
    lengths, forward = [], llm.forward
    monkeypatch.setattr(
        type(llm), "forward", lambda self, x, **options: lengths.append(x.shape[1]) or forward(x, **options)
    )
    state = llm.next_state(frames[1], state=llm.next_state(frames[0]))
    assert lengths == [64, 64]
    for own, theirs in zip(state, wanted, strict=True):
        torch.testing.assert_close(own.ssm, theirs.ssm, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(own.conv, theirs.conv, rtol=1e-5, atol=1e-6)


class Decoder:
    """Stands for a decoder."""

    def close(self):
        self.on_close(self)


def test_decoders_are_used_again():
    llm, idle, sampler = model(), IdleDecoders(limit=2), TokenSampler(0.0, 1.0, 90)
    one, two = (idle.take((1, sampler), [llm], Decoder) for _ in range(2))
    assert one is not two, "both are in use"
    one.close()
    assert idle.take((1, TokenSampler(0.5, 1.0, 90)), [llm], Decoder) is not one
    assert idle.take((1, TokenSampler(0.0, 1.0, 90)), [llm], Decoder) is one
    two.close()
    one.close()
    idle.take((3, sampler), [llm], Decoder).close()
    assert idle.take((1, sampler), [llm], Decoder) is one, "the two used last are kept"
    one.close()
    assert copy.deepcopy(idle).take((1, sampler), [llm], Decoder) is not one
    llm.backbone.embedding.weight.data = llm.backbone.embedding.weight.clone()
    assert idle.take((1, sampler), [llm], Decoder) is not one, "it reads weights that have moved"


def test_a_decoder_that_cannot_be_captured_is_said_once(caplog):
    def fail():
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    llm, idle = model(), IdleDecoders()
    assert [idle.take("key", [llm], make) for make in (fail, Decoder)] == [None, None]
    (record,) = caplog.records
    assert record.message.startswith("decoding can't be a CUDA graph: operation not permitted")
    assert idle.take("other", [llm], Decoder)
    assert idle.take("other", [llm.train()], Decoder) is None


@needs_gpu
@torch.no_grad()
def test_a_capture_that_fails_leaves_everything_usable(caplog):
    """It makes the host wait; random numbers and other graphs work afterwards, and nothing is captured of it."""
    graphs, layer, x = (
        CudaGraphs(),
        torch.nn.Linear(3, 3, device="cuda").eval(),
        torch.randn(2, 3, device="cuda"),
    )

    def waits(x):
        return (layer(x) * layer(x).sum().item(),)

    wanted = waits(x)[0]
    assert all(torch.equal(graphs.call(waits, [layer], x)[0], wanted) for _ in range(3))
    assert len(caplog.records) == 1
    assert torch.randn(4, device="cuda").std() > 0
    assert all(torch.equal(graphs.call(lambda x: (layer(x),), [layer], x)[0], layer(x)) for _ in range(3))
    assert len(graphs) == 1


@needs_gpu
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_graphs_of_a_prefill_equal_its_calls(dtype):
    llm = model(dtype, 64, "cuda")
    for batch, length in ((1, 40), (3, 100)):
        x, state = torch.randn(batch, length, 64, device="cuda", dtype=dtype), None
        made = [llm.prefill(x, state=state) for _ in range(3)]
        for logits, after in made[1:]:
            assert torch.equal(logits, made[0][0])
            for own, theirs in zip(after, made[0][1], strict=True):
                assert torch.equal(own.ssm, theirs.ssm)
                assert torch.equal(own.conv, theirs.conv)
        hidden, _ = llm(x)
        torch.testing.assert_close(made[0][0], llm.logits(hidden[:, -1]), rtol=2e-2, atol=2e-2)
    assert len(llm._prefill_graphs) == 2


@needs_gpu
@torch.no_grad()
@pytest.mark.parametrize(
    "decoding", [GenerationConfig(), GenerationConfig(temperature=0.8, top_p=0.9)], ids=str
)
@pytest.mark.parametrize("batch", [1, 3, 12])
def test_tokens_of_a_graph_equal_plain_steps(batch, decoding):
    """Ids, logits, states, draws."""
    llm, sampler = model(torch.bfloat16, 64, "cuda"), TokenSampler(decoding.temperature, decoding.top_p, 90)
    _, state = llm.prefill(torch.randn(batch, 40, 64, device="cuda", dtype=torch.bfloat16))
    ids, generator = torch.arange(batch, device="cuda"), torch.Generator("cuda").manual_seed(5)
    for _ in range(2):
        decoder = llm.cuda_graph_decoder(state, sampler)
        decoder.start(state, ids, generator)
        read, own, same, after = decoder.step(), ids, torch.Generator("cuda"), state
        same.set_state(generator.get_state())
        for _ in range(6):
            following = decoder.step()
            hidden, after = llm(llm.embed(own.unsqueeze(1)), state=after)
            logits = llm.logits(hidden[:, -1])
            own = sampler(logits, same)
            assert read() == own.tolist()
            assert torch.equal(decoder.logits(ahead=True), logits)
            for a, b in zip(decoder.state(ahead=True), after, strict=True):
                assert torch.equal(a.ssm, b.ssm)
                assert torch.equal(a.conv, b.conv)
            read = following
        decoder.close()
