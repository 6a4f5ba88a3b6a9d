"""Decoding: equal to recomputing everything, to singles in a batch, and to what was asked for."""

from itertools import islice

import pytest
import torch

from vlm_core.errors import UserError
from vlm_core.generation.conversation import Conversation
from vlm_core.generation.generate import Session, answer
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.generation.sampling import sample as sample_next
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
    """A graph decoder by plain calls."""

    def __init__(self, llm, sampler):
        self.llm, self.sampler, self.steps, self.closed = llm, sampler, 0, 0
        self.generator = torch.Generator()

    def start(self, state, ids, generator):
        self.history, self.ids = [(state, None)], ids
        self.generator.set_state(generator.get_state())

    @torch.inference_mode()
    def step(self):
        hidden, state = self.llm(self.llm.embed(self.ids.unsqueeze(1)), state=self.history[-1][0])
        logits = self.llm.logits(hidden[:, -1])
        chosen = self.sampler(logits, self.generator)
        self.ids = chosen.clamp(min=0)
        self.history, self.steps = [self.history[-1], (state, logits)], self.steps + 1
        return chosen.tolist

    def logits(self, *, ahead):
        return self.history[-1 - ahead][1].clone()

    def state(self, *, ahead):
        return self.history[-1 - ahead][0].clone()

    def close(self):
        self.closed += 1


@pytest.fixture
def decoders(tiny_model, monkeypatch):
    made = []
    make = lambda state, sampler: made.append(Counted(tiny_model.llm, sampler)) or made[-1]  # noqa: E731
    monkeypatch.setattr(tiny_model.llm, "cuda_graph_decoder", make)
    return made


def generated(model, decoding, stop=None):
    """Tokens (up to `stop`), state and logits after them, and the state after another prompt."""
    (pixels,) = images(1)
    sample = prompt(model, "is there a circle?", pixels)
    session = Session(model)
    session.prefill([sample], [pixels])
    ids = list(islice(session.tokens(decoding), stop))
    state, logits = session.state, session.next_logits
    session.prefill([sample], [pixels])
    return ids, logits, [state, session.state, session.expand(2).state]


def assert_same(found, wanted):
    (ids, logits, states), (same, others, like) = found, wanted
    assert ids == same
    torch.testing.assert_close(logits, others)
    for before, after in zip(states, like, strict=True):
        for a, b in zip(before, after, strict=True):
            torch.testing.assert_close(a.ssm, b.ssm)
            torch.testing.assert_close(a.conv, b.conv)


@pytest.mark.parametrize("stop", [None, 1, 6, 7])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_of_a_graph_are_the_same_and_leave_their_state(tiny_model, monkeypatch, temperature, stop):
    """A graph begins after a few tokens and runs one ahead of the reader, who may stop at any of them."""
    decoding = GenerationConfig(max_new_tokens=9, temperature=temperature)
    wanted = generated(tiny_model, decoding, stop)
    made = []
    make = lambda state, sampler: made.append(Counted(tiny_model.llm, sampler)) or made[-1]  # noqa: E731
    monkeypatch.setattr(tiny_model.llm, "cuda_graph_decoder", make)
    assert_same(generated(tiny_model, decoding, stop), wanted)
    read = len(wanted[0]) - 5  # by the graph
    assert [(d.steps, d.closed) for d in made] == ([] if read <= 0 else [(read + (stop is not None), 1)])


def test_a_graph_stops_at_the_end_of_the_answer(tiny_model, decoders, monkeypatch):
    """The token that was computed ahead is dropped."""
    eos, config = tiny_model.llm.tokenizer.eos_id, GenerationConfig(max_new_tokens=20)
    session = Session(tiny_model)
    session.prefill([prompt(tiny_model, "a")])
    monkeypatch.setattr("vlm_core.generation.generate.sample", lambda *_: torch.tensor([5]))
    script = iter([6, eos, 7, 8])
    monkeypatch.setattr(
        "vlm_core.generation.sampling.TokenSampler.__call__", lambda *_: torch.tensor([next(script)])
    )
    assert list(session.tokens(config)) == [[5]] * 5 + [[6], [eos]]
    assert next(script) == 8, "one token ahead"
    assert decoders[0].closed == 1
    state = session.state
    fresh = Session(tiny_model)
    fresh.prefill([prompt(tiny_model, "a")])
    for token in [5] * 5 + [6]:
        fresh._decode_token(torch.tensor([token]))
    for a, b in zip(state, fresh.state, strict=True):
        torch.testing.assert_close(a.ssm, b.ssm)


def test_damaged_logits_stop_a_graph(tiny_model, decoders, monkeypatch):
    session = Session(tiny_model)
    session.prefill([prompt(tiny_model, "a")])
    monkeypatch.setattr("vlm_core.generation.generate.sample", lambda *_: torch.tensor([5]))
    nan = lambda self, hidden: torch.full((len(hidden), self.vocab_size), torch.nan)  # noqa: E731
    monkeypatch.setattr(type(tiny_model.llm), "logits", nan)
    with pytest.raises(UserError, match="not finite"):
        list(session.tokens(GenerationConfig(max_new_tokens=9, temperature=1.0)))


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
