"""Decoding: equal to recomputing everything, to singles in a batch, and to what was asked for."""

import pytest
import torch
from generation_cases import LONG, images, prompt

from vlm_core.errors import UserError
from vlm_core.generation.answer import answer
from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.generation.sampling import sample as sample_next
from vlm_core.views.image_views import ImageViews
from vlm_ssm.layers import decode


def by_recomputing(model, sample, pixels, steps):
    """Greedy decoding without any state: the whole sequence anew for every token."""
    ids, image_mask = torch.tensor([sample.input_ids]), torch.tensor([sample.image_mask])
    said = []
    for _ in range(steps):
        hidden, _ = model(ids, image_mask, pixels)
        logits = model.llm.logits(hidden[:, -1])[:, : len(model.llm.tokenizer)]
        said.append(int(logits.argmax()))
        ids = torch.cat([ids, torch.tensor([said[-1:]])], 1)
        image_mask = torch.cat([image_mask, torch.tensor([[False]])], 1)
        if said[-1] == model.llm.tokenizer.eos_id:
            break
    return said


@torch.no_grad()
def test_steps_with_a_state_equal_recomputing(tiny_model):
    (pixels,) = images(1)
    sample = prompt(tiny_model, "what color is the shape?", pixels)
    session = Session(tiny_model)
    session.prefill([sample], [pixels])
    found = [row[0] for row in session.tokens(LONG)]
    assert found == by_recomputing(tiny_model, sample, pixels[None], 8)


def test_a_batch_of_different_lengths_gives_what_singles_give(tiny_model):
    questions = ["is there a circle?", "red", "what color is the shape on the white ground?"]
    pixels = images(3)
    samples = [prompt(tiny_model, q, p) for q, p in zip(questions, pixels, strict=True)]
    together = answer(tiny_model, samples, pixels, decoding=LONG)
    alone = [answer(tiny_model, [s], [p], decoding=LONG)[0] for s, p in zip(samples, pixels, strict=True)]
    assert together == alone


def test_a_batch_decodes_in_one_call_a_token(tiny_model, monkeypatch):
    """On a CPU too: all conversations in one pass over the weights."""
    batches, fused = [], decode.fused_decode_step
    monkeypatch.setattr(
        decode, "fused_decode_step", lambda x, *args: (batches.append(len(x)), fused(x, *args))[1]
    )
    session = Session(tiny_model)
    session.prefill([prompt(tiny_model, text) for text in ("a?", "is there a b?", "c")])
    steps = len(list(session.tokens(LONG)))
    assert batches == [3] * (steps - 1)
    assert steps > 1


def test_shared_images_are_seen_once(tiny_model, monkeypatch):
    one, two = images(2)
    samples = [prompt(tiny_model, text, one) for text in ("a?", "is there a b?", "c?")]
    expected = [answer(tiny_model, [s], [p])[0] for s, p in zip(samples, (two, one, two), strict=True)]
    seen, encode_images = [], tiny_model.encode_images
    monkeypatch.setattr(
        tiny_model, "encode_images", lambda pixels: seen.append(len(pixels)) or encode_images(pixels)
    )
    assert answer(tiny_model, samples, [one, two], slots=[1, 0, 1]) == expected
    assert seen == [2]


def test_stops_at_eos_and_at_the_limit(tiny_model, monkeypatch):
    eos = tiny_model.llm.tokenizer.eos_id
    script = iter([[5, 5], [eos, 6], [7, 7], [8, eos]])
    monkeypatch.setattr("vlm_core.generation.generate.sample", lambda *_: torch.tensor(next(script)))
    session = Session(tiny_model)
    session.prefill([prompt(tiny_model, "a"), prompt(tiny_model, "b")])
    assert list(session.tokens(LONG)) == [[5, 5], [eos, 6], [None, 7], [None, eos]]
    session = Session(tiny_model)  # the first conversation's state is past its end
    session.prefill([prompt(tiny_model, "a"), prompt(tiny_model, "b")])
    monkeypatch.setattr("vlm_core.generation.generate.sample", lambda *_: torch.tensor([3, 3]))
    assert len(list(session.tokens(LONG))) == 8


def test_rows_beyond_the_vocabulary_are_never_said(tiny_model):
    assert tiny_model.llm.vocab_size > len(tiny_model.llm.tokenizer), "the test needs a padded vocabulary"
    session = Session(tiny_model)
    session.prefill([prompt(tiny_model, "a")])
    assert session.next_logits[:, len(tiny_model.llm.tokenizer) :].isneginf().all()


def test_nucleus_sampling_keeps_the_smallest_set_that_reaches_top_p():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(4000, 1)
    generator = torch.Generator().manual_seed(0)
    drawn = sample_next(logits, GenerationConfig(temperature=1.0, top_p=0.75), generator)
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(share, torch.tensor([0.625, 0.375, 0, 0]), atol=0.03, rtol=0)
    assert set(sample_next(logits, GenerationConfig(temperature=1.0, top_p=1e-6), generator).tolist()) == {0}
    cold = sample_next(logits, GenerationConfig(temperature=0.05), generator)
    assert (cold == 0).float().mean() > 0.99


def test_seed_decides_the_draw(tiny_model):
    def draw(seed):
        return answer(tiny_model, [prompt(tiny_model, "a")], decoding=GenerationConfig(12, 1.0, 1.0, seed))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize("chunk", [1, 3, 16, 30, 1000])
