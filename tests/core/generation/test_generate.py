"""Decoding: equal to recomputing everything, to singles in a batch, and to what was asked for."""

import pytest
import torch

from vlm_core.generation.conversation import Conversation
from vlm_core.generation.generate import GenerationConfig, Session, answer
from vlm_core.generation.generate import sample as sample_next
from vlm_core.io.images import load_image
from vlm_core.text.render import IMAGE, Message, render
from vlm_core.text.template import TEMPLATES
from vlm_ssm.layers import decode

SHORT = TEMPLATES["short"]
LONG = GenerationConfig(max_new_tokens=8)


def prompt(model, text, image=None):
    parts = (IMAGE, "\n", text) if image is not None else (text,)
    counts = [model.image_tokens(image)] if image is not None else []
    return render(SHORT, [Message("user", parts)], model.llm.tokenizer, counts)


def images(count):
    return list(torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


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
    assert answer(tiny_model, samples, [one, two], views=[1, 0, 1]) == expected
    assert seen == [2]


def test_stops_at_eos_and_at_the_limit(tiny_model, monkeypatch):
    eos = tiny_model.llm.tokenizer.eos_id
    script = iter([[5, 5], [eos, 6], [7, 7], [8, eos]])
    monkeypatch.setattr("vlm_core.generation.generate.sample", lambda *_: torch.tensor(next(script)))
    session = Session(tiny_model)
    session.prefill([prompt(tiny_model, "a"), prompt(tiny_model, "b")])
    assert list(session.tokens(LONG)) == [[5, 5], [eos, 6], [None, 7], [None, eos]]
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


def test_conversation_remembers_without_reading_twice(tiny_model, tmp_path):
    """Two turns fed piece by piece leave the model where the whole dialogue, fed at once, leaves it."""
    from PIL import Image

    Image.radial_gradient("L").save(tmp_path / "x.png")
    talk = Conversation(tiny_model, SHORT)
    talk.show(tmp_path / "x.png")
    first = "".join(talk.ask("is there a circle?", LONG))
    list(talk.ask("red?", LONG))
    said = talk.session.state

    pixels = tiny_model.encoder.transform(load_image(tmp_path / "x.png"))
    session = Session(tiny_model)
    session.prefill([prompt(tiny_model, "is there a circle?", pixels)], [pixels])
    one = [row[0] for row in session.tokens(LONG)]
    eos = tiny_model.llm.tokenizer.eos_id
    sample = prompt(tiny_model, "is there a circle?", pixels)
    sample.append_text(one[:-1] if one[-1] == eos else one, False)
    talk = [Message("user", (IMAGE, "\n", "is there a circle?")), Message("assistant", (first,))]
    rest = render(SHORT, [*talk, Message("user", ("red?",))], tiny_model.llm.tokenizer, resume=True)
    assert rest.input_ids[0] == eos
    sample.extend(rest)
    whole = Session(tiny_model)
    whole.prefill([sample], [pixels])
    list(whole.tokens(LONG))
    for a, b in zip(said, whole.state, strict=True):
        torch.testing.assert_close(a.ssm, b.ssm, rtol=1e-4, atol=1e-6)


def test_unfinished_characters_are_held_back(tiny_model, monkeypatch):
    """A character of several tokens is shown once, whole."""
    tokenizer = tiny_model.llm.tokenizer
    script = iter([*tokenizer.encode(" naïve 🐍"), tokenizer.eos_id])
    monkeypatch.setattr("vlm_core.generation.generate.sample", lambda *_: torch.tensor([next(script)]))
    pieces = list(Conversation(tiny_model, SHORT).ask("?", GenerationConfig(40)))
    assert "".join(pieces) == "naïve 🐍"
    assert all("\ufffd" not in piece for piece in pieces)


def test_a_character_cut_off_at_the_limit_is_shown_as_what_it_is(tiny_model, monkeypatch):
    script = iter(tiny_model.llm.tokenizer.encode(" 🐍"))
    monkeypatch.setattr("vlm_core.generation.generate.sample", lambda *_: torch.tensor([next(script)]))
    assert "".join(Conversation(tiny_model, SHORT).ask("?", GenerationConfig(3))) == "\ufffd"


@pytest.mark.parametrize("text", ["<image>", "<|endoftext|>", "a <image> b <|endoftext|>"])
def test_what_a_user_types_stays_text(tiny_model, text):
    sample = prompt(tiny_model, text)
    assert tiny_model.llm.tokenizer.eos_id not in sample.input_ids
    assert not any(sample.image_mask)
    assert text in tiny_model.llm.tokenizer.decode(sample.input_ids)


class Counted:
    """What a GPU records, by plain calls."""

    def __init__(self, llm, state):
        self.llm, self.after, self.calls = llm, state, 0

    def __call__(self, ids):
        hidden, self.after = self.llm(self.llm.embed(ids.unsqueeze(1)), state=self.after)
        self.calls += 1
        return self.llm.logits(hidden[:, -1])

    def state(self):
        return self.after.clone()


def test_recorded_tokens_are_the_same_and_leave_their_state(tiny_model, monkeypatch):
    """Recording begins after a few tokens, and what is fed next continues from its state."""
    (pixels,), made, recordings = images(1), [], []
    sample = prompt(tiny_model, "is there a circle?", pixels)
    for recording in (False, True):
        if recording:
            make = lambda state: recordings.append(Counted(tiny_model.llm, state)) or recordings[-1]  # noqa: E731
            monkeypatch.setattr(tiny_model.llm, "cuda_graph_decoder", make)
        session = Session(tiny_model)
        session.prefill([sample], [pixels])
        said = list(session.tokens(GenerationConfig(max_new_tokens=9, temperature=1.0)))
        state = session.state
        session.prefill([sample], [pixels])
        made.append((said, state, session.state, session.expand(2).state))
    (said, *states), (same, *others) = made
    assert said == same
    assert [r.calls for r in recordings] == [len(said) - 1 - 4]
    for before, after in zip(states, others, strict=True):
        for a, b in zip(before, after, strict=True):
            torch.testing.assert_close(a.ssm, b.ssm)
            torch.testing.assert_close(a.conv, b.conv)