def test_a_prompt_in_pieces_equals_the_whole(tiny_model, chunk):
    """Two prompts of different length with an image each; the state of an earlier turn is continued."""
    pixels = images(2)
    samples = [prompt(tiny_model, q, p) for q, p in zip(("red?", "is there a circle?"), pixels, strict=True)]
    sessions = [Session(tiny_model), Session(tiny_model, prefill_chunk=chunk)]
    for session in sessions:
        session.prefill(samples, pixels)
        session.prefill([prompt(tiny_model, "and?"), prompt(tiny_model, "what color is it?")])
    whole, pieces = sessions
    torch.testing.assert_close(pieces.next_logits, whole.next_logits, rtol=1e-4, atol=1e-5)
    for a, b in zip(pieces.state, whole.state, strict=True):
        torch.testing.assert_close(a.ssm, b.ssm, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(a.conv, b.conv, rtol=1e-4, atol=1e-6)


def test_pieces_have_the_size_asked_for(tiny_model, monkeypatch):
    """The first may be shorter: those that follow can be the same CUDA graph. The size counts all conversations."""
    shapes, prefill = [], tiny_model.prefill
    monkeypatch.setattr(
        tiny_model, "prefill", lambda x, *a: shapes.append(tuple(x.shape[:2])) or prefill(x, *a)
    )
    (pixels,) = images(1)
    sample = prompt(tiny_model, "is there a circle?", pixels)
    Session(tiny_model, prefill_chunk=10).prefill([sample] * 2, [pixels] * 2)
    length, rest = len(sample), len(sample) % 5 or 5
    assert shapes == [(2, rest)] + [(2, 5)] * ((length - rest) // 5)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
def test_images_in_pieces_equal_the_whole_bit_by_bit(tiny_model, monkeypatch, chunk):
    """Two prompts, one with an image and one with the frames of a video; each fork goes on in pieces of this size."""
    pixels = images(6)
    video = ImageViews(torch.stack(pixels[1:]))
    samples = [prompt(tiny_model, "red?", pixels[0]), prompt(tiny_model, "is there a circle?", video)]
    counts, encode = [], tiny_model.encode_images
    monkeypatch.setattr(tiny_model, "encode_images", lambda x: counts.append(len(x)) or encode(x))
    whole, pieces = Session(tiny_model), Session(tiny_model, image_chunk=chunk)
    whole.prefill(samples, [pixels[0], video])
    assert counts == [6]
    counts.clear()
    yielded = list(pieces.prefill_parts(samples, [pixels[0], video]))
    assert counts == [chunk] * (6 // chunk) + ([6 % chunk] if 6 % chunk else [])
    assert yielded == [0] * len(counts) + [max(map(len, samples))]
    assert torch.equal(pieces.next_logits, whole.next_logits)
    for a, b in zip(pieces.state, whole.state, strict=True):
        assert torch.equal(a.ssm, b.ssm)
        assert torch.equal(a.conv, b.conv)
    for session in (pieces.fork(), pieces.expand(1), Session.join([pieces, pieces])):
        assert session.image_chunk == chunk


@pytest.mark.parametrize("chunk", [0, -1, 2.5, True, "4"])
@pytest.mark.parametrize("name", ["prefill_chunk", "image_chunk"])
def test_what_is_no_number_of_positions_or_images_is_refused(tiny_model, name, chunk):
    with pytest.raises(UserError, match=rf"{name} is .*at least 1, or None"):
        Session(tiny_model, **{name: chunk})


def test_a_prompt_that_fails_halfway_is_not_read_at_all(tiny_model, monkeypatch):
    """As when memory runs out: the conversation goes on from before it."""
    first, second = prompt(tiny_model, "is there a b?"), prompt(tiny_model, "and a longer one?")
    session, plain = Session(tiny_model, prefill_chunk=4), Session(tiny_model, prefill_chunk=4)
    session.prefill([first])
    plain.prefill([first])
    calls, prefill = [], tiny_model.prefill

    def fail_at_the_third(x, *rest):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return prefill(x, *rest)

    monkeypatch.setattr(tiny_model, "prefill", fail_at_the_third)
    with pytest.raises(RuntimeError, match="out of memory"):
        session.prefill([second])
    monkeypatch.undo()
    assert torch.equal(session.next_logits, plain.next_logits)
    for each in (session, plain):
        each.prefill([second])
    assert torch.equal(session.next_logits, plain.next_logits)


def test_a_fork_and_its_origin_go_on_alone(tiny_model):
    """From the same position, also in the middle of an answer: neither sees what the other reads or generates."""
    (pixels,) = images(1)
    session = Session(tiny_model)
    session.prefill([prompt(tiny_model, "what color is the shape?", pixels)], [pixels])
    expected = session.fork().generate(LONG)
    asked = session.fork()
    asked.prefill([prompt(tiny_model, "and?")])
    asked.generate(LONG)
    assert session.fork().generate(LONG) == expected
    tokens = session.tokens(LONG)
    first = [next(tokens) for _ in range(3)]
    fork = session.fork()
    before = fork.next_logits.clone()
    rest = list(tokens)
    assert torch.equal(fork.next_logits, before)
    assert [*first, *rest] == list(_greedy(tiny_model, pixels))
    assert Session(tiny_model).fork().state is None


def _greedy(model, pixels):
    session = Session(model)
    session.prefill([prompt(model, "what color is the shape?", pixels)], [pixels])
    return session.tokens(LONG)


def test_a_token_that_fails_is_not_read(tiny_model, monkeypatch):
    """Neither by the state nor by the logits, which belong to each other."""
    session = Session(tiny_model)
    session.prefill([prompt(tiny_model, "a?")])
    before = session.state

    def fail(hidden):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(tiny_model.llm, "logits", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(session.tokens(LONG))
    assert session.state is before
